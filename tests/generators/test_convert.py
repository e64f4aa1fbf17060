"""What a file is, its first bytes say; what is wrong with it, one line."""

from __future__ import annotations

import hashlib
import os
import pathlib
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ldp_fast.errors import UsageError
from ldp_fast.generators import Settings, StyleGAN2, load, save
from ldp_fast.generators.convert import convert
from ldp_fast.generators.foreign import shapes_of

from . import writers


def as_rosinality(path: pathlib.Path) -> None:
    torch.save({"g_ema": writers.rosinality(), "latent_avg": torch.ones(5)}, path)


def as_former(path: pathlib.Path) -> None:
    torch.save(writers.rosinality(), path, _use_new_zipfile_serialization=False)


def as_nvidia(path: pathlib.Path) -> None:
    path.write_bytes(writers.published())


@pytest.mark.parametrize(
    ("write", "written_by"),
    [(as_rosinality, "rosinality"), (as_former, "rosinality"), (as_nvidia, "NVIDIA")],
)
def test_any_format_is_known_whatever_the_file_is_called(
    write: Callable[[pathlib.Path], None], written_by: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "network"
    write(path)
    generator = convert(path)
    assert generator.about["made_from"] == "network"
    assert generator.about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(generator.about["format"]).startswith(written_by)
    assert not generator.training
    assert not any(x.requires_grad for x in generator.parameters())
    save(tmp_path / "ours", generator)
    again = load(tmp_path / "ours")
    assert (again.settings, again.about) == (generator.settings, generator.about)
    assert torch.equal(again(writers.Z, 0.7), generator(writers.Z, 0.7))


def test_conversion_leaves_the_numbers_to_come_as_they_were(tmp_path: pathlib.Path) -> None:
    as_nvidia(tmp_path / "x")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    convert(tmp_path / "x")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("channels", [(3, 5), (2, 4, 3, 6)])
def test_shapes_are_those_of_the_generator(channels: tuple[int, ...]) -> None:
    settings = Settings(resolution=2 ** (len(channels) + 1), channels=channels, z_dim=7, w_dim=9, mapping_layers=3)
    assert shapes_of(settings) == {name: list(x.shape) for name, x in StyleGAN2(settings).state_dict().items()}


EXPECTED = "expected a .pt of rosinality's stylegan2-pytorch, or a .pkl of NVIDIA's stylegan2-ada-pytorch or stylegan3"


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("exit",)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.pt", None, f"is missing: {EXPECTED}"),
        ("x.pt", b"", f"is of another format (it is empty): {EXPECTED}"),
        (
            "x.pt",
            b"<!DOCTYPE html><html>",
            f"is of another format (it begins with b'<!DOCTYPE html><html'): {EXPECTED}",
        ),
        ("x.pkl", b"\x80\x04" + pickle.dumps(Evil())[2:], f"asks for {os.name}.system: expected tensors, numbers"),
        ("x.pkl", b"\x80\x04cos\nsys\x1b[2Jtem\n.", "asks for os.sys?[2Jtem: expected tensors, numbers"),
        ("x.pkl", b"\x80\x04N.", "holds nothing: expected a dict with G_ema, or a generator"),
        ("x.pkl", writers.published()[:9000], "is damaged ("),
        ("x.pt", b"PK\x03\x04 and so on", "is damaged ("),
    ],
)
def test_files_that_are_not_generators(name: str, data: bytes | None, said: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        convert(path)
    assert str(caught.value).startswith(f"{path} {said}")
    assert "\n" not in str(caught.value)


def test_folders_and_files_of_ours_are_told_apart(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder: expected a \.pt of"):
        convert(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"is a \.safetensors file: those of ldp-fast are taken as they are"):
        convert(tmp_path / "x.safetensors")


def test_files_that_decay_end_in_one_line(tmp_path: pathlib.Path) -> None:
    whole, draw, path = writers.published(), random.Random(1), tmp_path / "x.pkl"
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 3, 30))):
            data[draw.randrange(1, draw.choice((300, len(data))))] = draw.randrange(256)
        path.write_bytes(data[: draw.choice((len(data), draw.randrange(2, len(data))))])
        try:
            convert(path)
        except UsageError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 1700
