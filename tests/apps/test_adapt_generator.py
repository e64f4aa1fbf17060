"""Where the generator of a run lies: it is never written over, is found from any folder, and is the one it was."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Any

import pytest

from ldp_fast.apps.adapt import products
from ldp_fast.apps.adapt.experiment import AdaptExperiment
from ldp_fast.apps.adapt.run import APPLICATION, run_adaptation
from ldp_fast.apps.adapted import anchored, located
from ldp_fast.cli import main
from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints
from ldp_fast.runs.folder import RunFolder
from ldp_fast.runs.loop import continue_from

from . import adapt_stub as stub
from .text_to_3d_runs import assert_same, newest

WORDS = (stub.PROMPT, "--device", "cpu", "--steps", "2", "--samples", "0", "--no-film", "--source-prompt", "a cube")


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """The generator alone is made at the end."""
    of = products.of
    patch.setattr(products, "of", lambda experiment, folder: {"generator": of(experiment, folder)["generator"]})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run, and beside it `generator`, which it began with."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        stub.guided_by_red(patch)
        without_pictures(patch)
        words = ("--generator", stub.saved(home / "generator"), "--out", str(home / "run"))
        assert main(["adapt", *WORDS, *words]) == 0
    return home


@pytest.fixture
def home(made: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A copy of that, as the working folder."""
    stub.guided_by_red(monkeypatch)
    without_pictures(monkeypatch)
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "home"))
    (tmp_path / "home" / "link").symlink_to("run")
    return tmp_path / "home"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("generator", "out"),
    [
        ("run", "run"),
        ("link", "run"),
        ("run", "link"),
        ("run/generator", "run"),
        ("run/generator/model.safetensors", "./run"),
        ("link/generator", "run"),
        ("alias", "run"),
    ],
)
def test_a_run_does_not_destroy_the_generator_that_it_adapts(
    generator: str, out: str, home: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "alias").mkdir()
    (home / "alias" / "model.safetensors").symlink_to(home / "run" / "generator" / "model.safetensors")
    before = contents(home)
    assert main(["adapt", *WORDS, "--generator", generator, "--out", out, "--overwrite"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("ldp-fast: error: --generator: "), said
    assert f"lies in {out.removeprefix('./')}, where the run itself writes" in said[0]
    assert contents(home) == before


def test_a_folder_that_means_the_generators_is_not_written_into(
    home: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home / "run" / "generator")
    (home / "run" / "generator").symlink_to(home / "generator")
    before = contents(home)
    assert main(["adapt", *WORDS, "--generator", "generator", "--out", "run", "--overwrite"]) == 2
    assert "--generator: " in capsys.readouterr().err and contents(home) == before


def test_a_run_whose_generator_lies_within_it_does_not_go_on(home: pathlib.Path) -> None:
    """As a run of an earlier version may be; and a sweep's job, which nobody has typed."""
    given = stub.configuration(str(home / "run"), steps=9)
    before = contents(home)
    with pytest.raises(UsageError, match=r"--generator: .* lies in .*, where the run itself writes"):
        run_adaptation(home / "run", given)
    assert contents(home) == before


def test_a_run_beside_its_generator_is_made(home: pathlib.Path) -> None:
    for out in ("again", "generator/within"):
        assert main(["adapt", *WORDS, "--generator", "generator", "--out", out]) == 0
        APPLICATION.check(home / "other", stub.configuration(str(home / out)))


def test_a_run_goes_on_from_another_folder(
    home: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, "--generator", "generator", "--out", "part", "--checkpoint-every", "1")
    advance = AdaptExperiment.advance

    def stopped(self: AdaptExperiment, *arguments: Any) -> None:
        if self.step == 1:
            raise KeyboardInterrupt
        advance(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptExperiment, "advance", stopped)
        assert main(["adapt", *words]) == 130
    monkeypatch.chdir(tmp_path)
    assert main(["adapt", "--resume", "home/part", "--no-film"]) == 0
    assert_same(newest(home / "part"), newest(home / "run"))


def test_names_of_generators_are_anchored(home: pathlib.Path) -> None:
    assert anchored("generator") == str(home / "generator") and anchored("link") == str(home / "link")
    for name in ("primitives", "no/such", ""):
        assert anchored(name) == name
    os.rename("run", "primitives")
    assert anchored("primitives") == located("primitives") == "primitives", "an embedded name is that model's"


def test_another_generator_of_that_name_is_told_as_that(home: pathlib.Path) -> None:
    held, given = home / "run", APPLICATION.read(home / "run")
    state = checkpoints.read(checkpoints.path_of(held, 2), given.fingerprint())
    other = AdaptExperiment(given, stub.Red(), stub.tiny(seed=1))
    with pytest.raises(UsageError) as error:
        other.load_state(*state)
    said = str(error.value)
    assert f"than {given.generator!r} is now" in said and said.startswith("--generator: ") and "\n" not in said
    assert other.source_digest[:16] in said and state[1]["source"][:16] in said and other.step == 0
    home_of = RunFolder(held, APPLICATION)
    with pytest.raises(UsageError) as told:
        continue_from(home_of, other, given)
    assert str(told.value) == said, "and the checkpoint is not called damaged"
