"""Ray marching: packed samples along rays, in occupied space."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..ops import march_rays as _registers  # noqa: F401
from .occupancy import OccupancyGrid


class RaySamples(NamedTuple):
    """Samples along rays, packed one ray after another into buffers of a fixed capacity.

    Attributes:
        positions: [M, 3] world coordinates.
        distances: [M] along the ray, in lengths of its direction.
        steps: [M] the length each stands for.
        ray_offsets: [R + 1] int64; ray r has the samples offsets[r] … offsets[r + 1].
        counts: [2] int64: how many were written, how many there are. More than were written means that the capacity
            was too small, and far samples of the last rays are missing.
    """

    positions: Tensor
    distances: Tensor
    steps: Tensor
    ray_offsets: Tensor
    counts: Tensor

    def cut(self, size: int) -> RaySamples:
        """The same with buffers cut to a size, which has to be `counts[0]` at least."""
        return self._replace(positions=self.positions[:size], distances=self.distances[:size], steps=self.steps[:size])


def check_box(what: str, box: Sequence[float]) -> list[float]:
    """Returns a box (minimum, maximum) as six finite numbers.

    Raises:
        ValueError: something else, another number of them, or a minimum that is not below its maximum.
    """
    wanted = "six finite numbers, minimum and maximum"
    if isinstance(box, (str, bytes)):
        checks.fail(what, "box", wanted, repr(box))
    try:
        sides = [float(x) for x in box]
    except (TypeError, ValueError, RuntimeError):
        checks.fail(what, "box", wanted, repr(box))
    if len(sides) != 6:
        checks.fail(what, "box", wanted, f"{len(sides)} numbers")
    for x in sides:
        checks.number(what, "box", x)
    for axis in range(3):
        if not sides[axis] < sides[axis + 3]:
            low, high = sides[axis], sides[axis + 3]
            checks.fail(what, "box", "a minimum below the maximum", f"{low:g} to {high:g} along {'xyz'[axis]}")
    return sides


def check_far(what: str, far: float, near: float) -> float:
    """Returns the far end of a march, which may be infinite.

    Raises:
        ValueError: it is not a number above the near end.
    """
    if not (checks.is_real(far) and far > near):
        checks.fail(what, "far", f"a number above near, {near:g}", repr(far))
    return float(far)


def seed_tensor(what: str, seed: int | Tensor, device: torch.device) -> Tensor:
    """Returns a seed as [1] int64 on a device. A tensor that lies there already is taken as it is: a captured graph can
    then change it.

    Raises:
        ValueError, TypeError: neither a number of 64 bits nor such a tensor.
    """
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != device:
            got = f"{seed.dtype} {checks.shape_text(seed)} on {seed.device}"
            checks.fail(what, "seed", f"an int64 tensor of one element on {device}", got)
        return seed.reshape(1)
    if isinstance(seed, bool) or not isinstance(seed, (int, numbers.Integral)):
        checks.fail(what, "seed", "a whole number or an int64 tensor", repr(seed), TypeError)
    seed = checks.whole(what, "seed", seed, -(2**63), 2**63 - 1)
    return torch.full((1,), seed, dtype=torch.int64, device=device)


def _check_rays(what: str, **rays: Tensor) -> None:
    """Checks that rays are finite, where that can be seen without waiting for a device."""
    for argument, tensor in rays.items():
        values = checks.memory(tensor)
        if values is not None and not (finite := np.isfinite(values)).all():
            ray = np.flatnonzero(~finite.all(axis=1))[0]
            checks.fail(what, argument, "finite numbers", f"{values[ray].tolist()} in ray {ray}")


@torch.no_grad()
def march_rays(
    origins: Tensor,
    directions: Tensor,
    *,
    capacity: int,
    step: float,
    box: Sequence[float] = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0),
    occupancy: OccupancyGrid | None = None,
    near: float = 0.0,
    far: float = math.inf,
    cone_angle: float = 0.0,
    max_step: float | None = None,
    jitter: bool = False,
    seed: int | Tensor = 0,
) -> RaySamples:
    """Marches rays through a box and keeps the samples in occupied cells.

    The samples of a ray lie on a lattice that begins where it enters the box (or at `near`); steps are `step` long, or
    grow with the distance: clamp(t·cone_angle, step, max_step). Skipping empty cells leaves the lattice as it is. With
    `jitter` each ray's lattice is shifted by a random part of a step, from a counter-based generator: the same seed
    gives the same samples on CPU and GPU, bit for bit. No gradients.

    A ray that is not finite is refused on a CPU. On a GPU, and while compiling, its values are not looked at, for the
    host would have to wait: such a ray gets no samples, and renders as background.

    Args:
        origins: [R, 3] float32, finite.
        directions: [R, 3], finite; distances are in their lengths.
        capacity: M, samples the buffers hold.
        step: the (smallest) length of a step.
        box: minimum and maximum; with an occupancy grid it has to be the grid's.
        occupancy: cells outside its occupied ones are skipped.
        near, far: distances between which to march; far may be infinite.
        cone_angle: 0 for steps of one length.
        max_step: longest step with a cone angle; unlimited by default.
        jitter: see above.
        seed: a number, or an int64 tensor [1] on the device.

    Returns:
        RaySamples.

    Raises:
        TypeError, ValueError: another dtype, shape or device; a box that is inverted or not the occupancy grid's; a
            number out of range; on a CPU, rays that are not finite.
    """
    name = "march_rays"
    checks.tensor(name, "origins", origins, ("R", 3))
    checks.tensor(name, "directions", directions, (len(origins), 3), origins)
    if origins.dtype != torch.float32 or directions.dtype != torch.float32:
        checks.fail(name, "origins", "float32 rays", f"{origins.dtype} and {directions.dtype}", TypeError)
    _check_rays(name, origins=origins, directions=directions)
    capacity = checks.whole(name, "capacity", capacity, 1)
    box = check_box(name, box)
    if occupancy is not None and box != occupancy.box:
        checks.fail(name, "box", f"the occupancy grid's, {occupancy.box}", str(box))
    if occupancy is not None and occupancy.bits.device != origins.device:
        checks.fail(name, "occupancy", f"a grid on {origins.device}", f"one on {occupancy.bits.device}")
    step = checks.number(name, "step", step, 0.0, open_low=True)
    near = checks.number(name, "near", near, 0.0)
    far = check_far(name, far, near)
    cone_angle = checks.number(name, "cone_angle", cone_angle, 0.0)
    longest = math.inf if max_step is None else checks.number(name, "max_step", max_step, step)
    return RaySamples(
        *torch.ops.ldp_fast.march_rays(
            origins.contiguous(),
            directions.contiguous(),
            None if occupancy is None else occupancy.bits,
            seed_tensor(name, seed, origins.device),
            box,
            128 if occupancy is None else occupancy.resolution,  # not looked at without bits
            1 if occupancy is None else occupancy.cascades,
            near,
            far,
            step,
            cone_angle,
            longest,
            checks.flag(name, "jitter", jitter),
            capacity,
        )
    )
