"""Features for FID and KID: a CLIP's, and what Inception says without its packages or its weights."""

from __future__ import annotations

import builtins
import os
import pathlib
import sys

import pytest
import torch

from ldp_fast.clip import Clip
from ldp_fast.errors import UsageError
from ldp_fast.metrics import features as module
from ldp_fast.metrics import fid, kid
from ldp_fast.metrics.features import ClipFeatures, InceptionFeatures, as_bytes, batches
from ldp_fast.metrics.weights import find_weights, read_weights


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.load("primitives")


def test_clip_features_are_its_embeddings(clip: Clip) -> None:
    features = ClipFeatures(clip)
    assert (features.name, features.dimension) == ("clip:primitives, bicubic 128", 64)
    assert features.digest == clip.digest
    pictures = [torch.rand(3, 128, 128), (torch.rand(3, 40, 90) * 255).byte(), torch.rand(3, 128, 128)]
    found = features(pictures)
    assert found.dtype == torch.float32 and not found.requires_grad
    for row, picture in zip(found, pictures, strict=True):
        alone = picture / 255 if picture.dtype == torch.uint8 else picture
        torch.testing.assert_close(row[None], clip.image_embeddings(alone[None]), rtol=1e-4, atol=1e-5)


def test_fid_of_the_embedded_clip_tells_sets_apart(clip: Clip) -> None:
    features, generator = ClipFeatures(clip), torch.Generator().manual_seed(0)
    red, blue, dark = (
        features(torch.rand(12, 3, 16, 16, generator=generator) * torch.tensor(tint).view(3, 1, 1))
        for tint in ([1.0, 0.1, 0.1], [0.1, 0.1, 1.0], [0.9, 0.1, 0.1])
    )
    assert fid(red, red) < 1e-6 < fid(red, dark) < fid(red, blue)
    assert kid(red, dark).value < kid(red, blue).value


def test_pictures_of_one_size_are_together_and_in_order() -> None:
    pictures = [torch.full((3, 2, 2), i / 10) for i in range(5)]
    pictures[1] = torch.zeros(3, 4, 2)
    pictures[3] = torch.zeros(3, 2, 2, dtype=torch.uint8)
    found = [(positions, tuple(batch.shape)) for positions, batch in batches(pictures, 2)]
    assert found == [([0, 2], (2, 3, 2, 2)), ([4], (1, 3, 2, 2)), ([1], (1, 3, 4, 2)), ([3], (1, 3, 2, 2))]
    assert [positions for positions, _ in batches(torch.zeros(5, 3, 2, 2), 3)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(ValueError, match="expected uint8, or floating"):
        list(batches([torch.zeros(3, 2, 2, dtype=torch.int32)], 2))


def test_floats_are_quantised_as_a_png_would_be() -> None:
    assert as_bytes(torch.tensor([0.0, 0.4999, 0.5, 1.0])).tolist() == [0, 127, 128, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_bytes(every / 255), every) and as_bytes(every) is every


def test_weights_that_are_not_there_are_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=r"weights-inception-2015-12-05-6726825d\.pth in .*checkpoints; .*github\.com"):
        InceptionFeatures.load()
    with pytest.raises(UsageError, match="weights: there is no file"):
        InceptionFeatures.load(tmp_path / "nothing.pth")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x.pth").touch()
    assert find_weights(None, "x.pth", "y") == tmp_path / "checkpoints" / "x.pth"
    with pytest.raises(UsageError, match="resizer: expected tf1-bilinear or antialiased-bilinear, got 'area'"):
        InceptionFeatures.load(resizer="area")  # type: ignore[arg-type]


def test_without_torch_fidelity_it_says_what_to_install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *more: object, **named: object) -> object:
        if name == "torch_fidelity":
            raise ModuleNotFoundError("No module named 'torch_fidelity'", name=name)
        return real(name, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "torch_fidelity", raising=False)
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"torch_fidelity.*: pip install 'ldp-fast\[inception\]'") as raised:
        InceptionFeatures.load(tmp_path / "weights.pth")
    assert "\n" not in str(raised.value)


class Runs:
    """A pickle that would run something when it is opened."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_no_code_of_a_file_is_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Runs()}, tmp_path / "weights.pth")
    monkeypatch.setattr(module, "_inception", lambda: pytest.fail)
    with pytest.raises(UsageError, match="expected a state dict, tensors by name and nothing else"):
        InceptionFeatures.load(tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_may_be_safetensors(tmp_path: pathlib.Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors")["a"].tolist() == [1, 1]
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match="weights: could not read"):
        read_weights(tmp_path / "bad.safetensors")
