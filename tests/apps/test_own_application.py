"""The example of docs/your_own_application.md, as somebody would type it: a run, the rest of one, a sweep, a metric."""

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Literal

import pytest

from ldp_fast.apps import own, registry, run_options
from ldp_fast.apps.options import ModelConfiguration
from ldp_fast.cli import Parser, main
from ldp_fast.errors import UsageError
from ldp_fast.guidance.presets import find_preset
from ldp_fast.runs.configuration import Configuration
from ldp_fast.runs.experiment import Application
from ldp_fast.runs.prompts import Prompt
from ldp_fast.runs.settings import setting

from ..runs.toy import Walk

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
    assert "runs of pixel-art: say where that is, with --application pixel_art:ENTRY" in capsys.readouterr().err


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
            "expected one of text-to-3d, synthesize, clip-mesh, adapt, or MODULE:NAME; got 'nothing'",
        ),
        ([f"{NAME}:ENTRY", "a red cube", "--pixel", "nil"], f"got 'nil' (see ldp-fast run {NAME}:ENTRY --help)"),
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
    assert registry.names() == ("text-to-3d", "synthesize", "clip-mesh", "adapt", "pixel-art")
    assert registry.find("pixel_art").application.name == "pixel-art"
    with pytest.raises(
        UsageError, match="expected one of text-to-3d, synthesize, clip-mesh, adapt, pixel-art, or MODULE:NAME"
    ):
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn(ModelConfiguration):
    """With fields as an author may declare them."""

    application = "drawn"
    prompt: str = setting("what to draw")
    seed: int = setting("of it", flag="seed", default=7)
    model: str = setting("to draw with", flag="model", default="somebody/a-model")
    preset: str = setting("to start from", flag="preset", default="stylegan")
    checkpoint_every: int = setting("steps", flag="checkpoint-every", default=5)
    zoom: Literal[1, 2] = setting("of the picture", flag="zoom", group="picture", default=1)
    wet: bool = setting("paint", flag="dry", default=True)
    brush: str = setting("to draw with", flag="brush")
    pause: float = setting("seconds a step", flag="pause", default=0.0, about_result=False)


DRAWN = Application("drawn", lambda plain: Drawn, Walk, "image.png", {})


def test_what_its_fields_say_holds_in_help_run_and_sweep(tmp_path: pathlib.Path) -> None:
    entry = own.entry_of(DRAWN, Drawn)
    assert entry.alone is not None and entry.configure is not None
    parser = Parser(prog="run")
    parser.add_argument("--losses", default=["lsd", "full"])
    entry.alone(parser)
    said = " ".join(parser.format_help().split())
    for line in (
        "--seed SEED of it (default: 7)",
        "--preset PRESET to start from (default: stylegan)",
        "--checkpoint-every CHECKPOINT_EVERY steps (default: 5)",
        "picture: --zoom ZOOM of the picture: 1, 2 (default: 1)",
        "--dry paint --brush BRUSH to draw with",
    ):
        assert line in said, said
    args = parser.parse_args(["--brush", "fine", "--zoom", "2"])
    found = entry.configure(args, prompt="a red cube")
    assert (found.model, found.preset, found.checkpoint_every, found.zoom) == ("somebody/a-model", "stylegan", 5, 2)
    assert found.settings.lambda_kl == find_preset("stylegan").settings.lambda_kl
    with pytest.raises(UsageError, match=r"^--brush: expected, for there is no default$"):
        entry.configure(parser.parse_args([]), prompt="a red cube")
    run_options.refuse_changes(argparse.Namespace(given=("pause", "device", "resume")), Drawn)
    with pytest.raises(UsageError, match=r"--resume continues a run as it was started; it cannot change --dry$"):
        run_options.refuse_changes(argparse.Namespace(given=("pause", "wet")), Drawn)
    # Seeds of a sweep: those that were given, else the file's, else the field's.
    several = Parser(prog="sweep")
    several.add_argument("--losses", default=["lsd", "full"])
    entry.add_arguments(several)
    (tmp_path / "some.yaml").write_text("seed: 9\n")
    for words, seeds in (
        (["--seeds", "1", "2"], [1, 1, 2, 2]),
        (["--config", str(tmp_path / "some.yaml")], [9, 9]),
        ([], [7, 7]),
    ):
        jobs = entry.plan([Prompt("a red cube", "")], several.parse_args(["--brush", "fine", *words]))
        assert [job.labels["seed"] for job in jobs] == [job.configuration.seed for job in jobs] == seeds  # type: ignore[attr-defined]
        assert [job.name for job in jobs][:1] == [f"a-red-cube-drawn-lsd-seed{seeds[0]}"]


def test_what_its_author_forgot_is_said() -> None:
    bare = type("Bare", (ModelConfiguration,), {})
    taken = dataclasses.make_dataclass(
        "Taken", [("scale", float, setting("x", flag="scale", default=1.0))], bases=(Drawn,), frozen=True, kw_only=True
    )
    for application, cls, said in (
        (Drawn, DRAWN, "entry_of: expected an Application of ldp_fast.runs.experiment"),
        (DRAWN, Configuration, "entry_of: expected a class on top of ModelConfiguration"),
        (DRAWN, bare, r"Bare: expected @dataclasses.dataclass\(frozen=True, kw_only=True\) above it"),
        (DRAWN, ModelConfiguration, "ModelConfiguration: expected a field prompt: str"),
        (dataclasses.replace(DRAWN, class_of=Drawn), Drawn, "Application.class_of: expected lambda plain: Drawn"),
        (
            dataclasses.replace(DRAWN, begin=dict),
            Drawn,
            "dict: expected the methods of an Experiment, advance, latest, ",
        ),
        (dataclasses.replace(DRAWN, name="other"), Drawn, "Drawn: expected application = 'other', its Application's"),
        (DRAWN, taken, "Taken.scale: --scale is the flag of settings.scale already"),
    ):
        with pytest.raises(UsageError, match=said):
            own.entry_of(application, cls)  # type: ignore[arg-type]
    spaced = dataclasses.make_dataclass("Spaced", [], bases=(Drawn,), frozen=True, kw_only=True)
    spaced.application = "my art/1"
    with pytest.raises(UsageError, match=r"Application.name: expected words of a-z and 0-9 with hyphens"):
        own.entry_of(dataclasses.replace(DRAWN, name="my art/1"), spaced)
    for dest, option in (("seed", "--amount"), ("amount", "--seed")):
        parser = Parser(prog="run")
        parser.add_argument(option, dest=dest)
        with pytest.raises(UsageError, match=r"Drawn.seed, --seed: the command has one of that name"):
            own.add_flags_of(Drawn, parser)
