"""What a run of text-to-3D is going to take: memory from sizes, time from a step or two of a copy."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch

from ...guidance import LatentDiffusionPrior
from ...nerf import LatentField
from ...runs.distributed import on_this_device
from ...runs.expectation import Expectation, rehearsed, seconds_of
from ...runs.flags import how_to_set, one_of
from ..memory import encoder_bytes, expectation, held_bytes, optimised_bytes, prior_bytes
from .dream_fields import DreamFieldsTrainer
from .guide import ClipGuide
from .refinement import check_vae
from .scene import Scene, background_of, field_of, occupancy_of
from .scene_trainer import SceneTrainer
from .sections import DreamFields, HashGridOptions, PriorGuided, TextTo3D, VoxelOptions
from .trainer import Trainer

C = TypeVar("C", bound=TextTo3D)

# Where it is not known which part of a run has not found memory.
TO_LOWER = (
    "--size, --views, --supersample, --steps-per-ray, --noises, --refinement-size, (jacobian-nerf) --voxels or "
    "(dream-fields) --crops"
)
# The settings that each part of the memory grows with.
GOVERNED = {
    "rays": ("size", "views", "supersample", "steps_per_ray"),
    "UNet": ("size", "views", "settings.noises"),
    "feature matching": ("size", "views"),
    "encoder": ("size", "refinement.views"),
    "rays of the refinement": ("refinement.size", "refinement.views", "steps_per_ray"),
    "UNet of the refinement": ("size", "refinement.views", "settings.noises"),
    "feature matching of the refinement": ("size", "refinement.views"),
    "occupancy": ("occupancy.resolution",),
    "update of the occupancy": ("occupancy.resolution",),
}
OF_CLIP = {"CLIP": ("augmentation.crops", "views")}
FIELDS = {HashGridOptions: ("field.log2_table_size", "field.levels"), VoxelOptions: ("field.resolution",)}
# Bytes that a sample along a ray keeps until its backward, beside the encoding; and the share of a diagonal's steps
# that lie in the box, of the cameras' rays. On a GPU nothing waits for the number of samples: there is room for all.
SAMPLE, IN_THE_BOX = 80, 0.36
# Bytes of a cell while the occupancy grid is renewed (measured as in benchmarks/memory.py, 256³ cells).
RENEWED = 28
# Channels in float32 of CLIP's size that a crop takes beside CLIP, itself and backgrounds among them (measured alike).
CROP = 9
# A copy of a run that does not fit has no more than this.
SMALL = {"views": 1, "supersample": 1, "steps_per_ray": 64}
SMALL_TABLE, SMALL_GRID, SMALL_PICTURE = 14, 32, 64


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Numbers of what a scene is made of."""

    parameters: int
    encoded: int
    cells: int
    occupancy_bytes: int


def _sizes(c: TextTo3D, channels: int) -> _Sizes:
    # On this device nothing is allocated, and the modules say themselves how large they are.
    with torch.device("meta"):
        field, background, occupancy = field_of(c.field, channels), background_of(c, channels), occupancy_of(c)
    modules = [field] if background is None else [field, background]
    return _Sizes(
        parameters=sum(p.numel() for module in modules for p in module.parameters()),
        encoded=field.grid.n_outputs if isinstance(field, LatentField) else 1 + channels,
        cells=0 if occupancy is None else occupancy.average.numel(),
        occupancy_bytes=0 if occupancy is None else sum(x.numel() * x.element_size() for x in occupancy.buffers()),
    )


def memory(configuration: TextTo3D, prior: LatentDiffusionPrior | ClipGuide, world: int = 1) -> dict[str, int]:
    """Bytes of a step at its highest point, beside the networks, by what they are for.

    Args:
        configuration: of the run.
        prior: with its networks; or CLIP.
        world: how many ranks share a step's views; the bytes are those of the one that has the most.

    Raises:
        UsageError: the configuration needs a VAE that the prior lacks, or one that is not known.
        ValueError: a number that the field or the occupancy grid does not take.
    """
    c, sizes = share(configuration, world), _sizes(configuration, prior.latent_shape[0])
    share_of_steps = 1.0 if prior.device.type == "cuda" else IN_THE_BOX

    def rays(views: int, side: int) -> int:
        return int(views * side**2 * c.steps_per_ray * share_of_steps * (SAMPLE + 4 * sizes.encoded))

    side, seen = (c.size, c.size), {"rays": rays(c.views, c.size * c.supersample)}
    held = {"field": optimised_bytes(sizes.parameters), "occupancy": sizes.occupancy_bytes}
    renewed = {"update of the occupancy": RENEWED * sizes.cells}
    if isinstance(prior, ClipGuide):
        assert isinstance(c, DreamFields)
        crop = prior.crop_bytes + CROP * 4 * prior.clip.image_size**2
        # Of one view after another: the graph of one is gone before the next is looked at.
        looked = {**seen, "CLIP": c.augmentation.crops * crop}
        return {**held, **_largest([looked, renewed])}
    assert isinstance(c, PriorGuided)
    latents = {**seen, **prior_bytes(prior, c.settings, c.views, side)}
    # At most one of these is there at a time.
    stages = [latents, renewed]
    if c.refinement is not None:
        check_vae(prior)
        views = c.refinement.views
        # The prior's gradient of an encoded picture takes what that of any latents takes.
        gradient = prior_bytes(prior, c.settings, views, side)
        stages.append(
            {
                "rays of the refinement": rays(views, c.refinement.size),
                "encoder": encoder_bytes(prior, views, c.size * prior.pixels_per_latent),
                **{f"{name} of the refinement": count for name, count in gradient.items()},
            }
        )
    return {**held, **_largest(stages)}


def _largest(stages: Sequence[dict[str, int]]) -> dict[str, int]:
    return max(stages, key=lambda stage: sum(stage.values()))


def share(configuration: C, world: int) -> C:
    """A configuration whose views are those of the first rank, which has the most; see `Trainer.advance`."""
    if world == 1:
        return configuration
    less: dict[str, Any] = {"views": -(-configuration.views // world)}
    if configuration.refinement is not None:
        views = -(-configuration.refinement.views // world)
        less["refinement"] = dataclasses.replace(configuration.refinement, views=views)
    return dataclasses.replace(configuration, **less)


def expect(trainer: Trainer | DreamFieldsTrainer) -> Expectation:
    """What the steps that are left take; a step or two of a copy are made, if there is memory for the copy.

    Of several ranks the first one rehearses its share of the views. Sending gradients to each other is not counted.
    """
    prior: Any = trainer.prior
    needed = memory(trainer.configuration, prior, trainer.world)
    beside = {
        **needed,
        "field": max(0, needed["field"] - held_bytes(trainer.scene.parameters(), trainer.optimizer)),
        "occupancy": 0,
    }
    found = expectation(prior, beside, ranks=on_this_device(prior.device, trainer.world))
    if expectation(prior, needed).fits:
        found = dataclasses.replace(found, seconds=rehearsed(lambda: _left(trainer), prior.device))
    return found


def check_fits(configuration: TextTo3D, prior: LatentDiffusionPrior | ClipGuide, world: int = 1) -> None:
    """Checks that there is memory for a run's steps, before any of it is allocated.

    Args:
        configuration: of the run.
        prior: with its networks; or CLIP.
        world: how many ranks share a step's views.

    Raises:
        UsageError: there is not; says how much memory and time it would take, and what to lower. Or see `memory`.
        ValueError: see `memory`.
    """
    ranks = on_this_device(prior.device, world)
    found = expectation(prior, memory(configuration, prior, world), ranks=ranks)
    if not found.fits:
        seconds = rehearsed(lambda: _of_a_small_one(share(configuration, world), prior), prior.device)
        raise dataclasses.replace(found, seconds=seconds).refusal(f"lower {to_lower(configuration, found.largest)}")


def to_lower(configuration: TextTo3D, parts: list[str]) -> str:
    """The flags and settings that govern parts of the memory, such as `--size, --views or --supersample`.

    What is at its lowest already is left out, unless it is all that there is.

    Args:
        configuration: of the run.
        parts: keys of `memory`.
    """
    governed = {**GOVERNED, **OF_CLIP, "field": FIELDS[type(configuration.field)]}
    places = list(dict.fromkeys(place for part in parts for place in governed[part]))
    above = [place for place in places if operator.attrgetter(place)(configuration) > 1]
    names = [how_to_set(type(configuration), place) for place in above or places]
    return one_of(names)


def _left(trainer: Trainer | DreamFieldsTrainer) -> float:
    prior: Any = trainer.prior
    c = _updated_at_each_step(share(trainer.configuration, trainer.world))
    every = trainer.configuration.occupancy.every if trainer.configuration.occupancy else 1
    copy = trainer.alike(Scene(c, prior))
    if trainer.step:
        copy.load_state(trainer.state(), {**trainer.facts(), "step": str(trainer.step)})
    latents = max(0, trainer.steps - trainer.step)
    refined = trainer.total - trainer.step - latents
    seconds = 0.0
    if latents:
        seconds += latents * _in_the_mean(_parts_of_step(copy, trainer.step), every)
    if refined:
        if not copy.scene.refined:
            seconds += 4 * seconds_of(functools.partial(_fit_a_quarter, copy.scene), prior.device)
            copy.optimizer = copy.make_optimizer()
        seconds += refined * _in_the_mean(_parts_of_step(copy, max(trainer.step, trainer.steps)), every)
    return seconds


def _fit_a_quarter(scene: Scene) -> None:
    scene.refined = False
    scene.begin_refinement(4)


def _updated_at_each_step(c: TextTo3D) -> TextTo3D:
    """Has a rehearsed step contain what happens at some steps only."""
    return c if c.occupancy is None else dataclasses.replace(c, occupancy=dataclasses.replace(c.occupancy, every=1))


def _in_the_mean(spent: dict[str, float], every: int) -> float:
    return sum(seconds / (every if name == "occupancy" else 1) for name, seconds in spent.items())


def _parts_of_step(trainer: SceneTrainer, at: int) -> dict[str, float]:
    """Seconds of the parts of step `at`, by the names that `Trainer.advance` gives them; `rest` is between them."""
    device, spent = trainer.device, dict[str, float]()

    def waited() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        started = waited()
        yield
        spent[name] = waited() - started

    def step() -> None:
        spent.clear()
        # The same one twice: the one after it may be of another stage, or beyond the last.
        trainer.scene.step = at
        trainer.advance(part)

    whole = seconds_of(step, device)
    return {**spent, "rest": whole - sum(spent.values())}


def _of_a_small_one(c: TextTo3D, prior: LatentDiffusionPrior | ClipGuide) -> float:
    """All steps' time, from a step of each stage with few rays and latents: what is computed grows with their number.

    The fit between the stages is left out, which is the work of some steps.
    """
    less = _smaller(c, prior.latent_shape[1])
    if not expectation(prior, memory(less, prior)).fits:
        raise MemoryError("not even a small one fits")
    trainer: SceneTrainer
    if isinstance(prior, ClipGuide):
        assert isinstance(less, DreamFields)
        trainer = DreamFieldsTrainer(Scene(less, prior), ClipGuide(prior.clip, less))
    else:
        trainer = Trainer(Scene(less, alone := prior.with_settings(noises=1)), alone)
    seconds = c.steps * _grown(_parts_of_step(trainer, 0), c, less, trainer)
    if c.refinement is not None:
        trainer.scene.begin_refinement(4)
        trainer.optimizer = trainer.make_optimizer()
        seconds += c.refinement.steps * _grown(_parts_of_step(trainer, less.steps), c, less, trainer)
    return seconds


def _smaller(c: TextTo3D, size: int) -> TextTo3D:
    small: dict[str, Any] = {name: min(getattr(c, name), most) for name, most in SMALL.items()}
    small["size"] = min(c.size, SMALL_PICTURE if isinstance(c, DreamFields) else size)
    if isinstance(c, PriorGuided):
        small["settings"] = dataclasses.replace(c.settings, noises=1)
    elif isinstance(c, DreamFields):
        side = min(c.augmentation.side, small["size"])
        small["augmentation"] = dataclasses.replace(c.augmentation, crops=1, side=side)
    if isinstance(c.field, VoxelOptions):
        small["field"] = dataclasses.replace(c.field, resolution=min(c.field.resolution, SMALL_GRID))
    else:
        small["field"] = dataclasses.replace(c.field, log2_table_size=min(c.field.log2_table_size, SMALL_TABLE))
    if c.occupancy is not None:
        resolution = min(c.occupancy.resolution, SMALL_GRID)
        small["occupancy"] = dataclasses.replace(c.occupancy, resolution=resolution, every=1)
    if c.refinement is not None:
        side = min(c.refinement.size, SMALL_PICTURE)
        small["refinement"] = dataclasses.replace(c.refinement, views=1, size=side)
    return dataclasses.replace(c, **small)


def _work(c: TextTo3D, refined: bool, channels: int) -> dict[str, float]:
    """What the time of each part of a step grows with."""
    views, side = c.views, c.size * c.supersample
    if refined and c.refinement is not None:
        views, side = c.refinement.views, c.refinement.size
    sizes = _sizes(c, channels)
    rays, latents = views * side**2, views * c.size**2
    found = {
        "render": rays * c.steps_per_ray,
        "optimiser": sizes.parameters,
        "occupancy": sizes.cells / (c.occupancy.every if c.occupancy else 1),
    }
    if isinstance(c, DreamFields):
        return {**found, "clip": views * c.augmentation.crops}
    assert isinstance(c, PriorGuided)
    # The decoder's part does not grow with the noises: too long rather than too short.
    return {**found, "regularisers": rays, "encoder": latents, "prior": latents * c.settings.noises}


def _grown(spent: dict[str, float], c: TextTo3D, less: TextTo3D, trainer: SceneTrainer) -> float:
    """Seconds of a step of `c`, from those that the parts of a step of `less` took."""
    refined, channels = trainer.scene.refined, trainer.scene.prior.latent_shape[0]
    here, there = (_work(x, refined, channels) for x in (less, c))
    grown = {name: spent[name] * there[name] / here[name] for name in here if here[name]}
    # Backwards through renderer and encoder it takes as many times longer as forwards.
    forwards = [sum(times.get(name, 0.0) for name in ("render", "encoder")) for times in (spent, grown)]
    return sum(grown.values()) + spent["backward"] * forwards[1] / forwards[0] + spent["rest"]
