"""`torch.ops.ldp_fast.march_rays`: packed samples of rays, in a buffer of fixed capacity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..reference.march_rays import SCAN_TILE
from . import _native
from ._library import define, register, register_no_gradient


def _fake(
    origins: Tensor,
    directions: Tensor,
    bits: Tensor | None,
    seed: Tensor,
    box: Sequence[float],
    resolution: int,
    cascades: int,
    near: float,
    far: float,
    step: float,
    cone_angle: float,
    max_step: float,
    jitter: bool,
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = max(0, capacity)  # the native operator has a sentence for less
    return (
        origins.new_empty(rows, 3),
        origins.new_empty(rows),
        origins.new_empty(rows),
        origins.new_empty(origins.shape[0] + 1, dtype=torch.int64),
        origins.new_empty(2, dtype=torch.int64),
    )


def _run_native(
    positions: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    counts: Tensor,
    origins: Tensor,
    *arguments: object,
    **named: object,
) -> None:
    workspace = origins.new_empty(-(-origins.shape[0] // SCAN_TILE), dtype=torch.int64)
    _native.function("march_rays")(
        positions, distances, steps, ray_offsets, counts, workspace, origins, *arguments, **named
    )


define(
    "march_rays(Tensor origins, Tensor directions, Tensor? bits, Tensor seed, float[] box, int resolution, "
    "int cascades, float near, float far, float step, float cone_angle, float max_step, bool jitter, int capacity) "
    "-> (Tensor positions, Tensor distances, Tensor steps, Tensor ray_offsets, Tensor counts)"
)
register("march_rays", reference=reference.march_rays, fake=_fake, native=_run_native)
register_no_gradient(
    "march_rays", "which cells a ray crosses is not differentiable; cameras are not optimised through it"
)
