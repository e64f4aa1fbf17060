"""What marching and compositing refuse, and that looking at values costs no wait for a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldp_fast import checks
from ldp_fast.nerf import OccupancyGrid, composite, march_rays
from ldp_fast.nerf.marching import check_box

from ..ops.common import NoSync


def march(**changes: Any) -> Any:
    rays = {"origins": torch.tensor([[0.0, 0.0, -2.0]] * 3), "directions": torch.tensor([[0.0, 0.0, 1.0]] * 3)}
    return march_rays(**{**rays, "capacity": 1000, "step": 0.1, **changes})


def blend(offsets: list[int], **changes: Any) -> Any:
    density, distances = torch.ones(6), torch.arange(6.0)
    return composite(density, torch.ones(6, 4), distances, torch.ones(6), torch.tensor(offsets), **changes)


def rays_with(value: float) -> Tensor:
    rays = torch.ones(3, 3)
    rays[1, 2] = value
    return rays


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"far": None}, ValueError, "far: expected a number above near, 0, got None"),
        ({"far": "x"}, ValueError, "far: expected a number above near, 0, got 'x'"),
        ({"far": math.nan}, ValueError, "far: expected a number above near, 0, got nan"),
        ({"far": True}, ValueError, "far: expected a number above near, 0, got True"),
        ({"near": 2.0, "far": 2.0}, ValueError, "far: expected a number above near, 2, got 2.0"),
        ({"near": "x"}, ValueError, "near: expected a finite number of at least 0, got 'x'"),
        ({"jitter": "no"}, TypeError, "jitter: expected True or False, got 'no'"),
        ({"jitter": None}, TypeError, "jitter: expected True or False, got None"),
        ({"seed": 2**70}, ValueError, f"seed: expected a whole number of {-(2**63)} to {2**63 - 1}, got {2**70}"),
        ({"seed": -(2**63) - 1}, ValueError, "seed: expected a whole number of"),
        ({"seed": "x"}, TypeError, "seed: expected a whole number or an int64 tensor, got 'x'"),
        ({"seed": True}, TypeError, "seed: expected a whole number or an int64 tensor, got True"),
        ({"capacity": True}, ValueError, "capacity: expected a whole number of at least 1, got True"),
        ({"capacity": 3.0}, ValueError, "capacity: expected a whole number of at least 1, got 3.0"),
        ({"step": True}, ValueError, "step: expected a finite number above 0, got True"),
        ({"box": "abcdef"}, ValueError, "box: expected six finite numbers, minimum and maximum, got 'abcdef'"),
        ({"box": "001111"}, ValueError, "box: expected six finite numbers, minimum and maximum, got '001111'"),
        ({"box": [None] * 6}, ValueError, "box: expected six finite numbers, minimum and maximum, got [None"),
        ({"box": 1.0}, ValueError, "box: expected six finite numbers, minimum and maximum, got 1.0"),
        ({"box": [0.0] * 3}, ValueError, "box: expected six finite numbers, minimum and maximum, got 3 numbers"),
        ({"box": [-1, -1, -1, 1, 1, math.inf]}, ValueError, "box: expected a finite number, got inf"),
        (
            {"origins": rays_with(math.inf)},
            ValueError,
            "origins: expected finite numbers, got [1.0, 1.0, inf] in ray 1",
        ),
        (
            {"directions": rays_with(math.nan)},
            ValueError,
            "directions: expected finite numbers, got [1.0, 1.0, nan] in",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else None,
)
def test_marching_refuses(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        march(**changes)
    assert str(caught.value).startswith(f"march_rays: {words}"), caught.value


def test_marching_takes_numpys_numbers() -> None:
    wanted = march(near=0.5, far=2.5, seed=7, jitter=True)
    found = march(
        capacity=np.int32(1000),
        step=np.float64(0.1),
        box=np.array([-1.0, -1, -1, 1, 1, 1]),
        near=np.float32(0.5),
        far=np.float32(2.5),
        seed=np.int64(7),
        jitter=np.bool_(True),
    )
    assert int(wanted.counts[0]) > 0 and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    march(seed=2**63 - 1), march(seed=-(2**63))


def test_boxes_of_every_kind() -> None:
    wanted = [-1.0, -2.0, -3.0, 1.0, 2.0, 3.0]
    for box in (wanted, tuple(wanted), np.array(wanted), torch.tensor(wanted), [np.float32(x) for x in wanted]):
        assert check_box("test", box) == wanted


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        ([-1, 2, 6], "offsets from 0 to at most 6, the samples, got -1 to 6"),
        ([0, 2, 7], "offsets from 0 to at most 6, the samples, got 0 to 7"),
        ([0, 4, 3, 6], "offsets that do not decrease, got 4 and then 3 at ray 1"),
        ([0, 100, 6], "offsets that do not decrease, got 100 and then 6 at ray 1"),
    ],
)
def test_compositing_refuses_offsets(offsets: list[int], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        blend(offsets)
    assert str(caught.value) == f"composite: ray_offsets: expected {words}"


def test_compositing_takes_padding_before_and_behind_and_rays_without_samples() -> None:
    assert blend([1, 3, 3, 5])[0].shape == (3, 4)
    assert blend([0])[0].shape == (0, 4)


@pytest.mark.parametrize("early_stop", [1.0, 2, -0.1, math.nan, "x", True])
def test_compositing_refuses_an_early_stop(early_stop: Any) -> None:
    with pytest.raises(ValueError, match="composite: early_stop: expected a"):
        blend([0, 6], early_stop=early_stop)


def test_looking_at_values_calls_no_operator_that_waits() -> None:
    with NoSync():
        march()
        with pytest.raises(ValueError, match="in ray 1"):
            march(origins=rays_with(math.nan))
    offsets = torch.tensor([0, 9])
    with NoSync(), pytest.raises(ValueError, match="offsets from 0"):
        composite(torch.ones(6), torch.ones(6, 4), torch.ones(6), torch.ones(6), offsets)


def test_values_are_looked_at_only_where_they_are() -> None:
    assert np.array_equal(checks.memory(torch.nn.Parameter(torch.ones(2))), [1, 1])
    assert checks.memory(torch.ones(2, device="meta")) is None
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(checks.memory(x))
        return x.sum()

    torch.func.grad(look)(torch.ones(2))
    torch.vmap(look)(torch.ones(2, 2))
    assert seen == [None, None]

    def compiled(x: Tensor) -> Tensor:
        return x + (1 if checks.memory(x) is None else 2)

    assert torch.equal(torch.compile(compiled, backend="eager", fullgraph=True)(torch.zeros(2)), torch.ones(2))


def test_whole_and_real_numbers_of_numpy() -> None:
    for value in (3, np.int64(3), np.uint8(3)):
        found = checks.whole("test", "x", value, 0)
        assert found == 3 and type(found) is int
    for value in (3, 3.0, np.float32(3), np.float16(3), np.int64(3)):
        found = checks.number("test", "x", value)
        assert found == 3 and type(found) is float
    for value in (True, np.bool_(True), "3", None, 1j, [3]):
        with pytest.raises(ValueError, match="test: x: expected a whole number of at least 0, got"):
            checks.whole("test", "x", value, 0)
        with pytest.raises(ValueError, match="test: x: expected a finite number, got"):
            checks.number("test", "x", value)


def test_a_grid_of_numpys_numbers() -> None:
    grid = OccupancyGrid(bound=np.float32(1), resolution=np.int64(16))
    assert int(march(occupancy=grid).counts[0]) > 0
