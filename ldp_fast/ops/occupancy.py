"""`torch.ops.ldp_fast.occupancy_samples`, `occupancy_update` and `occupancy_bits`: the grid the march asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..reference.occupancy import MEAN_TILE
from . import _native
from ._library import define, register, register_no_gradient

REASON = "an occupancy grid follows the field, the field does not follow it"


def _samples_fake(
    ema: Tensor,
    threshold: Tensor,
    seed: Tensor,
    uniform: int,
    occupied: int,
    box: Sequence[float],
    resolution: int,
    cascades: int,
) -> tuple[Tensor, Tensor]:
    size = cascades * resolution**3 if uniform == 0 and occupied == 0 else max(0, uniform + occupied)
    return ema.new_empty(size, dtype=torch.int64), ema.new_empty(size, 3)


def _update_fake(ema: Tensor, cells: Tensor, densities: Tensor, decay: float) -> Tensor:
    return torch.empty_like(ema)


def _bits_fake(ema: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    return ema.new_empty(ema.shape[0] // 8, dtype=torch.uint8), ema.new_empty(1)


def _bits_native(bits: Tensor, used_threshold: Tensor, ema: Tensor, threshold: float) -> None:
    workspace = ema.new_empty(-(-ema.shape[0] // MEAN_TILE), dtype=torch.float64)
    _native.function("occupancy_bits")(bits, used_threshold, workspace, ema, threshold)


define(
    "occupancy_samples(Tensor ema, Tensor threshold, Tensor seed, int uniform, int occupied, float[] box, "
    "int resolution, int cascades) -> (Tensor cells, Tensor positions)"
)
register("occupancy_samples", reference=reference.occupancy_samples, fake=_samples_fake, native=True)
register_no_gradient("occupancy_samples", REASON)

define("occupancy_update(Tensor ema, Tensor cells, Tensor densities, float decay) -> Tensor")
register("occupancy_update", reference=reference.occupancy_update, fake=_update_fake, native=True)
register_no_gradient("occupancy_update", REASON)

define("occupancy_bits(Tensor ema, float threshold) -> (Tensor bits, Tensor used_threshold)")
register("occupancy_bits", reference=reference.occupancy_bits, fake=_bits_fake, native=_bits_native)
register_no_gradient("occupancy_bits", REASON)
