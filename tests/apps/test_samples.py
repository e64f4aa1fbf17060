"""The samples that a run of adapt leaves: made once, gone on with after an interruption, and never another's."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.apps.adapt import products
from ldp_fast.apps.generate import generate
from ldp_fast.apps.samples import Wanted
from ldp_fast.generators import Settings, StyleGAN2, sampling
from ldp_fast.runs import image_files

from . import adapt_stub as stub


def small(seed: int = 0) -> StyleGAN2:
    torch.manual_seed(seed)
    return StyleGAN2(Settings(resolution=8, z_dim=4, w_dim=4, mapping_layers=1, channels=(4, 4))).requires_grad_(False)


def pictures_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "samples").glob("*.png"))}


def test_samples_go_on_after_an_interruption(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    c, made = stub.configuration(samples=20), small()
    whole = products.write_samples(made, c, tmp_path / "whole")
    assert [path.name for path in whole] == [*(sampling.file_name(i) for i in range(20)), "samples.json"]
    write, run = image_files.save_png, tmp_path / "run"

    def full(path: pathlib.Path, image: Tensor) -> None:
        if path.name == "000018.png":
            raise OSError(28, "No space left on device", str(path))
        write(path, image)

    monkeypatch.setattr(image_files, "save_png", full)
    with pytest.raises(OSError, match="No space left"):
        products.write_samples(made, c, run)
    monkeypatch.undo()
    left = {name: (run / "samples" / name).stat().st_mtime_ns for name in pictures_of(run)}
    assert len(left) >= 16
    (run / "samples" / "000003.png").write_bytes(b"")
    products.write_samples(made, c, run)
    again = {name: (run / "samples" / name).stat().st_mtime_ns for name in left}
    assert {name for name in left if left[name] != again[name]} == {"000003.png"}
    assert pictures_of(run) == pictures_of(tmp_path / "whole")


@pytest.mark.parametrize("record", ["of another", "missing", "damaged"])
def test_samples_of_another_generator_are_replaced(record: str, tmp_path: pathlib.Path) -> None:
    c = stub.configuration(samples=3)
    products.write_samples(small(1), stub.configuration(samples=5), tmp_path)
    said = tmp_path / "samples" / "samples.json"
    if record == "missing":
        said.unlink()
    elif record == "damaged":
        said.write_text("{")
    products.write_samples(small(), c, tmp_path)
    products.write_samples(small(), c, tmp_path / "fresh")
    assert pictures_of(tmp_path).items() >= pictures_of(tmp_path / "fresh").items()
    assert json.loads(said.read_text())["count"] == 3
    assert record != "of another" or len(pictures_of(tmp_path)) == 3


def test_generate_makes_more_of_them(tmp_path: pathlib.Path) -> None:
    c, made = stub.configuration(samples=3), small()
    products.write_samples(made, c, tmp_path)
    wanted = Wanted(5, c.sample_truncation, c.seed)
    assert generate(made, wanted, tmp_path / "samples", "run", progress=False) == 2


class Other(nn.Module):
    """The least that a generator of somebody else's has."""

    z_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.about = {"not": "JSON", 1: object()}

    def mapping(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        return z * self.scale * truncation

    def synthesis(self, w: Tensor) -> Tensor:
        return w[:, :, None, None].expand(-1, -1, 4, 4)


def test_a_generator_of_another_kind_has_samples_too(tmp_path: pathlib.Path) -> None:
    products.write_samples(Other(), stub.configuration(samples=2), tmp_path)
    assert len(pictures_of(tmp_path)) == 2
