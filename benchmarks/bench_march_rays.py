"""march_rays: the samples of a camera's rays, from 32 × 32 to 512 × 512, against the reference in PyTorch.

The camera looks at a shell that fills a twentieth of 128³ cells (`shell`), or everything is occupied (`everything`);
64 steps along the box's diagonal, and 1024 as latent-nerf has them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import reference
from tests.support import samples

from .timing import measure

SIZES = {"small": 32, "ldm": 64, "twice": 128, "large": 512}


def camera(side: int, device: str) -> tuple[Tensor, Tensor]:
    """Rays of a pinhole camera that sees all of `BOX`: origins and directions [side², 3]."""
    at = torch.linspace(-0.5, 0.5, side, device=device)
    y, x = torch.meshgrid(at, at, indexing="ij")
    directions = torch.stack([x, y, -torch.ones_like(x)], dim=-1).view(-1, 3)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    return torch.tensor([0.0, 0.0, 2.5], device=device).repeat(side * side, 1), directions


def arguments(size: str, scene: str, steps: int, device: str) -> dict[str, Any]:
    origins, directions = camera(SIZES[size], device)
    bits = None
    if scene == "shell":
        bits, _ = torch.ops.ldp_fast.occupancy_bits(samples.occupancy.shell_average(128, device=device), 0.01)
    step = math.dist(samples.occupancy.BOX[:3], samples.occupancy.BOX[3:]) / steps
    made = {"origins": origins, "directions": directions, "bits": bits, "seed": torch.zeros(1, device=device).long()}
    made |= {"box": samples.occupancy.BOX, "resolution": 128, "cascades": 1, "near": 0.1, "far": math.inf, "step": step}
    made |= {"cone_angle": 0.0, "max_step": math.inf, "jitter": True, "capacity": 1}
    required = int(torch.ops.ldp_fast.march_rays(**made)[4][1])
    return made | {"capacity": required}


@pytest.mark.parametrize("side", ["reference", "ours"])
@pytest.mark.parametrize("size, steps", [(size, steps) for size in SIZES for steps in (64, 1024)])
@pytest.mark.parametrize("scene", ["shell", "everything"])
def test_march_rays(benchmark: Any, device: str, side: str, size: str, scene: str, steps: int) -> None:
    if size == "large" and steps == 1024 and (scene == "everything" or side == "reference"):
        pytest.skip("2·10⁸ lattice points: too long for a reference, and too many samples for a buffer")
    inputs = arguments(size, scene, steps, device)
    function = reference.march_rays if side == "reference" else torch.ops.ldp_fast.march_rays
    benchmark.group = f"march_rays {size} {scene} {steps} steps {device}"
    benchmark.extra_info |= {"rays": SIZES[size] ** 2, "samples": inputs["capacity"]}
    measure(benchmark, partial(function, **inputs), device, graph=side == "ours")
