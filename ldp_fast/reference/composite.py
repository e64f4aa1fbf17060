"""Compositing of packed samples along rays, with the regularisers that are sums over a ray.

α_i = 1 − exp(−σ_i δ_i), T_i = exp(−Σ_{j<i} σ_j δ_j), w_i = T_i α_i. A sample counts up to the first one of its ray with
T_i < early_stop; that one and all later ones have no weight and no gradient. NaN never stops a ray.

The rays are laid out side by side, [R, N] with N the longest, for scans along them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._common import compute_dtype


@dataclass(frozen=True)
class _Rays:
    """Samples laid out by ray; what does not count is 0.

    Attributes:
        index: [R, N], the sample's row in the packed buffer (any, where there is none).
        live: [R, N], whether there is a sample.
        counts: [R, N], whether it comes before the stop.
        steps, distances, optical_depth: [R, N]; the optical depth before and `behind` the sample.
        weights: [R, N].
        apart_before: [R, N], Σ_{j<i} w_j (t_i − t_j).
    """

    index: Tensor
    live: Tensor
    counts: Tensor
    steps: Tensor
    distances: Tensor
    optical_depth: Tensor
    behind: Tensor
    weights: Tensor
    apart_before: Tensor


def _exclusive_cumsum(x: Tensor) -> Tensor:
    """Σ_{j<i} x_j: shifted, not subtracted, so that nothing cancels."""
    return torch.cat([torch.zeros_like(x[:, :1]), x.cumsum(-1)[:, :-1]], dim=-1)


def _exclusive_suffix(x: Tensor) -> Tensor:
    """Σ_{j>i} x_j."""
    return _exclusive_cumsum(x.flip(-1)).flip(-1)


def _lay_out(density: Tensor, distances: Tensor, steps: Tensor, ray_offsets: Tensor, early_stop: float) -> _Rays:
    first, last = ray_offsets[:-1, None], ray_offsets[1:, None]
    longest = int((last - first).max()) if first.numel() else 0
    index = first + torch.arange(longest, device=density.device)
    live = index < last
    index = torch.where(live, index, 0)
    x = torch.where(live, (density * steps)[index], 0)
    optical_depth = _exclusive_cumsum(x)
    stopped = torch.cummax(live & ((-optical_depth).exp() < early_stop), -1)[0] if longest else live
    counts = live & ~stopped
    x = torch.where(counts, x, 0)
    weights = torch.where(counts, (-optical_depth).exp() * -torch.expm1(-x), 0)
    t = torch.where(live, distances[index], 0)
    gaps = torch.cat([torch.zeros_like(t[:, :1]), t.diff(dim=-1)], dim=-1)
    # The weights before a sample add up to 1 − T, so all terms of this sum are positive.
    apart = torch.where(counts, gaps * _exclusive_cumsum(weights), 0).cumsum(-1)
    delta = torch.where(live, steps[index], 0)
    return _Rays(index, live, counts, delta, t, optical_depth, optical_depth + x, weights, apart)


def _packed(by_ray: Tensor, rays: _Rays, size: int) -> Tensor:
    """[R, N, ...] back in the packed buffer [M, ...], zero on padding."""
    out = by_ray.new_zeros(size, *by_ray.shape[2:])
    out[rays.index[rays.live]] = by_ray[rays.live]
    return out


def composite(
    density: Tensor,
    values: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    background: Tensor | None,
    early_stop: float,
    emptiness_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Composites the samples of every ray. Deterministic.

    Args:
        density: σ, [M], at least 0, per unit of distance.
        values: c, [M, C]: latents, colours or features, C from 1 to 64.
        distances: t of the samples along their rays, [M], rising along a ray.
        steps: δ, the lengths the samples stand for, [M].
        ray_offsets: [R + 1] int64; samples offsets[r] to offsets[r + 1] are those of ray r, in order. Rows from
            offsets[R] on are padding.
        background: [R, C], or None for zero.
        early_stop: transmittance below which nothing counts any more; 0 never stops.
        emptiness_scale: factor on the weights in the emptiness.

    Returns:
        values: Σ w c + (1 − opacity) background, [R, C].
        opacity: Σ w, [R].
        depth: Σ w t, [R], not divided by the opacity.
        weights: w, [M]; 0 on padding and after the stop.
        distortion: Σ_ij w_i w_j |t_i − t_j| + ⅓ Σ w_i² δ_i, [R] (mip-NeRF 360, Eq. 15).
        emptiness: Σ log(1 + scale · w), [R] (SJC).
        All in float32, or float64 where an input is. They have gradients to density, values and background.
    """
    dtype = compute_dtype(density, values, distances, steps, background)
    density, values, distances, steps = (x.to(dtype) for x in (density, values, distances, steps))
    rays = _lay_out(density, distances, steps, ray_offsets, early_stop)
    w = rays.weights
    seen = torch.where(rays.counts[..., None], values[rays.index], 0)
    composited, opacity = (w[..., None] * seen).sum(1), w.sum(-1)
    if background is not None:
        composited = composited + (1 - opacity)[:, None] * background.to(dtype)
    distortion = (w * (2 * rays.apart_before + w * rays.steps / 3)).sum(-1)
    emptiness = torch.log1p(emptiness_scale * w).sum(-1)
    return composited, opacity, (w * rays.distances).sum(-1), _packed(w, rays, len(density)), distortion, emptiness


def composite_backward(
    grad_values: Tensor | None,
    grad_opacity: Tensor | None,
    grad_depth: Tensor | None,
    grad_weights: Tensor | None,
    grad_distortion: Tensor | None,
    grad_emptiness: Tensor | None,
    density: Tensor,
    values: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    background: Tensor | None,
    opacity: Tensor,
    early_stop: float,
    emptiness_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `composite`: with G_i = dL/dw_i, dL/dσ_i = δ_i (G_i T_{i+1} − Σ_{j>i} w_j G_j).

    Args:
        grad_values, grad_opacity, grad_depth, grad_weights, grad_distortion, grad_emptiness: of the outputs; None = 0.
        density, values, distances, steps, ray_offsets, background: as given to `composite`.
        opacity: as returned by `composite`, [R].
        early_stop, emptiness_scale: as given to `composite`.

    Returns:
        Gradients of density [M], values [M, C] and background [R, C] ([0, C] without one), in their dtypes.
    """
    dtype = compute_dtype(density, values, distances, steps, background)
    sigma, c, t, delta = (x.to(dtype) for x in (density, values, distances, steps))
    rays = _lay_out(sigma, t, delta, ray_offsets, early_stop)
    w, size, channels = rays.weights, len(density), values.shape[1]
    n_rays = len(ray_offsets) - 1
    g_values = sigma.new_zeros(n_rays, channels) if grad_values is None else grad_values.to(dtype)
    seen = torch.where(rays.counts[..., None], c[rays.index], 0)
    if background is not None:
        seen = seen - background.to(dtype)[:, None]
    grad = (g_values[:, None] * seen).sum(-1)
    if grad_opacity is not None:
        grad = grad + grad_opacity[:, None]
    if grad_depth is not None:
        grad = grad + grad_depth[:, None] * rays.distances
    if grad_weights is not None:
        grad = grad + grad_weights[rays.index]
    if grad_distortion is not None:
        gaps = torch.cat([rays.distances.diff(dim=-1), torch.zeros_like(w[:, :1])], dim=-1)
        behind = _exclusive_suffix(w)
        # The gap behind the last sample that counts leads to no weight, and may be infinite.
        apart_behind = torch.where(behind == 0, 0, gaps * behind).flip(-1).cumsum(-1).flip(-1)
        grad = grad + grad_distortion[:, None] * (2 * (rays.apart_before + apart_behind) + 2 / 3 * w * rays.steps)
    if grad_emptiness is not None:
        grad = grad + grad_emptiness[:, None] * emptiness_scale / (1 + emptiness_scale * w)
    grad = torch.where(rays.counts, grad, 0)
    to_density = rays.steps * (grad * (-rays.behind).exp() - _exclusive_suffix(grad * w))
    to_density = torch.where(rays.counts, to_density, 0)
    grad_background = values.new_zeros(0, channels)
    if background is not None:
        grad_background = ((1 - opacity)[:, None] * g_values).to(background.dtype)
    return (
        _packed(to_density, rays, size).to(density.dtype),
        _packed(w[..., None] * g_values[:, None], rays, size).to(values.dtype),
        grad_background,
    )
