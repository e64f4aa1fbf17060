"""Adaptations that stop, and go on exactly; that cannot go on, and say so."""

from __future__ import annotations

import json
import os
import pathlib
import signal
from typing import Any

import pytest

from ldp_fast.apps.adapt import products
from ldp_fast.apps.adapt.experiment import AdaptExperiment
from ldp_fast.apps.adapt.run import APPLICATION
from ldp_fast.cli import main
from ldp_fast.generators import load
from ldp_fast.runs import checkpoints

from ..support import processes
from . import adapt_stub as stub
from .text_to_3d_runs import assert_same, newest, without_pictures

# All that a step may depend on.
EVERYTHING = (
    "--train",
    "host",
    "--ema",
    "0.9",
    "--select-layers",
    "2",
    "--select-every",
    "3",
    "--noise",
    "fresh",
    "--steps",
    "8",
)
WORDS = (stub.PROMPT, "--device", "cpu", "--checkpoint-every", "2", "--samples", "2", "--no-film", *EVERYTHING)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stub.saved(tmp_path_factory.mktemp("generator") / "tiny")


def quick(patch: pytest.MonkeyPatch) -> None:
    """Without a model, and without a figure of the losses, which has a test of its own."""
    stub.guided_by_red(patch)
    patch.setattr(products, "write_losses", lambda experiment, folder: [])


@pytest.fixture(autouse=True)
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


@pytest.fixture(scope="module")
def whole(generator: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        assert adapted(*WORDS, "--generator", generator, "--out", str(folder)) == 0
    return folder


def adapted(*words: str) -> int:
    return main(["adapt", *words])


def signalled(words: tuple[str, ...], step: int, number: int) -> int:
    """A run in whose step a signal comes to this process."""
    advance = AdaptExperiment.advance

    def cut_off(self: AdaptExperiment, *arguments: Any) -> None:
        if self.step == step:
            os.kill(os.getpid(), number)
        advance(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        stub.guided_by_red(patch)
        patch.setattr(AdaptExperiment, "advance", cut_off)
        return adapted(*words)


def assert_goes_on(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """To what the run made that nothing interrupted, bit for bit."""
    assert adapted("--resume", str(folder)) == 0
    assert_same(newest(folder), newest(whole))
    for name in ("before_after.png", "samples/000001.png", "generator/config.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert_same(*(load(path / "generator").state_dict() for path in (folder, whole)))


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_run_goes_on_exactly(whole: pathlib.Path, generator: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    words = (*WORDS, "--generator", generator, "--out", str(folder))
    ended = processes.Started(signalled, words, 5, signal.SIGKILL).wait()
    assert ended.code == -signal.SIGKILL and "Traceback" not in ended.err, ended.err
    assert checkpoints.steps(folder) == [2, 4] and not (folder / "before_after.png").exists()
    assert_goes_on(folder, whole)


def test_an_interrupted_run_goes_on_exactly(
    whole: pathlib.Path, generator: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert signalled((*WORDS, "--generator", generator, "--out", str(folder)), 5, signal.SIGINT) == 130
    said = capsys.readouterr().err
    assert f"continue with: ldp-fast adapt --resume {folder}" in said and "Traceback" not in said
    assert checkpoints.steps(folder) == [2, 4, 6] and not (folder / "before_after.png").exists()
    assert_goes_on(folder, whole)


def test_layers_and_average_go_on_where_they_were(whole: pathlib.Path) -> None:
    found = newest(whole)
    kinds = {kind: {name for name in found if name.startswith(f"{kind}.")} for kind in ("generator", "average")}
    assert len(kinds["generator"]) == len(kinds["average"]) == 6 * 3 - 1, "of each layer, and to_rgb1 has no noise"
    tensors, facts = checkpoints.read(checkpoints.path_of(whole, 8), json_fingerprint(whole))
    experiment = stub.experiment(ema=0.9, select_layers=2, select_every=3, steps=8, noise="fresh")
    experiment.load_state(tensors, facts)
    assert experiment.layers == facts["layers"].split() and len(experiment.layers) == 2
    trained = {name for name, p in experiment.pair.parameters.items() if p.requires_grad}
    assert trained == {name for name in experiment.pair.parameters if name.startswith(tuple(experiment.layers))}


def interrupted() -> None:
    raise KeyboardInterrupt


def json_fingerprint(folder: pathlib.Path) -> str:
    found: str = APPLICATION.read(folder).fingerprint()
    return found


def test_another_generator_of_that_name_is_not_gone_on_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_pictures(monkeypatch)
    generator, folder = stub.saved(tmp_path / "generator"), tmp_path / "run"
    words = [*WORDS, "--generator", generator, "--out", str(folder)]
    with monkeypatch.context() as patch:
        advance = AdaptExperiment.advance
        patch.setattr(AdaptExperiment, "advance", lambda self, part: interrupted() if self.step == 5 else advance(self))
        assert adapted(*words) == 130
    stub.saved(tmp_path / "generator", seed=1)
    capsys.readouterr()
    assert adapted("--resume", str(folder)) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and f"it was made from another generator than {generator!r} is now" in said[0], said


@pytest.mark.parametrize("lacking", ["generator.convs.0.weight", "average.convs.1.weight", "history"])
def test_a_state_that_does_not_fit_changes_nothing(lacking: str) -> None:
    experiment, other = (stub.experiment(ema=0.9, steps=4) for _ in range(2))
    for _ in range(2):
        other.advance()
    tensors, facts = other.state(), {**other.facts(), "step": "2"}
    before = experiment.state()
    with pytest.raises((ValueError, KeyError)):
        experiment.load_state({name: x for name, x in tensors.items() if name != lacking}, facts)
    wrong = {**tensors, lacking: tensors[lacking][:, :1]}
    with pytest.raises(ValueError, match=r"history is of other|, expected"):
        experiment.load_state(wrong, facts)
    assert experiment.step == 0
    assert_same(experiment.state(), before)
    experiment.load_state(tensors, facts)
    assert_same(experiment.state(), tensors)


def test_a_diverged_run_keeps_its_last_whole_checkpoint(
    generator: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gradient = stub.Red.gradient

    def broken(self: stub.Red, pictures: Any, sources: Any, draws: Any, progress: float) -> Any:
        found, values = gradient(self, pictures, sources, draws, progress)
        return (found * float("nan") if draws.step >= 3 else found), values

    monkeypatch.setattr(stub.Red, "gradient", broken)
    folder = tmp_path / "run"
    assert adapted(*WORDS, "--generator", generator, "--out", str(folder)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "diverged before step 4: gradient_norm and the weights are not finite" in line
    assert "its last checkpoint, of step 2, is from before; lower --learning-rate or the weights" in line
    assert checkpoints.steps(folder) == [2] and all(x.isfinite().all() for x in newest(folder).values())
    assert json.loads((folder / "run.json").read_text())["status"] == "diverged"


def test_a_run_whose_pictures_are_lost_has_diverged(
    generator: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without any NaN: a bias that nobody trains makes them all white."""
    learn = AdaptExperiment.learn

    def whitened(self: AdaptExperiment, *arguments: Any) -> None:
        if self.step == 5:
            self.pair.adapted.to_rgbs[1].bias.fill_(8.0)
        learn(self, *arguments)

    monkeypatch.setattr(AdaptExperiment, "learn", whitened)
    folder = tmp_path / "run"
    assert adapted(*WORDS, "--generator", generator, "--out", str(folder)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "diverged before step 6: the pictures are saturated (all of them far beyond [-1, 1], or one full " in line
    assert "as good as not finite; its last checkpoint, of step 4, is from before" in line
    assert checkpoints.steps(folder) == [2, 4] and not (folder / "before_after.png").exists()
    assert json.loads((folder / "run.json").read_text())["status"] == "diverged"


def test_a_finished_run_makes_again_what_is_gone(whole: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "before_after.png").read_bytes()
    assert adapted("--resume", str(whole), "--no-film") == 0
    assert "is finished already" in capsys.readouterr().out
    (whole / "before_after.png").unlink()
    assert adapted("--resume", str(whole), "--no-film") == 0
    assert (whole / "before_after.png").read_bytes() == before


def test_resuming_changes_what_is_shown_and_nothing_else(
    whole: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapted("--resume", str(whole), "--batch", "4", "--guidance", "lsd") == 2
    assert "cannot change --batch, --guidance" in capsys.readouterr().err
    assert adapted("--resume", str(whole), "--samples", "5", "--no-film") == 0
    about: Any = load(whole / "generator").about["adapted"]
    assert about["prompt"] == stub.PROMPT
