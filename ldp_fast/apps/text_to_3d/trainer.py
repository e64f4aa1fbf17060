"""One step of text-to-3D after another: views, prior, regularisers, optimiser.

What a step draws comes from (seed, step, view) alone. So a resumed run continues the same run, and ranks that split the
views of a step do together what one would do alone, up to the order of a sum.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...guidance import LatentDiffusionPrior, TimestepSampler
from ...guidance.inputs import mean_over_noises, stack_noises
from ...nerf import Cameras, FusedAdam, RenderOutput
from ...runs import checkpoints, distributed
from ...runs.experiment import Part, Products, as_subject, untimed
from ...runs.seeds import mixed_generator
from ...schedules import cosine_decay
from .cameras import as_cameras, direction_of
from .mesh import export_mesh
from .pictures import products as pictures
from .regularisers import hollowness, regularisers
from .scene import Scene, apply_scene_state, scene_state
from .sections import REGULARISERS, VoxelOptions

MESH_FILES = ("mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.json")
TERMS = ("lsd", "fm", "kl", "norm_lsd", "norm_fm", "norm_kl")


def view_generator(seed: int, step: int, view: int) -> torch.Generator:
    """The generator of one view of one step, the same on every machine."""
    return mixed_generator(seed, step, view)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """What one view of one step draws."""

    camera: tuple[float, float, float, float]
    direction: int
    shade: Tensor
    jitter: int
    timestep: Tensor
    noise: Tensor
    behind: Tensor | None


class Trainer:
    """Optimises a scene under the prior.

    Args:
        scene: what is optimised.
        prior: with `batch_reduction="sum"`.
        rank, world: which share of a step's views is this process's; with a world above 1 gradients are summed over the
            default process group.

    Attributes:
        losses, shown: see `Experiment`.
        step: steps done.
        total: steps there are, the refinement's included.
        columns: names of what is recorded a step.
    """

    losses = ("lsd", "fm", "kl", *REGULARISERS)
    shown = ("lsd", "fm", "kl")

    def __init__(self, scene: Scene, prior: LatentDiffusionPrior, *, rank: int = 0, world: int = 1):
        self.scene, self.prior, self.rank, self.world = scene, prior, rank, world
        self.configuration = c = scene.configuration
        self.device = prior.device
        self.steps = c.steps
        self.total = self.steps + (c.refinement.steps if c.refinement else 0)
        self.heights: dict[str, float] = prior.notes.get("heights", {})
        self.directions = scene.ranges.directions(self.heights)
        prompts = [f"{c.prompt}, {name} view" if c.view_prompts else c.prompt for name in self.directions]
        self.text = prior.encode_prompt(prompts, c.negative_prompt or None)
        limits, count = prior.settings.timestep_range, len(prior.schedule)
        if c.sigma_range is not None:
            lowest, highest = prior.schedule.between_sigmas(*c.sigma_range)
            limits = ((lowest + 0.5) / count, (highest + 0.5) / count)
        self.sampler = TimestepSampler(count, *limits, prior.settings.anneal_to)
        self.columns = (*TERMS, *c.regularisers, "opacity_mean", "samples", "learning_rate", "gradient_norm")
        self.optimizer = self.make_optimizer()
        hollow = c.regularisers.get("hollowness")
        self._looks_behind = hollow is not None and any((hollow.first, hollow.last))
        self._rows: list[Tensor] = []
        scene.train()

    @property
    def step(self) -> int:
        """Steps done."""
        return self.scene.step

    @property
    def history(self) -> Tensor:
        """[steps so far, len(columns)] float32; reading it synchronises with the device."""
        return torch.stack(self._rows).cpu() if self._rows else torch.zeros(0, len(self.columns))

    def latest(self) -> dict[str, float]:
        """What the last step recorded."""
        return dict(zip(self.columns, self._rows[-1].tolist(), strict=True))

    def progress(self) -> float:
        """The fraction of this stage (latents, or the refinement) that is over."""
        if self.scene.refined:
            return (self.step - self.steps) / max(1, self.total - self.steps)
        return self.step / max(1, self.steps)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """A new one, of the parameters that this stage trains."""
        scene, options, refinement = self.scene, self.configuration.optimizer, self.configuration.refinement
        rate = refinement.learning_rate if scene.refined and refinement is not None else options.learning_rate
        groups: list[dict[str, Any]] = scene.field.parameter_groups(rate)  # type: ignore[operator]
        others = list(scene.background.parameters()) if scene.background is not None else []
        others += list(scene.to_rgb.parameters()) if scene.refined and scene.to_rgb is not None else []
        if others:
            groups.append({"params": others, "lr": rate})
        self._rates = [float(group["lr"]) for group in groups]
        if options.kind == "adamax":
            return torch.optim.Adamax(groups)
        return FusedAdam(groups, betas=(0.9, 0.99), eps=1e-15)

    def _rate_factor(self) -> float:
        """Constant for the first half, then a cosine down to the final rate."""
        return cosine_decay(self.progress(), self.configuration.optimizer.final_rate, 2)

    def advance(self, part: Part = untimed) -> None:
        """One step.

        Args:
            part: a context manager that is entered with the name of each part of the step, for a profile.
        """
        scene, c = self.scene, self.configuration
        if c.refinement and self.step == self.steps and not scene.refined and self.total > self.steps:
            scene.begin_refinement()
            distributed.share(scene.state_dict(), self.world)
            self.optimizer = self.make_optimizer()
        with part("occupancy"):
            self._update_occupancy()
        count = c.refinement.views if scene.refined and c.refinement is not None else c.views
        row = self._gradients(range(self.rank, count, self.world), count, part)
        with part("optimiser"):
            self._reduce_gradients(row)
            if isinstance(c.field, VoxelOptions) and c.field.smoothing is not None:
                scene.field.smooth_gradient(c.field.smoothing.at(self.progress()))  # type: ignore[operator]
            factor = self._rate_factor()
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norms = [p.grad.norm() for p in parameters if p.grad is not None]
            # Filled on the device: a number that is assigned may be copied there, for which a GPU is waited for.
            row[self.columns.index("learning_rate")].fill_(self._rates[0] * factor)
            if norms:
                row[self.columns.index("gradient_norm")] = torch.stack(norms).norm()
            self.optimizer.step()
            if not isinstance(self.optimizer, FusedAdam):
                self.optimizer.zero_grad()
        scene.step += 1
        self._rows.append(row)

    def _update_occupancy(self) -> None:
        grid, options = self.scene.occupancy, self.configuration.occupancy
        if grid is not None and options is not None and self.step % options.every == 0:
            grid.update(self.scene.field)  # type: ignore[arg-type]

    def _gradients(self, mine: Sequence[int], count: int, part: Part) -> Tensor:
        """Adds this process's share of the gradients; returns its share of what is recorded."""
        scene, prior, c = self.scene, self.prior, self.configuration
        if not mine:
            return self._row({}, 0.0)  # more processes than views: the refinement may have fewer
        drawn = [self._draw(view) for view in mine]
        with part("render"):
            cameras = [as_cameras([d.camera], prior.device) for d in drawn]
            rendered = [scene.training_view(at, d.jitter, d.shade) for at, d in zip(cameras, drawn, strict=True)]
        with part("encoder"):
            pictures = torch.cat([picture for picture, _ in rendered])
            latents = self._encode(pictures) if scene.refined else pictures
        timesteps = torch.cat([d.timestep for d in drawn]).to(prior.device, non_blocking=True)
        noise = stack_noises([d.noise for d in drawn]).to(prior.device, non_blocking=True)
        text = self.text.select(torch.tensor([d.direction for d in drawn]).to(prior.device, non_blocking=True))
        with part("prior"):
            gradient, statistics = prior.gradient(latents, text, timesteps=timesteps, noise=noise)
            if not c.variance_reduction:
                # SJC's other estimate, −(D − z) / σ = ε̂: the noise itself stays in the gradient.
                weight = prior.schedule.weight(timesteps, prior.settings.weighting)[:, None, None, None]
                mean = mean_over_noises(noise, prior.settings.noises)
                gradient = gradient + prior.settings.lambda_lsd * weight * mean
        loss = (latents * gradient).sum()
        found = {**statistics.terms, "fm": statistics.fm}
        row = self._row(found, len(drawn) / count)
        with part("regularisers"):
            for d, at, (_, out) in zip(drawn, cameras, rendered, strict=True):
                extra, values = self._regularise(out, d, at)
                loss = loss + extra
                values |= {"opacity_mean": out.opacity.detach().mean(), "samples": out.statistics.counts[0]}
                row += self._row(values, 1 / count)
        with part("backward"):
            (loss / count).backward()
        return row

    def _row(self, found: Mapping[str, Tensor], share: float) -> Tensor:
        row = torch.zeros(len(self.columns), device=self.prior.device)
        for name, value in found.items():
            if name in self.columns:
                row[self.columns.index(name)] = value.detach().float().mean() * share
        return row

    def _draw(self, view: int) -> _Drawn:
        scene, generator = self.scene, view_generator(self.configuration.seed, self.step, view)
        camera = scene.ranges.draw(generator)
        side, rays = scene.latent_size, scene.size * scene.rays_per_pixel
        noises = self.prior.settings.noises
        return _Drawn(
            camera=camera,
            direction=self.directions.index(direction_of(*camera[:2], self.heights)),
            shade=torch.rand(1, generator=generator).to(self.prior.device, non_blocking=True),
            jitter=int(torch.randint(2**31 - 1, (1,), generator=generator)),
            timestep=self.sampler.sample(1, torch.device("cpu"), generator, self.progress()),
            noise=torch.randn(noises, self.prior.latent_shape[0], side, side, generator=generator),
            # The last to be drawn: runs without it draw what they did before there was one.
            behind=torch.rand(1, 1, rays, rays, generator=generator).to(self.prior.device, non_blocking=True)
            if self._looks_behind
            else None,
        )

    def _regularise(self, out: RenderOutput, drawn: _Drawn, cameras: Cameras) -> tuple[Tensor, dict[str, Tensor]]:
        scene, ramps, radius = self.scene, self.configuration.regularisers, drawn.camera[2]
        rays = out.opacity[0].numel() / scene.latent_size**2
        hollow = None
        if drawn.behind is not None:
            hollow = hollowness(out, scene.field, scene.renderer.box, cameras, drawn.behind)
        extra, values = regularisers(out, ramps, self._stage(), radius - 1.0, radius + 1.0, rays, hollow)
        return extra.sum(), values

    def _stage(self) -> float:
        # In the refinement regularisers stay as they were at the end of the latents: without them fog comes back.
        return 1.0 if self.scene.refined else self.progress()

    def _encode(self, picture: Tensor) -> Tensor:
        # The encoder sees what people will see, colours that can be shown; the gradient passes: none gets stuck.
        picture = picture + (picture.detach().clamp(0, 1) - picture.detach())
        pixels = self.scene.latent_size * self.prior.pixels_per_latent
        if picture.shape[-1] != pixels:
            picture = torch.nn.functional.interpolate(picture, (pixels, pixels), mode="bilinear")
        return self.prior.encode(picture, sample=False)

    def _reduce_gradients(self, rows: Tensor) -> None:
        if self.world == 1:
            return
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        # One message for all of them.
        flat = torch.cat([*(p.grad.flatten() for p in parameters if p.grad is not None), rows])
        distributed.add(flat)
        at = 0
        for p in parameters:
            assert p.grad is not None
            p.grad.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()
        rows.copy_(flat[at:])

    def state(self) -> dict[str, Tensor]:
        """Scene, optimiser and history, on the CPU."""
        return {**scene_state(self.scene), **checkpoints.optimiser_state(self.optimizer), "history": self.history}

    def facts(self) -> dict[str, str]:
        """Whether the refinement has begun."""
        return {"refined": str(int(self.scene.refined))}

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Goes on from `state` and `facts`.

        Raises:
            ValueError: they do not fit; nothing is changed then.
        """
        apply_scene_state(self.scene, tensors, facts)
        self.optimizer = self.make_optimizer()
        checkpoints.load_optimiser_state(self.optimizer, tensors)
        self._rows = list(tensors["history"].to(self.prior.device))

    def about(self) -> dict[str, Any]:
        """The guidance scale, which the model may have chosen."""
        return {"guidance_scale": self.prior.guidance_scale}

    def not_finite(self) -> list[str]:
        """Losses and gradient of the last step that are not finite."""
        last = self.latest()
        return as_subject([name for name in (*self.shown, "gradient_norm") if not math.isfinite(last[name])])

    def preview(self) -> Tensor:
        """A row of decoded views."""
        return pictures.preview(self.scene)

    def products(self, folder: pathlib.Path) -> Products:
        """Pictures, film and mesh."""
        scene = self.scene.eval()

        def mesh() -> list[pathlib.Path]:
            print(f"mesh: {export_mesh(scene, folder)}")
            return [folder / name for name in MESH_FILES]

        return {
            "pictures": lambda: pictures.write_grids(scene, folder),
            "film": lambda: pictures.write_turntable(scene, folder, progress=True),
            "mesh": mesh,
        }

    def weights(self) -> dict[str, float]:
        """The λ's and regularisers' weights of this moment, for a log."""
        s = self.prior.settings
        found = {"lambda_fm": s.lambda_fm, "lambda_kl": s.lambda_kl, "lambda_lsd": s.lambda_lsd}
        weights = {name: ramp.at(self._stage()) for name, ramp in self.configuration.regularisers.items()}
        return {**found, **{f"weight_{name}": value for name, value in weights.items()}}
