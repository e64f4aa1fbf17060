"""`HashGrid(kind="tiled")` is tiny-cuda-nn's tiled grid; what had that name before is `kind="wrapped"`."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from ldp_fast.nerf import HashGrid, LatentField, tcnn

SMALL: dict[str, Any] = {
    "n_levels": 4,
    "n_features": 2,
    "log2_table_size": 6,
    "base_resolution": 4,
    "finest_resolution": 32,
}


def made(kind: str, **options: Any) -> HashGrid:
    grid = HashGrid(**{**SMALL, **options}, kind=kind).double()
    torch.nn.init.normal_(grid.table, generator=torch.Generator().manual_seed(1))
    return grid


def levels_of(grid: HashGrid, most: int) -> list[tuple[float, int, int]]:
    """Scale, vertices along an axis and entries of every level."""
    found = []
    for level, scale in enumerate(grid.scales):  # rounded to float32 on the way, which shows in float64
        assert scale == pytest.approx(grid.base_resolution * grid.per_level_scale**level - 1, rel=1e-6)
        vertices = math.ceil(scale) + 1
        found.append((scale, vertices, min((vertices**3 + 7) // 8 * 8, most)))
    return found


def looped(grid: HashGrid, x: np.ndarray, most: int, number: Any) -> np.ndarray:
    """The encoding, one corner after another; `number(place, vertices, entries)` is a vertex's before the modulo."""
    table, out = grid.table.detach().numpy(), np.zeros((len(x), grid.n_outputs))
    for s, position in enumerate(x):
        first = 0
        for level, (scale, vertices, entries) in enumerate(levels_of(grid, most)):
            at = position * scale + 0.5
            cell = np.floor(at)
            for corner in itertools.product((0, 1), repeat=3):
                weight = math.prod(t if up else 1 - t for t, up in zip(at - cell, corner, strict=True))
                place = [(int(c) + up) % 2**32 for c, up in zip(cell, corner, strict=True)]
                entry = first + number(place, vertices, entries) % 2**32 % entries
                out[s, 2 * level : 2 * level + 2] += weight * table[entry]
            first += entries
    assert first == len(table)
    return out


def every_axis(place: list[int], vertices: int, entries: int) -> int:
    return sum(p * vertices**axis for axis, p in enumerate(place))


def axes_within(place: list[int], vertices: int, entries: int) -> int:
    return sum(p * vertices**axis for axis, p in enumerate(place) if vertices**axis <= entries)


POSITIONS = torch.rand(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_tiled_is_tiny_cuda_nns() -> None:
    """min(vertices³ rounded up to 8, base³) entries, all axes counted, also where a plane has more than a level."""
    for base in (3, 4, 8):
        grid = made("tiled", base_resolution=base)
        assert grid.resolutions[-1] ** 2 > base**3
        expected = looped(grid, POSITIONS.numpy(), base**3, every_axis)
        np.testing.assert_allclose(grid(POSITIONS).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_tiled_takes_no_notice_of_the_table_size() -> None:
    sizes = {made("tiled", log2_table_size=n).offsets[-1] for n in (3, 6, 19)}
    assert sizes == {4 * 64}


def test_wrapped_is_what_tiled_was() -> None:
    grid = made("wrapped")
    assert grid.resolutions[-1] ** 2 > 64  # z is ignored there
    expected = looped(grid, POSITIONS.numpy(), 64, axes_within)
    np.testing.assert_allclose(grid(POSITIONS).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_more_vertices_than_have_numbers_are_refused() -> None:
    assert HashGrid(n_levels=2, finest_resolution=1625, kind="tiled").resolutions[-1] == 1625
    with pytest.raises(ValueError, match="finest resolution: expected at most 1625 vertices along an axis in a tiled"):
        HashGrid(n_levels=2, finest_resolution=1700, kind="tiled")
    with pytest.raises(ValueError, match="base_resolution: expected at most 1625 in a tiled grid, got 1626"):
        HashGrid(n_levels=1, base_resolution=1626, finest_resolution=1626, kind="tiled")


@pytest.mark.parametrize("kind", ["hash", "tiled"])
def test_tiny_cuda_nn_is_told_the_kind_and_its_vector_loads(kind: str) -> None:
    field, other = (LatentField(HashGrid(**SMALL, kind=kind), hidden=32) for _ in range(2))
    encoding, _ = tcnn.configurations(field)
    assert encoding["otype"] == {"hash": "HashGrid", "tiled": "TiledGrid"}[kind]
    flat = tcnn.to_tcnn(field)
    tcnn.from_tcnn(other, flat)
    assert torch.equal(other.grid.table, field.grid.table) and torch.equal(other.weights, field.weights)
    # The same parameters through the adapter that stands in for tiny-cuda-nn.
    from ldp_fast.integrations import tinycudann

    encoder = tinycudann.Encoding(3, encoding)
    assert encoder.params.numel() == field.grid.table.numel()
    with torch.no_grad():
        encoder.params.copy_(flat[-field.grid.table.numel() :])
    x = POSITIONS.float()
    torch.testing.assert_close(encoder(x).float(), field.grid(x), rtol=1e-6, atol=1e-8)


def test_wrapped_is_nothing_that_tiny_cuda_nn_has() -> None:
    field = LatentField(HashGrid(**SMALL, kind="wrapped"), hidden=32)
    for call in (tcnn.configurations, tcnn.to_tcnn, lambda f: tcnn.from_tcnn(f, torch.zeros(1))):
        with pytest.raises(ValueError, match=r"grid.kind: expected 'hash' or 'tiled', .* got 'wrapped'"):
            call(field)


def test_what_was_pickled_as_tiled_goes_on_as_wrapped() -> None:
    grid = made("wrapped")
    old = copy.deepcopy(grid)
    old.kind = "tiled"
    del old._indexing  # as a version before wrote it
    new = pickle.loads(pickle.dumps(old))
    assert new.kind == "wrapped" and torch.equal(new(POSITIONS), grid(POSITIONS))
    assert pickle.loads(pickle.dumps(made("tiled"))).kind == "tiled"


def test_an_old_state_does_not_become_tiny_cuda_nns_by_its_name() -> None:
    """With T = base³ the sizes agree, and nothing else would tell."""
    grid, state = made("tiled"), made("wrapped").state_dict()
    assert state["table"].shape == grid.table.shape
    state._metadata[""]["version"] = 1
    with pytest.raises(ValueError, match="kind: expected 'wrapped' for a table that was saved when"):
        grid.load_state_dict(state)
    made("wrapped").load_state_dict(state)
    grid.load_state_dict(made("tiled").state_dict())
    grid.load_state_dict({"table": torch.zeros_like(grid.table)})
