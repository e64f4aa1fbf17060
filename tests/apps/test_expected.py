"""What a run is going to take: memory from sizes against what a process grows by, time from a copy; what is refused."""

import argparse
import ctypes
import dataclasses
import functools
import gc
import json
import pathlib
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import memory as growth
from ldp_fast.apps import memory
from ldp_fast.apps.options import load_prior
from ldp_fast.apps.synthesis import command as synthesis
from ldp_fast.apps.synthesis import expected as of_synthesis
from ldp_fast.apps.synthesis.run import ImageSynthesis
from ldp_fast.apps.text_to_3d import command, expected
from ldp_fast.apps.text_to_3d.run import begin
from ldp_fast.apps.text_to_3d.scene import Scene
from ldp_fast.apps.text_to_3d.sections import METHODS, TextTo3D
from ldp_fast.apps.text_to_3d.trainer import Trainer
from ldp_fast.cli import main
from ldp_fast.errors import UsageError

from ..support import processes


def configured(*words: str) -> TextTo3D:
    """The configuration that a command line makes."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.configure(parser.parse_args(["a red torus", *words]))


# In malloc.h, of what `growth.MALLOC` says: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX.
PARAMETERS = (-3, -1, -2, -4)
ALL = "--size, --views, --supersample or --steps-per-ray"
# One of each in which the networks, the encoder of the refinement, the rays and the field take the most.
LARGE = (
    ("--size", "24", "--refinement-steps", "0"),
    ("--size", "24", "--lambda-fm", "0", "--refinement-size", "32", "--refinement-steps", "2"),
    ("--lambda-fm", "0", "--steps-per-ray", "512", "--refinement-steps", "0"),
    ("--method", "jacobian-nerf", "--voxels", "128"),
)


def measured() -> int:
    """For a process of its own: by how much a first step with all that it makes lets the process grow, for each.

    What `growth.MALLOC` says is said here, after the imports, which would take three times as long under it.
    """
    libc = ctypes.CDLL(None)
    for parameter, value in zip(PARAMETERS, growth.MALLOC.values(), strict=True):
        assert libc.mallopt(parameter, int(value)) == 1
    prior = load_prior(configured())

    def step(*words: str) -> None:
        trainer = Trainer(Scene(configured(*words), prior), prior)
        if trainer.total > trainer.steps:
            trainer.scene.step, trainer.scene.refined = trainer.steps, True
            trainer.optimizer = trainer.make_optimizer()
        trainer.advance()

    def small() -> None:
        step("--size", "8", "--method", "jacobian-nerf")
        step("--size", "8", "--refinement-size", "16", "--refinement-steps", "2")

    def given_back() -> None:
        gc.collect()
        # Of what was freed before, no page is resident.
        libc.malloc_trim(0)

    small()
    found = [growth.growth_here(lambda words=words: (functools.partial(step, *words), given_back)) for words in LARGE]
    print(json.dumps([x.peak for x in found]))
    return 0


@pytest.mark.skipif(growth.missing("cpu") is not None, reason=str(growth.missing("cpu")))
def test_memory_is_about_what_a_process_grows_by() -> None:
    done = processes.Started(measured).wait()
    assert done.code == 0, done.err
    prior = load_prior(configured())
    for words, found in zip(LARGE, json.loads(done.out), strict=True):
        told = expected.memory(configured(*words), prior)
        assert 0.6 * found < sum(told.values()) < 1.6 * found, (words, told, found)


@pytest.mark.parametrize(
    ("words", "named", "flags"),
    [
        (["--size", "1000000"], "encoder", "--size"),
        (["--views", "100000000"], "feature matching", ALL),
        (["--noises", "10000000"], "UNet", "--size, --views or --noises"),
        (["--steps-per-ray", "1000000000"], "rays of the refinement", "--refinement-size or --steps-per-ray"),
        (["--supersample", "30000"], "rays", ALL),
        (["--size", "1000000", "--method", "jacobian-nerf"], "feature matching", ALL),
    ],
)
def test_what_cannot_fit_is_refused_with_time_and_memory(
    words: list[str], named: str, flags: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["text-to-3d", "a red torus", "--out", str(tmp_path / "run"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"this run needs about [\d,.]+ [GT]B \({named} [\d,.]+ [GT]B, ", line), line
    assert re.search(rf"and its steps would take about [\d,.e+]+ (day|year)s; lower {flags}$", line), line
    assert not (tmp_path / "run").exists()


def test_a_sweep_is_refused_before_its_first_job(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a red torus\n")
    assert main(["sweep", str(tmp_path / "prompts.txt"), "--views", "100000000", "--out", str(tmp_path / "out")]) == 2
    assert "there is not enough memory on cpu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 15 * 10**6)
    parser = argparse.ArgumentParser()
    synthesis.add_arguments(parser)
    configuration = synthesis.configure(parser.parse_args(["a red cube", "--seeds", "0", "1"]))
    with pytest.raises(UsageError, match=r"15 MB are free, and its steps .*; lower the number of prompts or --seeds$"):
        ImageSynthesis(configuration)


@pytest.mark.parametrize(
    ("words", "free", "said"),
    [
        (["--noises", "1000"], 20, r"\(UNet [\d,.]+ GB, .* its steps would take about .*; lower --noises$"),
        (["--noises", "1000", "--seeds", "0", "1"], 20, r"lower the number of prompts, --seeds or --noises$"),
        (["--noises", "2"], 5, r"\(feature matching .*; take --dtype bfloat16 or a smaller --model$"),
    ],
)
def test_images_of_many_noises(words: list[str], free: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--noises is named where the UNet is what takes the memory; the decoder sees their mean only."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: free * 10**6)
    parser = argparse.ArgumentParser()
    synthesis.add_arguments(parser)
    with pytest.raises(UsageError, match=said):
        ImageSynthesis(synthesis.configure(parser.parse_args(["a red cube", *words])))


def test_asking_changes_nothing() -> None:
    trainer = begin(configured("--steps", "3", "--refinement-steps", "2", "--size", "8"))
    before = {name: x.clone() for name, x in trainer.scene.state_dict().items()}
    seed = torch.get_rng_state()
    expected.expect(trainer)
    assert torch.equal(seed, torch.get_rng_state()) and trainer.step == 0 and len(trainer.history) == 0
    assert all(x.equal(before[name]) or x.isnan().all() for name, x in trainer.scene.state_dict().items())
    assert all(p.grad is None for p in trainer.scene.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_asking_in_the_middle_of_a_run_leaves_its_optimiser_alone(method: str) -> None:
    trainer = begin(configured("--method", method, "--steps", "3", "--size", "8"))
    trainer.advance()
    before = {name: x.clone() for name, x in trainer.state().items()}
    expected.expect(trainer)
    after = trainer.state()
    assert before.keys() == after.keys() and any(name.endswith(".exp_avg") for name in before)
    assert [name for name, x in before.items() if not torch.equal(x, after[name])] == []


def test_time_is_of_the_steps_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def a_second(step: Callable[[], object], device: torch.device) -> float:
        step()
        return 1.0

    for module in (expected, of_synthesis):
        monkeypatch.setattr(module, "seconds_of", a_second)
    trainer = begin(configured("--steps", "7", "--refinement-steps", "4", "--size", "8"))
    # The fit's quarter takes a second too; of the occupancy's update, which is not that long, a share counts.
    assert expected.expect(trainer).seconds == pytest.approx(7 + 4 + 4, abs=0.9)
    trainer.advance()
    assert expected.expect(trainer).seconds == pytest.approx(6 + 4 + 4, abs=0.9)
    trainer.scene.step = 9
    trainer.scene.refined = True
    trainer.optimizer = trainer.make_optimizer()
    trainer.advance()
    assert expected.expect(trainer).seconds == pytest.approx(1, abs=0.5)
    parser = argparse.ArgumentParser()
    synthesis.add_arguments(parser)
    images = ImageSynthesis(synthesis.configure(parser.parse_args(["a red cube", "--steps", "5"])))
    assert of_synthesis.expect(images).seconds == 5


def test_a_gpu_has_room_for_every_sample_of_a_ray() -> None:
    configuration = configured("--lambda-fm", "0", "--refinement-steps", "0")
    prior: Any = load_prior(configuration)

    class OnGpu:
        device = torch.device("cuda")

        def __getattr__(self, name: str) -> Any:
            return getattr(prior, name)

    here, there = (expected.memory(configuration, p)["rays"] for p in (prior, OnGpu()))  # type: ignore[arg-type]
    assert there == pytest.approx(here / expected.IN_THE_BOX, rel=1e-3)


def test_somebody_s_network_without_a_configuration_counts_as_nothing() -> None:
    prior = load_prior(configured())
    settings = dataclasses.replace(configured().settings, lambda_fm=0.0)
    other = prior._sharing(unet=torch.nn.Linear(1, 1))
    assert memory.prior_bytes(other, settings, 4, (16, 16)) == {"UNet": 0}


def test_the_last_step_of_latents_is_not_followed_by_one_of_the_refinement(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = begin(configured("--steps", "2", "--refinement-steps", "2", "--size", "8"))
    trainer.advance()
    made, advance = list[tuple[int, bool]](), Trainer.advance

    def noted(self: Trainer, *args: Any) -> None:
        made.append((self.step, self.scene.refined))
        advance(self, *args)

    monkeypatch.setattr(Trainer, "advance", noted)
    assert (expected.expect(trainer).seconds or 0) > 0
    assert made == [(1, False), (1, False), (2, True), (2, True)]
    assert expected._in_the_mean({"occupancy": 16.0, "prior": 2.0}, 16) == 3.0


def test_memory_that_is_there_already_does_not_count_again() -> None:
    trainer = begin(configured("--refinement-steps", "0", "--size", "8"))
    whole = expected.memory(trainer.configuration, trainer.prior)
    parameters = sum(p.numel() for p in trainer.scene.parameters())
    assert whole["field"] == memory.optimised_bytes(parameters)
    assert whole["occupancy"] == sum(x.nbytes for x in trainer.scene.occupancy.buffers())  # type: ignore[union-attr]
    assert expected.expect(trainer).memory["field"] == whole["field"] - 4 * parameters
    trainer.advance()
    left = expected.expect(trainer).memory["field"]
    assert left == pytest.approx(whole["field"] - 4 * 4 * parameters, abs=100)


def test_the_copy_is_gone_before_the_run_and_its_memory_is_not_required(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, made = begin(configured("--refinement-steps", "0", "--size", "8")), list[weakref.ref[Scene]]()

    def scene(*args: Any) -> Scene:
        found = Scene(*args)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(expected, "Scene", scene)
    assert expected.expect(trainer).seconds is not None
    assert len(made) == 1 and made[0]() is None

    def exhausted(step: Callable[[], object], device: torch.device) -> float:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(expected, "seconds_of", exhausted)
    assert expected.expect(trainer).seconds is None
    assert len(made) == 2 and made[1]() is None
    # With room for the run, but not for a copy beside it, none is made.
    needed = expected.memory(trainer.configuration, trainer.prior)
    monkeypatch.setattr(memory, "free_bytes", lambda device: sum(needed.values()) - 1)
    found = expected.expect(trainer)
    assert found.fits and found.seconds is None and len(made) == 2


def test_ranks_share_the_views_and_perhaps_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    three, two = (configured("--views", views, "--refinement-steps", "0", "--size", "8") for views in ("3", "2"))
    prior = load_prior(three)
    assert expected.memory(three, prior, world=2) == expected.memory(two, prior)
    trainers = [Trainer(Scene(three, prior), prior, world=2), Trainer(Scene(two, prior), prior)]
    split, alone = map(expected.expect, trainers)
    assert split.memory == alone.memory and split.seconds is not None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert expected.expect(trainers[0]).needed == 2 * alone.needed


def test_a_refusal_s_time_is_of_all_that_a_step_does(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = dict.fromkeys(("occupancy", "render", "encoder", "prior", "regularisers", "backward", "optimiser"), 1.0)
    monkeypatch.setattr(expected, "_parts_of_step", lambda trainer, at: {**spent, "rest": 1.0})
    # Two views in place of one, four rays in place of one: of latents, of rays.
    words = ("--steps", "10", "--steps-per-ray", "64", "--refinement-size", "64")
    prior = load_prior(configured())
    parts = {"occupancy": 1 / 16, "render": 8, "encoder": 2, "prior": 2, "regularisers": 8, "backward": 5}
    latents = 10 * (sum(parts.values()) + 1 + 1)
    alone = expected._of_a_small_one(configured(*words, "--refinement-steps", "0"), prior)
    assert alone == pytest.approx(latents)
    both = expected._of_a_small_one(configured(*words, "--refinement-steps", "3"), prior)
    assert both == pytest.approx(latents + 3 * (1 / 16 + 7))


def test_every_flag_that_a_refusal_names_is_one_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    known = {name for action in parser._actions for name in action.option_strings}
    assert set(re.findall(r"--[a-z-]+", expected.TO_LOWER)) < known
    synthesis.add_arguments(other := argparse.ArgumentParser())
    assert set(re.findall(r"--[a-z-]+", of_synthesis.TO_LOWER)) < set(other._option_string_actions)
    for method in METHODS:
        configuration = configured("--method", method, "--views", "3")
        for part in ["field", *(expected.GOVERNED if configuration.refinement else ("rays", "UNet"))]:
            said = expected.to_lower(configuration, [part])
            assert set(re.findall(r"--[a-z-]+", said)) < known | {""} and "lower" not in said, said
    latent, voxels = (configured("--method", method) for method in METHODS)
    assert expected.to_lower(voxels, ["field"]) == "--voxels"
    assert expected.to_lower(latent, ["field"]) == "field.log2_table_size (--config) or field.levels (--config)"
    assert expected.to_lower(latent, ["encoder", "rays of the refinement"]) == (
        "--size, --refinement-size or --steps-per-ray"
    )
    assert expected.to_lower(latent, ["occupancy"]) == "occupancy.resolution (--config)"
    several = configured("--noises", "2")
    assert expected.to_lower(several, ["UNet"]) == "--size, --views or --noises"


def test_a_refinement_without_a_vae_is_refused_before_the_run() -> None:
    configuration = configured("--lambda-fm", "0")
    prior = load_prior(configuration)._sharing(vae=None)
    with pytest.raises(UsageError, match=r"^vae: the refinement to RGB needs one; got None$"):
        expected.check_fits(configuration, prior)


def test_a_single_image_is_not_advised_to_have_fewer_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10)
    parser = argparse.ArgumentParser()
    synthesis.add_arguments(parser)
    configuration = synthesis.configure(parser.parse_args(["a red cube"]))
    with pytest.raises(UsageError, match=r"1 kB are free; take --dtype bfloat16 or a smaller --model$"):
        of_synthesis.check_fits(configuration, load_prior(configuration))
