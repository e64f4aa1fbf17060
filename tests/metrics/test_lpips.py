"""LPIPS of all pairs against a loop over pairs in float64; networks against their definitions."""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldp_fast.errors import UsageError
from ldp_fast.metrics.lpips import Lpips, all_pairs, pairwise
from ldp_fast.metrics.lpips_networks import SCALE, SHIFT, feature_stack


class Small:
    """Two levels of one convolution each, with weights that differ and a channel that does not count."""

    name, calibrated, side, digest = "small", False, 8, "0"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3, stride=2)
        self.weights = [torch.tensor([0.5, 0.0, 2.0, 1.0]), torch.rand(5)]

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        first = self.one(pixels).relu()
        return [first, self.two(first)]

    def refuse(self, side: int) -> str:
        return "" if side >= 5 else "at least 5"


def loop(levels: list[torch.Tensor], weights: list[torch.Tensor]) -> list[float]:
    """The distance as the paper has it, pair by pair, in float64."""
    found = []
    for i, j in itertools.combinations(range(len(levels[0])), 2):
        total = 0.0
        for level, weight in zip(levels, weights, strict=True):
            a, b = (x.double() / (x.double().square().sum(0, keepdim=True).sqrt() + 1e-10) for x in level[[i, j]])
            total += float(((a - b).square() * weight.double().view(-1, 1, 1)).sum(0).mean())
        found.append(total)
    return found


@torch.no_grad()
def test_all_pairs_are_a_loop_over_pairs() -> None:
    levels, pictures = Small(), torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = loop(levels(pictures), levels.weights)
    features = Lpips(levels)(pictures)
    found = all_pairs(features, alike=4)
    assert (found.pictures, found.pairs) == (9, 36)
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-6)
    assert found.std == pytest.approx(np.std(expected), rel=1e-6)
    order = sorted(zip(expected, itertools.combinations(range(9), 2), strict=True))[:4]
    assert [(i, j) for i, j, _ in found.alike] == [pair for _, pair in order]
    assert [d for *_, d in found.alike] == pytest.approx([d for d, _ in order], rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 24),
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([64, 600, 5000, 2**20]),
    st.integers(0, 9),
)
def test_all_pairs_are_exact_for_any_tiles_and_duplicates(
    count: int, columns: int, copies: int, memory: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(count, columns, generator=generator).repeat(copies, 1) + 10
    i, j = torch.triu_indices(len(features), len(features), 1)
    exact = (features[i].double() - features[j].double()).square().sum(1)
    shares: list[float] = []
    found = all_pairs(features, alike=5, memory=memory, progress=shares.append)
    assert found.pairs == len(exact)
    assert found.mean == pytest.approx(float(exact.mean()), rel=1e-7, abs=1e-11 * columns)
    assert found.std == pytest.approx(float(exact.std(correction=0)), rel=1e-6, abs=1e-9 * columns)
    least = exact.sort().values[:5].tolist()
    assert [d for *_, d in found.alike] == pytest.approx(least, rel=1e-6, abs=1e-10 * columns)
    assert all(d >= 0 and a < b for a, b, d in found.alike)
    if copies > 1:
        assert found.alike[0][2] == 0.0, "equal rows: exactly zero"
    assert sum(shares) == pytest.approx(1)


def test_small_distances_of_large_features_keep_their_digits() -> None:
    features = torch.full((3, 1000), 0.3)
    features[1, 0] += 1e-4
    features[2, 1] += 1e-2
    exact = sorted(pairwise(features[[0, 0, 1]], features[[1, 2, 2]]).tolist())
    assert [d for *_, d in all_pairs(features).alike] == pytest.approx(exact, rel=1e-5)


def test_equal_distances_are_listed_by_position() -> None:
    assert all_pairs(torch.zeros(600, 2), alike=3).alike == ((0, 1, 0.0), (0, 2, 0.0), (0, 3, 0.0))
    assert all_pairs(torch.eye(4), alike=0).alike == ()


def test_rows_may_be_arrays_files_and_lists(tmp_path: pathlib.Path) -> None:
    features = torch.rand(7, 30)
    np.save(tmp_path / "features.npy", features.numpy())
    file = np.load(tmp_path / "features.npy", mmap_mode="r")
    expected = all_pairs(features)
    for rows in (features.numpy(), file, list(features), [x.numpy() for x in features]):
        assert all_pairs(rows) == expected
        assert torch.equal(pairwise(rows, features.flip(0)), pairwise(features, file[::-1].copy()))
    assert pairwise(features, features).tolist() == [0.0] * 7


@pytest.mark.parametrize("rows", [torch.zeros(1, 4), torch.zeros(0, 4)])
def test_fewer_than_two_pictures_are_refused(rows: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=f"at least 2 pictures, got {len(rows)}"):
        all_pairs(rows)


def test_what_is_not_finite_or_not_paired_is_refused() -> None:
    bad = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [1.0, 1.0]])
    with pytest.raises(UsageError, match="finite"):
        all_pairs(bad)
    with pytest.raises(UsageError, match="finite"):
        pairwise(bad, bad)
    with pytest.raises(UsageError, match="as many pictures in both lists, got 3 and 2"):
        pairwise(bad, bad[:2])


def test_sizes_and_kinds_may_be_mixed() -> None:
    lpips = Lpips(Small())
    floats = torch.rand(3, 8, 8)
    small, wide = torch.rand(3, 5, 6), (torch.rand(3, 8, 20) * 255).byte()
    together = lpips([floats, wide, small, floats])
    assert together.shape == (4, lpips.dimension) and together.dtype == torch.float32
    torch.testing.assert_close(together, torch.cat([lpips([x]) for x in (floats, wide, small, floats)]))
    torch.testing.assert_close(lpips([wide]), lpips([wide / 255]))
    assert lpips.name == "lpips-like (small), 8 px" and Lpips(Small(), 16).name.endswith("16 px")
    for wrong in (torch.rand(1, 8, 8), torch.rand(3, 8, 8) * 2, torch.full((3, 8, 8), float("nan"))):
        with pytest.raises(ValueError, match="pictures: expected"):
            lpips([wrong])


def saved_network(kind: str, folder: pathlib.Path, **changes: torch.Tensor) -> pathlib.Path:
    """A file like torchvision's, with random weights."""
    torch.manual_seed(0)
    state = {f"features.{name}": value for name, value in feature_stack(kind).state_dict().items()}
    path = folder / f"{kind}.pth"
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)} | changes, path)
    return path


@torch.no_grad()
def test_alex_is_the_paper_s_distance(tmp_path: pathlib.Path) -> None:
    lpips = Lpips.load("alex", weights=saved_network("alex", tmp_path), side=32)
    assert lpips.name == "LPIPS 0.1 (alex), 32 px"
    pictures = torch.rand(4, 3, 32, 32)
    shift, scale = (torch.tensor(x).view(1, 3, 1, 1) for x in (SHIFT, SCALE))
    torch.manual_seed(0)
    x, levels = (2 * pictures - 1 - shift) / scale, []
    for layer in feature_stack("alex"):
        x = layer(x)
        if isinstance(layer, torch.nn.ReLU):
            levels.append(x.clone())
    assert [x.shape[1] for x in levels] == [64, 192, 384, 256, 256]
    expected = loop(levels, lpips._levels.weights)
    features = lpips(pictures)
    assert all_pairs(features).mean == pytest.approx(np.mean(expected), rel=1e-5)
    again = Lpips.load("alex", weights=saved_network("alex", tmp_path), side=32)
    assert again.digest == lpips.digest


@pytest.mark.parametrize("backbone", ["vae:primitives", "clip:primitives"])
def test_the_embedded_networks_are_lpips_like(backbone: str) -> None:
    lpips = Lpips.load(backbone)
    assert lpips.name == f"lpips-like ({backbone}), 128 px"
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 128, 128, generator=generator)
    near = (picture + 0.02 * torch.rand(3, 128, 128, generator=generator)).clamp(0, 1)
    found = all_pairs(lpips([picture, near, 1 - picture, picture]))
    assert found.alike[0] == (0, 3, 0.0)
    assert found.alike[1][:2] == (0, 1) and 0 < found.alike[1][2] < found.alike[-1][2] <= 4


def test_clip_levels_are_the_tokens_after_every_block() -> None:
    lpips, pictures = Lpips.load("clip:primitives"), torch.rand(2, 3, 128, 128)
    clip = lpips._levels._clip
    with torch.no_grad():
        pixels = clip._normalised(pictures)
        states = clip.towers.network.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
    unit = torch.nn.functional.normalize(torch.stack(states), dim=-1)
    expected = (unit[:, 0] - unit[:, 1]).square().sum(-1).mean()
    assert float(pairwise(*lpips(pictures).split(1))) == pytest.approx(float(expected), rel=1e-5)


def test_what_cannot_be_loaded_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    torch.save({"features.0.weight": torch.zeros(1), "step": 3}, tmp_path / "other.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    torch.save({"lin0.model.1.weight": torch.full((1, 64, 1, 1), -1.0)}, tmp_path / "heads.pth")
    alex = saved_network("alex", tmp_path)
    refused = {
        ("squeeze", None): "backbone: expected alex, vgg, clip:NAME or vae:NAME, got 'squeeze'",
        ("vae:", None): "backbone: expected alex",
        ("vae:primitives", alex): "weights: expected only with alex and vgg",
        ("vae:nowhere/at/all", None): "backbone: could not load",
        (
            "alex",
            None,
        ): r"alexnet-owt-7be5be79\.pth in .*hub/checkpoints; .*fetched from https://download\.pytorch\.org",
        ("alex", tmp_path / "none.pth"): "weights: there is no file",
        ("alex", text): "weights: ",
        ("alex", tmp_path / "other.pth"): "weights: expected a state dict, tensors by name and nothing else",
        ("alex", tmp_path / "whole.pth"): "weights: expected a state dict, tensors by name and nothing else",
        ("vgg", alex): r"weights: expected those of torchvision's vgg16 in .*: \d+ missing \(features\.\d+\.bias, ",
    }
    for (backbone, weights), message in refused.items():
        with pytest.raises(UsageError, match=message) as raised:
            Lpips.load(backbone, weights=weights)
        assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match=r"LPIPS' heads for alex in .*: 4 missing"):
        Lpips.load("alex", weights=alex, heads=tmp_path / "heads.pth")
    for backbone, side, expected in (("alex", 30, "at least 31"), ("vae:primitives", 60, "a multiple of 8")):
        with pytest.raises(UsageError, match=f"side: expected {expected} pixels"):
            Lpips.load(backbone, weights=alex if backbone == "alex" else None, side=side)


def test_weights_are_found_in_torch_s_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    saved_network("alex", tmp_path).rename(tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    assert Lpips.load("alex").side == 256
