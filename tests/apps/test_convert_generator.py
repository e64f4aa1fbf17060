"""`ldp-fast convert-generator`: a folder that `generate` takes, and one line where there is none."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save as as_bytes

from ldp_fast import cli
from ldp_fast.generators import load, save
from ldp_fast.generators.convert import convert
from ldp_fast.generators.files import is_ours

from ..generators import writers


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Gives a command; returns what it printed, and its errors."""

    def give(*words: object, code: int = 0) -> tuple[str, str]:
        assert cli.main([*map(str, words)]) == code
        said = capsys.readouterr()
        return said.out, said.err

    return give


@pytest.fixture
def network(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "network.pkl"
    path.write_bytes(writers.published())
    return path


def test_a_pickle_becomes_a_folder(
    network: pathlib.Path, tmp_path: pathlib.Path, typed: Callable[..., tuple[str, str]]
) -> None:
    out = tmp_path / "made" / "here"
    said, errors = typed("convert-generator", network, "--out", out)
    assert said == (
        f"{out}: StyleGAN2 of 16 × 16 pixels, z of 5, w of 6, 2 mapping layers, channels 4, 4, 2, clamped to ±6\n"
    )
    assert errors == ""
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(load(out)(writers.Z), convert(network)(writers.Z))
    typed("generate", out, "--count", 2, "--out", tmp_path / "pictures", "--device", "cpu")
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_what_was_missing_is_said(tmp_path: pathlib.Path, typed: Callable[..., tuple[str, str]]) -> None:
    path = tmp_path / "model.pt"
    torch.save({"g": writers.rosinality()}, path)
    _, errors = typed("convert-generator", path, "--out", tmp_path / "made")
    assert errors.splitlines() == [
        f"note: {path}: g_ema is missing: the weights as they were trained, g, were taken",
        f"note: {path}: its mean w is missing: it was computed from 4096 z",
    ]


def test_a_generator_is_replaced_only_when_asked(
    network: pathlib.Path, tmp_path: pathlib.Path, typed: Callable[..., tuple[str, str]]
) -> None:
    out = tmp_path / "made"
    other = convert(network)
    other.about = {"precious": True}
    save(out, other)
    _, errors = typed("convert-generator", network, "--out", out, code=2)
    assert "already holds model.safetensors and config.json: --overwrite replaces the generator" in errors
    assert load(out).about == {"precious": True}
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(network.read_bytes()[:5000])
    typed("convert-generator", broken, "--out", out, "--overwrite", code=2)
    assert load(out).about == {"precious": True}
    typed("convert-generator", network, "--out", out, "--overwrite")
    assert load(out).about["made_from"] == "network.pkl"


@pytest.mark.parametrize("words", [(), ("--overwrite",)])
@pytest.mark.parametrize("name", ["thesis.tex", "model.safetensors", "config.json"])
def test_what_is_somebody_elses_stays(
    name: str,
    words: tuple[str, ...],
    network: pathlib.Path,
    tmp_path: pathlib.Path,
    typed: Callable[..., tuple[str, str]],
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_bytes(as_bytes({"x": torch.zeros(2)}, {"format": "pt"}))  # a file of diffusers
    before = (out / name).read_bytes()
    _, errors = typed("convert-generator", network, "--out", out, *words, code=2)
    assert f"--out: {out} is not empty and does not hold a generator of ldp-fast: choose another --out" in errors
    assert [path.name for path in out.iterdir()] == [name] and (out / name).read_bytes() == before


def test_a_damaged_generator_is_replaced_and_what_lies_beside_it_stays(
    network: pathlib.Path, tmp_path: pathlib.Path, typed: Callable[..., tuple[str, str]]
) -> None:
    out = tmp_path / "made"
    save(out, convert(network))
    (out / "card.md").write_text("mine")
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-50])
    typed("convert-generator", network, "--out", out, "--overwrite")
    assert torch.equal(load(out)(writers.Z), convert(network)(writers.Z))
    assert (out / "card.md").read_text() == "mine"


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\xff" * 20, b"\x02" + bytes(7) + b"[]", b"\x04" + bytes(7) + b"[[[["]
)
def test_only_files_of_ours_are_ours(data: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.safetensors"
    assert not is_ours(path)
    path.write_bytes(data)
    assert not is_ours(path)


@pytest.mark.parametrize("name", ["evil.pkl", "nowhere.pt", "folder"])
def test_what_cannot_be_converted_ends_in_one_line_and_leaves_nothing(
    name: str, tmp_path: pathlib.Path, typed: Callable[..., tuple[str, str]]
) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x04cos\nsystem\nX\x04\x00\x00\x00exit\x85R.")
    (tmp_path / "folder").mkdir()
    said, errors = typed("convert-generator", tmp_path / name, "--out", tmp_path / "made", code=2)
    assert said == ""
    assert errors.count("\n") == 1
    assert str(tmp_path / name) in errors
    assert ("asks for os.system" in errors) == (name == "evil.pkl")
    assert not (tmp_path / "made").exists()


def test_a_file_in_the_place_of_the_folder(
    network: pathlib.Path, tmp_path: pathlib.Path, typed: Callable[..., tuple[str, str]]
) -> None:
    _, errors = typed("convert-generator", network, "--out", network, code=2)
    assert "--out: expected a folder" in errors
