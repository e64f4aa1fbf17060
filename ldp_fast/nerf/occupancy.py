"""The occupancy grid: which cells of space the marcher may skip."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from .. import checks
from ..ops import occupancy as _registers  # noqa: F401


class HasDensity(Protocol):
    """A field, as far as the occupancy grid knows it."""

    def density(self, positions: Tensor) -> Tensor: ...


class OccupancyGrid(nn.Module):
    """Bits that say where a step through space may absorb something, from a moving average of sampled densities.

    A cell's average is max(decay · average, density · step at a random point of the cell); it is occupied where that
    is at least min(threshold, mean of all averages) (instant-ngp's rule: optical thickness, 0.01). Cells that no update
    has sampled yet count as occupied. With several cascades, cascade k of K covers the outermost box scaled about its
    centre by 2^(k − K + 1), each with as many cells. Everything stays on the device and nothing waits for it; random
    points are counted on from a seed, so that a run can be repeated and resumed.

    What is skipped gets no gradient. A field that starts as thin fog everywhere, such as `VoxelField` with its default
    shift, has cells below its mean at once: let it grow before the first update, or render it without a grid.

    Args:
        bound: half the side of the outermost box.
        resolution: cells along an axis, a power of two, 8 to 512.
        cascades: K, 1 to 8.
        threshold: of the optical thickness, density · step: 0.01 skips what absorbs less than one per cent.
        step: the length of a step, in world units; by default the box's diagonal over 256, as `LatentRenderer` has it.
            With fewer steps per ray a step absorbs more: give `renderer.step`.
        decay: of the average at an update, in (0, 1].
        seed: of the random points, below 2³¹.

    Attributes:
        average: [K·resolution³] float32 buffer of optical thicknesses, in Morton order within a cascade; NaN where no
            update has been.
        bits: [K·resolution³ / 8] uint8 buffer.
        used_threshold: [1] float32 buffer, what the last update used.
        updates: [1] int64 buffer, how many there were.

    Raises:
        ValueError: an argument out of range.

    Examples:
        A ball of radius ½ fills 6.5 % of the box, and some of the cells at its surface:

        >>> from ldp_fast.nerf import OccupancyGrid
        >>> grid = OccupancyGrid(resolution=32)
        >>> float(grid.occupied_share())  # before the first update
        1.0
        >>> grid.update(lambda positions: 100.0 * (positions.norm(dim=1) < 0.5))
        >>> 0.05 < float(grid.occupied_share()) < 0.08
        True
    """

    def __init__(
        self,
        bound: float = 1.0,
        resolution: int = 128,
        cascades: int = 1,
        *,
        threshold: float = 0.01,
        step: float | None = None,
        decay: float = 0.95,
        seed: int = 0,
    ):
        super().__init__()
        name = "OccupancyGrid"
        self.bound = checks.number(name, "bound", bound, 0.0, open_low=True)
        resolution = checks.whole(name, "resolution", resolution, 8, 512)
        if resolution & (resolution - 1):
            checks.fail(name, "resolution", "a power of two", str(resolution))
        self.resolution, self.cascades = resolution, checks.whole(name, "cascades", cascades, 1, 8)
        self.threshold = checks.number(name, "threshold", threshold, 0.0)
        diagonal = 2 * math.sqrt(3) * self.bound
        self.step = checks.number(name, "step", diagonal / 256 if step is None else step, 0.0, open_low=True)
        self.decay = checks.number(name, "decay", decay, 0.0, open_low=True)
        if self.decay > 1:
            checks.fail(name, "decay", "a number in (0, 1]", repr(decay))
        self.seed = checks.whole(name, "seed", seed, 0, 2**31 - 1)
        cells = self.cascades * resolution**3
        self.average: Tensor
        self.bits: Tensor
        self.used_threshold: Tensor
        self.updates: Tensor
        self.register_buffer("average", torch.full((cells,), torch.nan))
        self.register_buffer("bits", torch.full((cells // 8,), 255, dtype=torch.uint8))
        self.register_buffer("used_threshold", torch.zeros(1))
        self.register_buffer("updates", torch.zeros(1, dtype=torch.int64))

    @property
    def box(self) -> list[float]:
        """The outermost box: minimum and maximum, as the operators take it."""
        return [-self.bound] * 3 + [self.bound] * 3

    @torch.no_grad()
    def update(self, field: HasDensity | Callable[[Tensor], Tensor], *, full: bool = True) -> None:
        """Samples the density and renews the bits.

        Args:
            field: has `density(positions [n, 3]) -> [n]`, or is such a function; world coordinates.
            full: every cell once; else as many as a quarter of the cells drawn at random and as many again among the
                occupied ones (instant-ngp's later updates).

        Raises:
            ValueError: densities of another shape than [n].
        """
        quarter = self.average.numel() // 4
        seed = self.updates + self.seed * 2**32
        cells, positions = torch.ops.ldp_fast.occupancy_samples(
            self.average,
            self.used_threshold,
            seed,
            0 if full else quarter,
            0 if full else quarter,
            self.box,
            self.resolution,
            self.cascades,
        )
        if not hasattr(field, "density") and not callable(field):
            checks.fail("OccupancyGrid", "field", "a field or a function", type(field).__name__, TypeError)
        density = field.density(positions) if hasattr(field, "density") else field(positions)
        if not isinstance(density, Tensor) or density.shape != cells.shape:
            got = checks.shape_text(density) if isinstance(density, Tensor) else type(density).__name__
            checks.fail("OccupancyGrid", "field", f"densities of shape [{len(cells)}]", got)
        density = (density * self.step).to(self.average.dtype).contiguous()
        self.average.copy_(torch.ops.ldp_fast.occupancy_update(self.average, cells, density, self.decay))
        bits, used = torch.ops.ldp_fast.occupancy_bits(self.average, self.threshold)
        self.bits.copy_(bits)
        self.used_threshold.copy_(used)
        self.updates.add_(1)

    def occupied_share(self) -> Tensor:
        """The share of occupied cells, [] float32 on the device."""
        ones = sum((self.bits >> i & 1).sum(dtype=torch.float32) for i in range(8))
        return ones / self.average.numel()  # type: ignore[operator, return-value]

    def extra_repr(self) -> str:
        return f"{self.resolution}³ × {self.cascades}, bound={self.bound:g}, threshold={self.threshold:g}"
