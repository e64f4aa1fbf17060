"""Volume compositing of packed samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..ops import call


class Composited(NamedTuple):
    """What compositing yields: per ray, and the weights per sample.

    Attributes:
        values: [R, C] Σ w·value + (1 − opacity)·background.
        opacity: [R] Σ w.
        depth: [R] Σ w·distance; not divided by the opacity.
        weights: [S].
        distortion: [R] Σᵢⱼ wᵢwⱼ|tᵢ − tⱼ| + ⅓ Σ wᵢ²δᵢ (mip-NeRF 360, Eq. 15; distances in world units).
        emptiness: [R] Σ log(1 + scale·w) (SJC).
    """

    values: Tensor
    opacity: Tensor
    depth: Tensor
    weights: Tensor
    distortion: Tensor
    emptiness: Tensor


def _check_offsets(what: str, ray_offsets: Tensor, samples: int) -> None:
    """Checks that rays lie in the samples, where that can be seen without waiting for a device."""
    offsets = checks.memory(ray_offsets)
    if offsets is None:
        return
    if offsets[0] < 0 or offsets[-1] > samples:
        got = f"{offsets[0]} to {offsets[-1]}"
        checks.fail(what, "ray_offsets", f"offsets from 0 to at most {samples}, the samples", got)
    falling = offsets[1:] < offsets[:-1]
    if falling.any():
        ray = np.flatnonzero(falling)[0]
        got = f"{offsets[ray]} and then {offsets[ray + 1]} at ray {ray}"
        checks.fail(what, "ray_offsets", "offsets that do not decrease", got)


def composite_with_regularisers(
    density: Tensor,
    values: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    *,
    background: Tensor | None = None,
    early_stop: float = 1e-4,
    emptiness_scale: float = 10.0,
) -> Composited:
    """Composites packed samples along their rays.

    α = 1 − exp(−density·step), T the product of 1 − α of the samples in front, w = T·α. Where T has fallen below
    `early_stop` a ray ends: later samples weigh nothing and get no gradient. Gradients go to density, values and
    background, from every output; none to distances and steps. Deterministic.

    Args:
        density: [S], per unit of distance. They must not be negative, which is not looked at: a negative density
            gives a negative weight and a transmittance that grows.
        values: [S, C], C from 1 to 64.
        distances: [S], along the ray.
        steps: [S], lengths.
        ray_offsets: [R + 1] int64; ray r has the samples offsets[r] … offsets[r + 1]; what is beyond is padding.
            They start at 0 or above, do not decrease and end within S. That is looked at on a CPU only; on a GPU, and
            while compiling, the host would have to wait, and the caller answers for it.
        background: [R, C], [C], or None for zero.
        early_stop: transmittance at which a ray ends, in [0, 1); 0 never.
        emptiness_scale: of `emptiness`.

    Returns:
        Composited.

    Raises:
        TypeError, ValueError: another dtype, shape or device, a number out of range, or, on a CPU, offsets that do not
            lie in the samples one after another.
    """
    name = "composite"
    checks.tensor(name, "density", density, ("S",))
    samples = len(density)
    checks.tensor(name, "values", values, (samples, "C"), density)
    channels = checks.whole(name, "channels of values", values.shape[1], 1, 64)
    checks.tensor(name, "distances", distances, (samples,), density)
    checks.tensor(name, "steps", steps, (samples,), density)
    if not isinstance(ray_offsets, Tensor) or ray_offsets.dtype != torch.int64:
        got = str(ray_offsets.dtype) if isinstance(ray_offsets, Tensor) else type(ray_offsets).__name__
        checks.fail(name, "ray_offsets", "an int64 tensor", got, TypeError)
    if ray_offsets.dim() != 1 or len(ray_offsets) < 1 or ray_offsets.device != density.device:
        checks.fail(
            name,
            "ray_offsets",
            f"shape [R + 1] on {density.device}",
            f"{checks.shape_text(ray_offsets)} on {ray_offsets.device}",
        )
    _check_offsets(name, ray_offsets, samples)
    rays = len(ray_offsets) - 1
    if background is not None:
        if isinstance(background, Tensor) and background.dim() == 1:
            background = background.expand(rays, -1)
        checks.tensor(name, "background", background, (rays, channels), density)
    early_stop = checks.number(name, "early_stop", early_stop, 0.0)
    if early_stop >= 1:
        checks.fail(name, "early_stop", "a number in [0, 1)", repr(early_stop))
    emptiness_scale = checks.number(name, "emptiness_scale", emptiness_scale, 0.0)
    given = [density, values, distances, steps, *([] if background is None else [background])]
    if len({t.dtype for t in given}) > 1:
        checks.fail(name, "values", "all tensors of one dtype", ", ".join(str(t.dtype) for t in given), TypeError)
    return Composited(
        *call(
            "composite",
            density,
            values,
            distances,
            steps,
            ray_offsets,
            background,
            early_stop,
            emptiness_scale,
        )
    )


def composite(
    density: Tensor,
    values: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    *,
    background: Tensor | None = None,
    early_stop: float = 1e-4,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Composites packed samples; arguments and errors of `composite_with_regularisers`.

    Returns:
        values [R, C], opacity [R], depth [R], weights [S].
    """
    return composite_with_regularisers(
        density, values, distances, steps, ray_offsets, background=background, early_stop=early_stop
    )[:4]
