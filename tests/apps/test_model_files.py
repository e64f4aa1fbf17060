"""The flags that choose a model's files: recorded with a run, handed to the loader, the same after --resume."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import pytest

from ldp_fast import cli
from ldp_fast.apps import options
from ldp_fast.apps.synthesis import command as synthesis
from ldp_fast.apps.text_to_3d.scene import read_configuration
from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior
from ldp_fast.runs.checkpoints import path_of
from ldp_fast.runs.configuration import write

COMMANDS = ("text-to-3d", "synthesize", "ablate", "sweep")
FLAGS = ["--variant", "fp16", "--config", "sdxl-v", "--tokenizer", "words"]
FLAGS += ["--lora", "style.safetensors", "--lora", "a:b/object.safetensors:0.5"]
NAMES = ("variant", "config", "tokenizer", "lora")
FILES: dict[str, Any] = {"variant": "fp16", "config": "sdxl-v", "tokenizer": "words"}
FILES["lora"] = [("style.safetensors", 1.0), ("a:b/object.safetensors", 0.5)]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> list[dict[str, Any]]:
    """What the loader was asked for; it refuses."""
    asked: list[dict[str, Any]] = []

    def refuse(name: str, **given: Any) -> Any:
        asked.append({key: value for key, value in given.items() if key in NAMES})
        raise UsageError("seen")

    monkeypatch.setattr(LatentDiffusionPrior, "from_pretrained", refuse)
    monkeypatch.setattr(options, "reachable", lambda argument, name, file: name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red cube\n")
    return asked


@pytest.mark.parametrize("command", COMMANDS)
def test_the_loader_gets_what_was_given(
    command: str, loaded: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDP_FAST_DEBUG", "0")
    words = [command, "prompts.txt" if command == "sweep" else "a red cube", "--device", "cpu", "--out", "out"]
    assert cli.main(words) == 2 and cli.main([*words, *FLAGS]) == 2
    # Nothing at all where nothing was said: an earlier loader takes neither.
    assert loaded == [{}, FILES]


def test_a_run_goes_on_with_the_same_files(loaded: list[dict[str, Any]], tmp_path: pathlib.Path) -> None:
    parser = cli.Parser()
    synthesis.add_arguments(parser)
    plain, chosen = (synthesis.configure(parser.parse_args(["abc", *words])) for words in ([], FLAGS))
    assert chosen.plain() == {**plain.plain(), **FILES, "lora": [list(pair) for pair in FILES["lora"]]}
    assert type(chosen).from_plain(json.loads(json.dumps(chosen.plain()))) == chosen
    with pytest.raises(UsageError, match="seen"):
        options.load_prior(chosen)
    assert loaded == [FILES]


def test_a_folder_of_text_to_3d_records_them(loaded: list[dict[str, Any]], tmp_path: pathlib.Path, capsys: Any) -> None:
    from . import text_to_3d_runs as runs

    before = runs.configuration("some/model")
    given = runs.changed(before, variant="fp16", lora=[["style.safetensors", 0.5]])
    write(tmp_path / "run", given)
    assert read_configuration(tmp_path / "run") == given and given.fingerprint() != before.fingerprint()
    path_of(tmp_path / "run", 4).parent.mkdir()
    path_of(tmp_path / "run", 4).touch()
    assert cli.main(["text-to-3d", "--resume", "run"]) == 2
    assert cli.main(["render", "run", "--out", "x.png"]) == 2 and cli.main(["export", "run"]) == 2
    assert loaded == 3 * [{"variant": "fp16", "lora": [("style.safetensors", 0.5)]}]
    capsys.readouterr()
    assert cli.main(["text-to-3d", "--resume", "run", "--lora", "other.safetensors"]) == 2
    assert "--resume continues a run as it was started; it cannot change --lora" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("style.safetensors", ["style.safetensors", 1.0]),
        ("style.safetensors:0.8", ["style.safetensors", 0.8]),
        ("style.safetensors:-1e-1", ["style.safetensors", -0.1]),
        ("C:\\models\\style.safetensors", ["C:\\models\\style.safetensors", 1.0]),
        ("C:\\models\\style.safetensors:2", ["C:\\models\\style.safetensors", 2.0]),
        ("a:b/style.safetensors", ["a:b/style.safetensors", 1.0]),
        ("odd:7", ["odd:7", 1.0]),
    ],
)
def test_a_file_and_its_weight(
    word: str, expected: list[Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("odd:7").touch()
    assert options.file_and_weight(word) == tuple(expected)


@pytest.mark.parametrize("word", ["style.safetensors:strong", "style.safetensors:", ":0.5", "", "x:nan", "x:inf"])
def test_a_weight_that_is_no_number(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected FILE or FILE:WEIGHT, such as"):
        options.file_and_weight(word)
