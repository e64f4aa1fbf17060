"""What is said of an adaptation: nothing is taken in silence, and messages name what was typed."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from ldp_fast.apps.adapt import entry, own, products
from ldp_fast.apps.adapt.experiment import AdaptExperiment
from ldp_fast.cli import main
from ldp_fast.errors import UsageError

from . import adapt_stub as stub

CLIP = ("--guidance", "clip-directional")
LAMBDAS = ("--lambda-fm", "0", "--lambda-kl", "0", "--lambda-lsd", "0")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stub.saved(tmp_path_factory.mktemp("generator") / "tiny")


def command(*words: str) -> int:
    return main(["adapt", stub.PROMPT, "--device", "cpu", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--select-every", "1"), "--select-every: expected only with --select-layers, got 1 without it"),
        (("--select-samples", "4"), "--select-samples: expected only with --select-layers, got 4 without it"),
        (
            LAMBDAS,
            "--lambda-lsd: expected a weight above 0, of score distillation, of another term or of a regulariser",
        ),
        (("--guidance", "lsd", "--lambda-lsd", "0"), "--lambda-lsd: expected a weight above 0"),
        (("--lpips-network", "vgg"), "--lpips-network: expected only with --lpips"),
        (("--lpips-weights", "x.pth"), "--lpips-weights: expected only with --lpips"),
        (("--lpips", "1", "--lpips-network", "squeeze"), "--lpips-network: expected alex, vgg, clip:NAME or vae:NAME"),
        (("--lpips", "1", "--lpips-weights", "no.pth"), "--lpips-weights: expected only with alex and vgg"),
        (
            ("--lpips", "1", "--lpips-network", "vgg", "--lpips-weights", "no.pth"),
            "--lpips-weights: there is no file no.pth",
        ),
        ((*CLIP, "--source-prompt", "a cat"), "--source-prompt: the embedded model does not know"),
        ((*CLIP, "--source-prompt", stub.PROMPT), "--source-prompt: expected another text than the prompt"),
        ((*CLIP, "--source-prompt", "a cube", "--templates", "haiku"), "--templates: expected one of"),
    ],
)
def test_what_has_no_meaning_is_refused_by_what_was_typed(
    words: tuple[str, ...], said: str, generator: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words, "--generator", generator, "--out", str(tmp_path / "out")) == 2
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 1 and found[0].startswith(f"ldp-fast: error: {said}"), found
    assert not (tmp_path / "out").exists()


def test_what_has_a_meaning_is_taken(generator: str, tmp_path: pathlib.Path) -> None:
    """A weight of a file that a flag does not name, and terms that others stand in for."""
    words = ("--generator", generator, "--print-config")
    assert command(*LAMBDAS, "--reconstruction", "1", *words) == 0
    assert command("--select-layers", "2", "--select-every", "3", "--select-samples", "4", *words) == 0
    (tmp_path / "x.yaml").write_text("select_every: 3\nregularisers: {lpips: 2}\n")
    assert command("--lpips-network", "vgg", "--config", str(tmp_path / "x.yaml"), *words) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"select_every": 3}, "select_every: expected only with"),
        ({"regularisers": {"lpips_network": "vgg"}}, "regularisers.lpips_network: expected only with"),
        ({"settings": dict.fromkeys(("lambda_fm", "lambda_kl", "lambda_lsd"), 0)}, "settings.lambda_lsd: expected a "),
    ],
)
def test_in_python_it_is_refused_by_the_settings_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        own.configured(prompt=stub.PROMPT, device="cpu", **settings)
    assert str(error.value).startswith(said)


def test_a_sweep_names_flags_too() -> None:
    given = stub.configuration(guidance="clip-directional", source_prompt="a cat")
    with pytest.raises(UsageError, match=r"^--source-prompt: "):
        entry.load(given)


def test_what_is_not_wanted_at_first_is_not_made_later(
    generator: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.guided_by_red(monkeypatch)
    monkeypatch.setattr(products, "of", lambda experiment, folder: dict.fromkeys(("pictures", "film"), list))
    words = ("--generator", generator, "--steps", "2", "--samples", "0", "--frames", "2")
    advance = AdaptExperiment.advance

    def stopped(self: AdaptExperiment, *arguments: Any) -> None:
        if self.step == 1:
            raise KeyboardInterrupt
        advance(self, *arguments)

    for name, more, made in (("without", ("--no-film",), False), ("with", (), True)):
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(AdaptExperiment, "advance", stopped)
            assert command(*words, *more, "--checkpoint-every", "1", "--out", str(folder)) == 130
        assert main(["adapt", "--resume", str(folder)]) == 0
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished" and record.get("left_out") == (None if made else {"film": "--no-film"})
