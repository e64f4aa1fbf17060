"""How clean a rendered object is: speckled normals, and fog about its outline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OPAQUE = 0.5
GREY = (0.1, 0.9)
# Pixels from the outline inwards whose normals mix the object with what is behind it.
RIM = 2
# Offsets to one of the two neighbours on a line through a pixel.
LINES = ((0, 1), (1, 0), (1, 1), (1, -1))
# Normals that are each turned by an angle e of their own, small and in any direction, lie off the nearest of the four
# lines' means by this much of it.
INDEPENDENT = 0.739


def normal_noise(normals: Tensor, opacity: Tensor) -> float:
    """The angle by which rendered normals differ from pixel to pixel where the surface does not: their speckle.

    A pixel's normal is compared with the mean of its two neighbours on each of four lines through it, and the smallest
    of the four angles counts: along a crease the normals stay as they are, and where the surface bends evenly the mean
    of two neighbours is what lies between. The mean over all pixels that are two pixels and more inside of the outline
    is scaled so that normals turned independently, each by a small angle, give the mean of these angles.

    Args:
        normals: [V, 3, H, W] of any length, as `RenderOutput.normals`; no normal (zeros) is off by a right angle.
        opacity: [V, 1, H, W] or [V, H, W] in [0, 1]; the object is where it is above 0.5.

    Returns:
        Degrees: 0 for smooth surfaces and those with straight edges, about 66 for random directions; NaN if nothing
        is far enough inside.

    Raises:
        ValueError: other shapes.
    """
    mask = _opacities(opacity) > OPAQUE
    if normals.dim() != 4 or normals.shape[1] != 3 or (len(normals), *normals.shape[2:]) != tuple(mask.shape):
        want = f"[{mask.shape[0]}, 3, {mask.shape[1]}, {mask.shape[2]}], as the opacity has it"
        raise ValueError(f"normal_noise: normals: expected {want}; got {list(normals.shape)}")
    inside = _eroded(mask, RIM)
    if not inside.any():
        return float("nan")
    unit = F.normalize(normals.double(), dim=1)
    deviations = []
    for down, right in LINES:
        one, other = (unit.roll((sign * down, sign * right), (2, 3)) for sign in (1, -1))
        between = F.normalize(one + other, dim=1)
        # Of two vectors with an angle between them, exact for small ones as well.
        sine, cosine = torch.linalg.cross(unit, between, dim=1).norm(dim=1), (unit * between).sum(1)
        deviations.append(torch.atan2(sine, cosine))
        deviations[-1][(unit.norm(dim=1) == 0) | (between.norm(dim=1) == 0)] = torch.pi / 2
    least = torch.stack(deviations).amin(0)[inside]
    return float(least.mean().rad2deg()) / INDEPENDENT


def outline_fog(opacity: Tensor) -> float:
    """The share of an object's rays that are neither opaque nor clear and do not lie at its outline: its fog.

    Between 0.1 and 0.9 are also the pixels that an outline goes through: those with both sides of it (0.5) among
    themselves and their eight neighbours are explained, and do not count. An object that is translucent throughout
    is fog as well.

    Args:
        opacity: [V, 1, H, W] or [V, H, W] in [0, 1], at the size it was rendered: enlarged, an outline is wider.

    Returns:
        Over the rays with an opacity above 0.1, those between 0.1 and 0.9 that no outline explains: 0 to 1, and 0 for
        an empty picture.

    Raises:
        ValueError: another shape.
    """
    found = _opacities(opacity)
    mask = found > OPAQUE
    outline = ~_eroded(mask, 1) & ~_eroded(~mask, 1)
    # A translucent object's outline need not reach 0.5, and then explains nothing.
    seen = found > GREY[0]
    grey = seen & (found < GREY[1]) & ~outline
    return float(grey.sum()) / max(1, int(seen.sum()))


def _opacities(opacity: Tensor) -> Tensor:
    """[V, H, W], float32."""
    found = opacity[:, 0] if opacity.dim() == 4 and opacity.shape[1] == 1 else opacity
    if found.dim() != 3:
        raise ValueError(f"opacity: expected [V, 1, H, W] or [V, H, W]; got {list(opacity.shape)}")
    return found.float()


def _eroded(mask: Tensor, reach: int) -> Tensor:
    """Where a mask [V, H, W] holds for all pixels of the picture within `reach`, corners included.

    What lies beyond the picture is taken to be like its border.
    """
    outside = F.pad((~mask).float()[:, None], [reach] * 4, mode="replicate")
    return F.max_pool2d(outside, 2 * reach + 1, 1)[:, 0] == 0
