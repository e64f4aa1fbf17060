"""What a run is going to take: memory from sizes against what a process grows by, time from a copy; what is refused."""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
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
from ldp_fast.apps.text_to_3d.sections import TextTo3D
from ldp_fast.apps.text_to_3d.trainer import Trainer
from ldp_fast.cli import main
from ldp_fast.errors import UsageError


def configured(*words: str) -> TextTo3D:
    """The configuration that a command line makes."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.configure(parser.parse_args(["a red torus", *words]))


# One of each in which the networks, the rays and the field take the most.
LARGE = (
    ("--size", "32", "--refinement-steps", "0"),
    ("--lambda-fm", "0", "--steps-per-ray", "512", "--refinement-steps", "0"),
    ("--method", "jacobian-nerf", "--voxels", "128"),
)


def measured() -> list[int]:
    """For a process of its own: by how much a first step with all that it makes lets the process grow, for each."""
    torch.set_num_threads(1)
    prior = load_prior(configured())

    def step(*words: str) -> None:
        Trainer(Scene(configured(*words), prior), prior).advance()

    small = functools.partial(step, "--size", "8", "--method", "jacobian-nerf")
    return [growth.growth_here(lambda words=words: (functools.partial(step, *words), small)).peak for words in LARGE]


@pytest.mark.skipif(growth.missing("cpu") is not None, reason=str(growth.missing("cpu")))
def test_memory_is_about_what_a_process_grows_by() -> None:
    program = "import json; from tests.apps import test_expected; print(json.dumps(test_expected.measured()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **growth.MALLOC},
        capture_output=True,
        text=True,
        cwd=growth.ROOT,
    )
    assert done.returncode == 0, done.stderr
    prior = load_prior(configured())
    for words, found in zip(LARGE, json.loads(done.stdout), strict=True):
        told = expected.memory(configured(*words), prior)
        assert 0.6 * found < sum(told.values()) < 1.6 * found, (words, told, found)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--size", "1000000"], "feature matching"),
        (["--views", "100000000"], "feature matching"),
        (["--steps-per-ray", "1000000000"], "rays"),
        (["--supersample", "30000"], "rays"),
        (["--size", "1000000", "--method", "jacobian-nerf"], "feature matching"),
    ],
)
def test_what_cannot_fit_is_refused_with_time_and_memory(
    words: list[str], named: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["text-to-3d", "a red torus", "--out", str(tmp_path / "run"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"this run needs about [\d,.]+ [GT]B \({named} [\d,.]+ [GT]B, ", line), line
    assert re.search(r"and its steps would take about [\d,.e+]+ (day|year)s; lower --size, --views, ", line), line
    assert not (tmp_path / "run").exists()


def test_a_sweep_is_refused_before_its_first_job(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a red torus\n")
    assert main(["sweep", str(tmp_path / "prompts.txt"), "--views", "100000000", "--out", str(tmp_path / "out")]) == 2
    assert "there is not enough memory on cpu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    parser = argparse.ArgumentParser()
    synthesis.add_arguments(parser)
    configuration = synthesis.configure(parser.parse_args(["a red cube", "--seeds", "0", "1"]))
    with pytest.raises(UsageError, match=r"1 MB are free, and its steps .*; lower the number of prompts or --seeds"):
        ImageSynthesis(configuration)


def test_asking_changes_nothing() -> None:
    trainer = begin(configured("--steps", "3", "--refinement-steps", "2", "--size", "8"))
    before = {name: x.clone() for name, x in trainer.scene.state_dict().items()}
    seed = torch.get_rng_state()
    expected.expect(trainer)
    assert torch.equal(seed, torch.get_rng_state()) and trainer.step == 0 and len(trainer.history) == 0
    assert all(x.equal(before[name]) or x.isnan().all() for name, x in trainer.scene.state_dict().items())
    assert all(p.grad is None for p in trainer.scene.parameters())


def test_time_is_of_the_steps_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def a_second(step: Callable[[], object], device: torch.device) -> float:
        step()
        return 1.0

    for module in (expected, of_synthesis):
        monkeypatch.setattr(module, "seconds_of", a_second)
    trainer = begin(configured("--steps", "7", "--refinement-steps", "4", "--size", "8"))
    assert expected.expect(trainer).seconds == 11
    trainer.advance()
    assert expected.expect(trainer).seconds == 10
    trainer.scene.step = 9
    trainer.scene.refined = True
    trainer.optimizer = trainer.make_optimizer()
    trainer.advance()
    assert expected.expect(trainer).seconds == 1
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
    assert memory.prior_bytes(other, settings, 4, 16) == {"UNet": 0}
