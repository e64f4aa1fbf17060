"""The example of docs/your_own_application.md, as somebody would type it: a run, the rest of one, a sweep, a metric."""

import importlib.metadata
import json
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

from ldp_fast.apps import registry
from ldp_fast.cli import main
from ldp_fast.errors import UsageError

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "your_own_application.md"
NAME = "pixel_art"


def example() -> str:
    """The module that the page shows."""
    found = re.search(r'^```python title="pixel_art.py"\n(.*?)^```$', PAGE.read_text(), flags=re.S | re.M)
    assert found is not None
    return found[1]


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The folder where it is typed; afterwards the module is not known any more."""
    (tmp_path / f"{NAME}.py").write_text(example())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_found", {})
    yield tmp_path
    sys.modules.pop(NAME, None)


def test_it_is_a_hundred_lines() -> None:
    assert len(example().splitlines()) <= 100


def test_a_run_and_the_rest_of_one_that_ended_early(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", f"{NAME}:ENTRY", "a red cube", "--pixels", "8", "--steps", "4", "--checkpoint-every", "2"]
    assert main([*words, "--out", "whole"]) == 0
    assert (here / "whole" / "image.png").exists()
    assert json.loads((here / "whole" / "run.json").read_text())["status"] == "finished"
    module = sys.modules[NAME]
    advance = module.Drawing.advance

    def cut_off(self: object, *args: object) -> None:
        if self.step == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        advance(self, *args)

    monkeypatch.setattr(module.Drawing, "advance", cut_off)
    assert main([*words, "--out", "parts"]) == 130
    assert f"ldp-fast run {NAME}:ENTRY --resume parts" in capsys.readouterr().err
    monkeypatch.setattr(module.Drawing, "advance", advance)
    assert main(["run", f"{NAME}:ENTRY", "--resume", "parts"]) == 0
    assert (here / "parts" / "image.png").read_bytes() == (here / "whole" / "image.png").read_bytes()


def test_a_sweep_and_its_metric(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "prompts.txt").write_text("a red cube\na blue cone\n")
    named = ["--application", f"{NAME}:ENTRY"]
    words = ["sweep", "prompts.txt", *named, "--losses", "lsd", "full", "--seeds", "0", "1", "--steps", "1"]
    assert main([*words, "--pixels", "4", "--out", "out"]) == 0
    table = json.loads((here / "out" / "table.json").read_text())
    assert [(job["prompt"], job["losses"], job["seed"], len(job["hits"])) for job in table["jobs"]] == [
        (prompt, losses, seed, 3)
        for prompt in ("a red cube", "a blue cone")
        for seed in (0, 1)
        for losses in ("lsd", "full")
    ]
    assert (here / "out" / "views.png").exists()
    assert main(["evaluate", "r-precision", "out", *named]) == 0
    registry._found.clear()
    capsys.readouterr()
    assert main(["evaluate", "r-precision", "out"]) == 2
    assert "runs of pixel-art: say where that is, with --application MODULE:NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"{NAME}:ENTRY"], f'prompt: expected one, such as ldp-fast run {NAME}:ENTRY "a red cube"'),
        ([f"{NAME}:ENTRY", "a red cube", "--pixels", "900"], "--pixels: expected a whole number between 2 and 128"),
        ([f"{NAME}:ENTRY", "a rd cube"], "did you mean 'red'?"),
        ([f"{NAME}:ENTRY", "a", "red", "cube"], f'ldp-fast run {NAME}:ENTRY "a red cube"'),
        ([f"{NAME}:OTHER", "a red cube"], f"application: {NAME}:OTHER cannot be imported"),
        ([f"{NAME}:Drawing", "a red cube"], f"expected {NAME}:Drawing to be an Entry of ldp_fast.apps.entry"),
        (["nowhere:ENTRY", "a red cube"], "application: nowhere:ENTRY cannot be imported: No module named 'nowhere'"),
        (["broken:ENTRY", "a red cube"], "application: broken:ENTRY cannot be imported: "),
        (
            ["nothing", "a red cube"],
            "expected one of text-to-3d, synthesize, or MODULE:NAME; got 'nothing'",
        ),
        (["--steps", "3", f"{NAME}:ENTRY", "a red cube"], "MODULE:NAME: expected it before the options, got --steps"),
        (["same:ENTRY", "a red cube"], "application: same:ENTRY has the name of another one, 'synthesize'"),
        (["text_to_3d", "a red cube"], "text-to-3d is a command of its own: ldp-fast text-to-3d"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], said: str, here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text("def f(:\n")
    (here / "same.py").write_text(example().replace('"pixel-art"', '"synthesize"'))
    assert main(["run", *words]) == 2
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 1 and said in found[0], found


def test_an_installed_one_has_a_name(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.append(str(here))
    point = importlib.metadata.EntryPoint("pixel-art", f"{NAME}:ENTRY", registry.ENTRY_POINTS)
    real = importlib.metadata.entry_points

    def installed(**select: str) -> object:
        return [point] if select == {"group": registry.ENTRY_POINTS} else real(**select)

    monkeypatch.setattr(importlib.metadata, "entry_points", installed)
    assert registry.names() == ("text-to-3d", "synthesize", "pixel-art")
    assert registry.find("pixel_art").application.name == "pixel-art"
    with pytest.raises(UsageError, match="expected one of text-to-3d, synthesize, pixel-art, or MODULE:NAME"):
        registry.find("other")


def test_its_flags_are_in_the_help(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run", f"{NAME}:ENTRY"], ["sweep", "--application", f"{NAME}:ENTRY"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        found = " ".join(capsys.readouterr().out.split())
        assert "--pixels N along a side (default: 16)" in found and "--lambda-fm" in found
        # 0 is a default too.
        assert "of all that is drawn (default: 0)" in found
        # What holds for this application, not for another.
        assert "steps between two checkpoints (default: 100)" in found
        assert "stylegan, layered, image (default: image)" in found
        assert "ablation" not in found and "method" not in found
