"""What the command refuses, in one line that names the flag, before anything is written; config.yaml."""

from __future__ import annotations

import math
import pathlib

import pytest
import yaml

from ldp_fast import cli
from ldp_fast.apps.text_to_3d.configuration import (
    EMBEDDED,
    METHODS,
    NAMES,
    check,
    defaults,
    fingerprint,
    read_configuration,
    write_configuration,
)
from ldp_fast.errors import UsageError

from . import text_to_3d_runs as runs

JACOBIAN = ("--method", "jacobian-nerf")
# Words after the prompt and what the line has to say; the embedded model, which none of them gets to.
REFUSED = [
    (("--method", "nerf"), "--method: expected one of latent-nerf, jacobian-nerf; got 'nerf'"),
    (("--preset", "images"), "preset: expected one of"),
    (("--background", "white"), "--background: expected one of greys, network, texture, none; got 'white'"),
    (("--steps", "-1"), "--steps: expected a whole number of at least 1, got -1"),
    (("--steps", "0"), "--steps"),
    (("--steps", "many"), "--steps: invalid int value"),
    (("--refinement-steps", "-1"), "--refinement-steps: expected at least 0, got -1"),
    ((*JACOBIAN, "--refinement-steps", "5"), "--refinement-steps: jacobian-nerf has no refinement"),
    (("--seed", "-1"), "--seed: expected a whole number of at least 0, got -1"),
    (("--seed", str(2**31)), "--seed: expected a whole number below 2147483648"),
    (("--views", "0"), "--views"),
    (("--size", "0"), "--size"),
    (("--supersample", "0"), "--supersample"),
    (("--steps-per-ray", "1"), "--steps-per-ray: expected a whole number of at least 2, got 1"),
    (("--checkpoint-every", "0"), "--checkpoint-every"),
    (("--keep", "0"), "--keep"),
    (("--preview", "0"), "--preview"),
    (("--learning-rate", "0"), "--learning-rate: expected a positive number, got 0"),
    (("--learning-rate", "nan"), "--learning-rate"),
    (("--final-rate", "1.5"), "--final-rate: expected a fraction between 0 and 1, got 1.5"),
    (("--elevation", "50", "10"), "--elevation: expected LOW HIGH between -90 and 90, got 50 10"),
    (("--elevation", "0", "91"), "--elevation"),
    (("--radius", "4", "3"), "--radius: expected LOW HIGH"),
    (("--radius", "nan", "3"), "--radius"),
    (("--fov", "40", "180"), "--fov"),
    (("--fov", "40"), "--fov: expected 2 arguments"),
    (("--overhead", "2"), "--overhead: expected a share between 0 and 1, got 2"),
    (("--emptiness", "1", "2"), "--emptiness: expected a weight, or FIRST LAST FROM TO; got 2 numbers"),
    (("--emptiness", "1", "2", "0.8", "0.2"), "--emptiness: expected a weight, or FIRST LAST FROM TO with"),
    (("--sparsity", "-1"), "--sparsity"),
    (("--opacity", "inf"), "--opacity"),
    (("--voxels", "32"), "--voxels: latent-nerf has a hash grid, no voxels"),
    ((*JACOBIAN, "--voxels", "1"), "--voxels: expected 2 to 512, got 1"),
    (("--sigma-range", "0.1", "5", "--timestep-range", "0.1", "0.9"), "--sigma-range and --timestep-range: give one"),
    (("--timestep-range", "0.9", "0.1"), "timestep_range"),
    (("--lambda-fm", "nan"), "--lambda-fm"),
    (("--weighting", "sjc"), "weighting"),
    (("--dtype", "int8"), "--dtype"),
    (("--model", "stable-difusion"), "'stable-difusion'"),
    (("--model", "."), "model: "),
    (("--model", "no/such/folder"), "model: there is no folder no/such/folder"),
    (("--no-such-flag",), "--no-such-flag"),
]


def said_in_a_line(capsys: pytest.CaptureFixture) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ldp-fast: error: "), lines
    return lines[0]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_flags(
    words: tuple[str, ...],
    expected: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.command("a red torus", *words, "--out", tmp_path / "out") == 2
    assert expected in said_in_a_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "prompt: expected one, such as"),
        (("",), "prompt: expected one, such as"),
        (("  ",), "prompt: expected one, such as"),
        (("a red unicorn",), "prompt: the embedded model does not know 'unicorn'"),
        (("a red torus", "--negative-prompt", "blurry"), "does not know 'blurry'"),
        (("a red torus", "--sigma-range", "5", "0.1"), "sigma_range: expected LOW HIGH around"),
        (("a red torus", "--levels", "up9"), "up9"),
        (("a red torus", "--device", "tpu"), "device: 'tpu' cannot be used here"),
        (("a red torus", "blue"), "unrecognized arguments: blue"),
    ],
)
def test_bad_prompts_and_what_the_model_refuses(
    words: tuple[str, ...],
    expected: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.command(*words) == 2
    assert expected in said_in_a_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_taken(small_model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    held = runs.prepared(tmp_path / "held", runs.configuration(small_model))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("mine")
    for name, expected in (
        ("held", f"{held} holds a run already: continue it with --resume {held}"),
        ("foreign", f"{foreign} is not empty and holds no run"),
        ("file", f"{tmp_path / 'file'} is not empty and holds no run"),
    ):
        before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
        assert runs.command("abc", "--model", small_model, "--out", tmp_path / name) == 2
        assert expected in said_in_a_line(capsys)
        assert before == {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    words = ["text-to-3d", "abc", "--model", small_model, "--overwrite", *("--out", str(tmp_path / "file" / "below"))]
    assert cli.main(words) == 2
    said_in_a_line(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("embedded", [True, False])
def test_round_trip(method: str, embedded: bool, tmp_path: pathlib.Path) -> None:
    model = "primitives" if embedded else "x"
    given = {
        **runs.configuration(model, method, sigma_range=[0.1, 5.5], prompt="ein Würfel: «rot» # 1"),
        "device": None,
    }
    given |= defaults(method, embedded)
    check(given)
    write_configuration(tmp_path, given)
    found = read_configuration(tmp_path)
    assert found == given and set(found) == set(NAMES) and fingerprint(found) == fingerprint(given)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_what_the_fingerprint_sees() -> None:
    given = runs.configuration("x")
    for name, value in (("checkpoint_every", 7), ("keep", 9), ("device", "cuda:1")):
        assert fingerprint({**given, name: value}) == fingerprint(given)
    for name, value in (("seed", 4), ("prompt", "b"), ("settings", {**given["settings"], "lambda_kl": 0.2})):
        assert fingerprint({**given, name: value}) != fingerprint(given)


def test_defaults_are_nobody_elses() -> None:
    mine = defaults("latent-nerf", embedded=True)
    mine["optimizer"]["learning_rate"] = mine["cameras"]["overhead"] = math.pi
    assert EMBEDDED["latent-nerf"]["optimizer"]["learning_rate"] != math.pi
    assert defaults("latent-nerf", embedded=True)["cameras"]["overhead"] != math.pi


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt: [unclosed", "is damaged"),
        ("", "expected a configuration of format 1, got NoneType"),
        ("- a\n- b\n", "expected a configuration of format 1, got list"),
        ("format: 2\nprompt: a\n", "expected a configuration of format 1, got 2"),
        ("format: 1\nprompt: a\n", "is damaged: it has no negative_prompt, method, seed"),
        ("\x00\x01", "is damaged"),
    ],
)
def test_damaged_configurations(
    text: str, expected: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert runs.command("--resume", tmp_path) == 2
    said = said_in_a_line(capsys)
    assert expected in said and str(tmp_path / "config.yaml") in said
    assert (tmp_path / "config.yaml").read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_a_configuration_without_one_of_its_parts(tmp_path: pathlib.Path) -> None:
    write_configuration(tmp_path, runs.configuration("x"))
    whole = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for name in NAMES:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(UsageError, match=f"is damaged: it has no {name}$"):
            read_configuration(tmp_path)


def test_folders_without_a_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    assert runs.command("--resume", tmp_path / "nowhere") == 2
    assert "nowhere holds no text-to-3d run: there is no config.yaml in it" in said_in_a_line(capsys)
    (tmp_path / "file").write_text("")
    assert runs.command("--resume", tmp_path / "file") == 2
    assert f"{tmp_path / 'file'} is no folder" in said_in_a_line(capsys)
