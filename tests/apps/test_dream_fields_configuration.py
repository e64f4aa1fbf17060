"""What dream-fields refuses, in one line that names the flag; its defaults; what the other methods have not got."""

from __future__ import annotations

import pathlib

import pytest
import yaml

from ldp_fast.apps.text_to_3d.configuration import resolve
from ldp_fast.apps.text_to_3d.dream_configuration import CLIP
from ldp_fast.apps.text_to_3d.sections import DreamFields
from ldp_fast.errors import UsageError
from ldp_fast.runs.settings import Wrong

from . import text_to_3d_runs as runs

CLIPPED = ("--guidance", "clip")
REFUSED = [
    ((*CLIPPED, "--lambda-fm", "0"), "--lambda-fm: dream-fields does not have it, for CLIP guides"),
    ((*CLIPPED, "--noises", "3"), "--noises: dream-fields does not have it"),
    ((*CLIPPED, "--preset", "image"), "--preset: dream-fields does not have it"),
    ((*CLIPPED, "--negative-prompt", "blurry"), "--negative-prompt: dream-fields does not have it"),
    ((*CLIPPED, "--no-view-prompts"), "--no-view-prompts: dream-fields does not have it"),
    ((*CLIPPED, "--lora", "x"), "--lora: dream-fields does not have it"),
    ((*CLIPPED, "--voxels", "32"), "--voxels: dream-fields has a hash grid, not voxels"),
    ((*CLIPPED, "--sparsity", "1"), "--sparsity: dream-fields has none but the transmittance loss"),
    ((*CLIPPED, "--quality", "high"), "--quality: expected normal, as dream-fields has no other"),
    ((*CLIPPED, "--refinement-steps", "3"), "--refinement-steps: dream-fields runs without a refinement"),
    ((*CLIPPED, "--background", "none"), "--background: expected greys, as dream-fields has random backgrounds"),
    ((*CLIPPED, "--method", "jacobian-nerf"), "--guidance clip: expected --method dream-fields, or none; got jacobian"),
    (("--method", "dream-fields", "--guidance", "from_text"), "--guidance: dream-fields does not have it"),
    ((*CLIPPED, "--crops", "0"), "--crops: expected a whole number of at least 1, got 0"),
    ((*CLIPPED, "--crop-size", "65"), "--crop-size: expected at most the 64 pixels of a view, got 65"),
    ((*CLIPPED, "--behind-crops", "photo"), "--behind-crops: expected one of noise, checkerboard, 1/f, got 'photo'"),
    ((*CLIPPED, "--transmittance", "-1"), "--transmittance: expected a number of at least 0, got -1"),
    ((*CLIPPED, "--target-opacity", "0", "1"), "--target-opacity"),
    ((*CLIPPED, "--guidance-clip", "no-such-clip"), "'no-such-clip'"),
    (("--crops", "3"), "--crops: expected only with --guidance clip; the prior guides latent-nerf"),
    (("--guidance", "clap"), "--guidance: expected one of from_uncond, from_text, or clip; got 'clap'"),
]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_flags(
    words: tuple[str, ...],
    expected: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.command("a red torus", *words, "--out", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_settings_can_be_printed_and_started_from(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.command("a red torus", *CLIPPED, "--crops", "3", "--print-config", "--device", "cpu") == 0
    text = capsys.readouterr().out
    (tmp_path / "run.yaml").write_text(text)
    assert runs.command("--config", tmp_path / "run.yaml", "--print-config") == 0
    assert capsys.readouterr().out == text
    assert runs.command("--config", tmp_path / "run.yaml", *CLIPPED, "--print-config", "--seed", "2") == 0
    again = yaml.safe_load(capsys.readouterr().out)
    assert again["seed"] == 2 and again["augmentation"]["crops"] == 3 and again["method"] == "dream-fields"


@pytest.mark.parametrize(
    ("said", "guide", "size"),
    [
        ({}, "primitives", 64),
        ({"guide": "primitives/judge"}, "primitives/judge", 64),
        ({"model": "some/model"}, CLIP, 168),
        ({"model": "some/model", "guide": "primitives"}, "primitives", 64),
        ({"guide": "open_clip:ViT-B-32:weights.pt"}, "open_clip:ViT-B-32:weights.pt", 168),
    ],
)
def test_the_clip_decides_the_size(said: dict[str, str], guide: str, size: int) -> None:
    made = DreamFields.from_plain({"prompt": "x", **resolve({"method": "dream-fields", **said}, {})})
    assert (made.guide, made.size) == (guide, size)
    assert made.dtype == "float32" and made.steps == (600 if size == 64 else 10_000)
    assert made.edition > 1 if guide == "primitives" else made.edition == 1


def test_full_size_is_the_sources() -> None:
    made = DreamFields.from_plain({"prompt": "x", **resolve({"method": "dream-fields", "model": "some/model"}, {})})
    assert (made.size, made.augmentation.side, made.augmentation.crops) == (168, 154, 8)
    assert made.augmentation.blur == (0.0, 10.0) and made.steps_per_ray == 192
    assert made.cameras.elevation == (30.0, 30.0) and made.cameras.radius == (4.0, 4.0)
    assert made.transmittance.weight == 0.5 and made.transmittance.opacity == (0.5, 0.1)
    assert made.transmittance.until * made.steps == 500 and made.optimizer.warm_up * made.steps == 1500


def test_crops_are_the_same_share_of_other_views() -> None:
    made = resolve({"method": "dream-fields", "size": 32}, {})
    assert made["augmentation"]["side"] == 29
    assert (
        resolve({"method": "dream-fields", "size": 32, "augmentation": {"side": 30}}, {})["augmentation"]["side"] == 30
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"regularisers": {"opacity": [1.0, 1.0, 0.0, 1.0]}}, "regularisers: expected none"),
        ({"refinement": {"steps": 3, "size": 8, "views": 1, "learning_rate": 0.1}}, "refinement: expected nothing"),
        ({"augmentation": {"backgrounds": []}}, "augmentation.backgrounds: expected some of"),
        ({"settings": {"lambda_fm": 1.0}}, "settings: there is no such setting"),
    ],
)
def test_a_file_that_says_what_it_lacks(said: dict[str, object], expected: str) -> None:
    with pytest.raises((Wrong, UsageError), match=expected):
        DreamFields.from_plain({"prompt": "x", **resolve({"method": "dream-fields", **said}, {})})
