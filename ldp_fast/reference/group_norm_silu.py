"""Group norm and SiLU of a frozen network in plain PyTorch: the definition, the oracle, and the CPU backend in half.

Group norm is cut in two: the moments, and what is done with them, so that the decoder keeps x and two numbers a group
instead of every intermediate. The affine parameters are constants; the only gradient is the one with respect to x.

    x̂ = (x − μ) ρ,   h = γ x̂ + β,   y = silu(h) = h s(h)       μ and ρ = 1/√(σ² + ε) of a sample's group
    g = γ silu′(h) ∂L/∂y,   silu′(h) = s (1 + h (1 − s))
    ∂L/∂x = ρ [g − mean(g) − x̂ mean(g x̂)]                        means over the sample's group

B: samples. G: groups. S = C / G: channels of a group. n = S·H·W: elements of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype
from .feature_matching import BLOCK, WORD_DTYPES, unpack

_GROUP = (2, 3, 4)  # the axes of [B, G, S, H, W] that a group consists of


def group_norm_moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """μ and 1/√(σ² + ε) of every sample's group, by two passes; σ² is the biased variance.

    Args:
        x: [B, C, H, W].
        groups: G, a divisor of C.
        eps: ε.

    Returns:
        mean and rstd, [B, G] float32 (float64 for float64 x).
    """
    check_groups(x, groups)
    grouped = x.to(compute_dtype(x)).unflatten(1, (groups, -1))
    mean = grouped.mean(_GROUP, keepdim=True)
    variance = (grouped - mean).square().mean(_GROUP)
    return mean.flatten(1), torch.rsqrt(variance + eps)


def group_norm_silu(
    x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, silu: bool
) -> Tensor:
    """y = silu(γ (x − μ) ρ + β), or without the silu.

    Args:
        x: [B, C, H, W].
        mean: μ, [B, G].
        rstd: ρ, [B, G].
        weight: γ, [C], or None for 1.
        bias: β, [C], or None for 0.
        silu: whether the SiLU follows.

    Returns:
        y, [B, C, H, W] in x's dtype, contiguous where x is, else channels-last.
    """
    check_arguments("group_norm_silu", x, mean, rstd, weight, bias)
    normal = _normal(x, mean, rstd)
    h = _affine(normal, weight, bias)
    return (h * torch.sigmoid(h) if silu else h).to(x.dtype).contiguous(memory_format=layout(x))


def group_norm_silu_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    silu: bool,
    addend: Tensor | None = None,
    signs: Tensor | None = None,
    sign_weight: float = 0.0,
) -> Tensor:
    """∂L/∂x with the moments as functions of x, plus what else arrives at x.

    Args:
        grad: ∂L/∂y, [B, C, H, W].
        x, mean, rstd, weight, bias, silu: as in the forward.
        addend: [B, C, H, W], added: the gradient that comes along a skip connection. Or None.
        signs: packed signs [blocks, COLS] of `feature_matching` (its file has the layout), of one level made in the
            halves form of this very x, channels-last. `sign_weight` times the sign is added to the first half of the
            samples and subtracted from the second; where the difference was NaN the gradient is NaN. Or None.
        sign_weight: the factor of the signs.

    Returns:
        [B, C, H, W] in x's dtype, contiguous where x is, else channels-last.
    """
    check_arguments("group_norm_silu_backward", x, mean, rstd, weight, bias)
    check_backward(grad, x, addend, signs)
    normal = _normal(x, mean, rstd)
    g = grad.to(normal.dtype)
    if silu:
        h = _affine(normal, weight, bias)
        s = torch.sigmoid(h)
        g = g * (s * (1 + h * (1 - s)))
    g = _affine(g, weight, None)

    groups = (mean.shape[1], -1)
    normal, g = normal.unflatten(1, groups), g.unflatten(1, groups)
    along = (g * normal).mean(_GROUP, keepdim=True)
    grad_x = ((g - g.mean(_GROUP, keepdim=True) - normal * along) * rstd[:, :, None, None, None]).flatten(1, 2)
    if addend is not None:
        grad_x = grad_x + addend.to(grad_x.dtype)
    if signs is not None:
        grad_x = grad_x + sign_weight * _signs_of(signs, x, grad_x.dtype)
    return grad_x.to(x.dtype).contiguous(memory_format=layout(x))


def layout(x: Tensor) -> torch.memory_format:
    """How a result lies: contiguous where x is and would not do for channels-last, else channels-last."""
    last = x.is_contiguous(memory_format=torch.channels_last) or not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def check_groups(x: Tensor, groups: int) -> None:
    """Checks that x is an image of which a number of groups can be made."""
    if x.dim() != 4 or 0 in x.shape[1:] or not x.is_floating_point():
        raise ValueError(
            "group_norm_moments: x: expected a floating-point tensor [B, C, H, W] of at least one element a sample, "
            f"got {x.dtype} {list(x.shape)}"
        )
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"group_norm_moments: groups: expected a divisor of the {x.shape[1]} channels of x, got {groups}"
        )


def check_arguments(op: str, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Checks the arguments that forward and backward share."""
    if x.dim() != 4 or 0 in x.shape[1:] or not x.is_floating_point():
        raise ValueError(
            f"{op}: x: expected a floating-point tensor [B, C, H, W] of at least one element a sample, "
            f"got {x.dtype} {list(x.shape)}"
        )
    batch, channels = x.shape[:2]
    if mean.dim() != 2 or mean.shape[0] != batch or mean.shape[1] < 1 or channels % mean.shape[1]:
        raise ValueError(
            f"{op}: mean: expected shape [{batch}, G] with G a divisor of the {channels} channels of x, "
            f"got {list(mean.shape)}"
        )
    if rstd.shape != mean.shape:
        raise ValueError(f"{op}: rstd: expected the mean's shape {list(mean.shape)}, got {list(rstd.shape)}")
    wanted = torch.promote_types(x.dtype, torch.float32)
    for name, moment in (("mean", mean), ("rstd", rstd)):
        if moment.dtype != wanted:
            raise ValueError(f"{op}: {name}: expected {wanted} for {x.dtype} x, got {moment.dtype}")
    check_devices(op, x, {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias})
    for name, constant in (("weight", weight), ("bias", bias)):
        if constant is not None and (constant.shape != (channels,) or not constant.is_floating_point()):
            raise ValueError(
                f"{op}: {name}: expected a floating-point tensor [{channels}] or None, "
                f"got {constant.dtype} {list(constant.shape)}"
            )


def check_devices(op: str, x: Tensor, others: dict[str, Tensor | None]) -> None:
    """Checks that everything is where x is."""
    for name, other in others.items():
        if other is not None and other.device != x.device:
            raise ValueError(f"{op}: {name}: expected a tensor on {x.device}, where x is, got one on {other.device}")


def check_backward(grad: Tensor, x: Tensor, addend: Tensor | None, signs: Tensor | None) -> None:
    """Checks the arguments that the backward has beside those of the forward."""
    op = "group_norm_silu_backward"
    for name, other in (("grad", grad), ("addend", addend)):
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype):
            raise ValueError(
                f"{op}: {name}: expected x's {x.dtype} {list(x.shape)}, got {other.dtype} {list(other.shape)}"
            )
    check_devices(op, x, {"grad": grad, "addend": addend, "signs": signs})
    if signs is None:
        return
    if x.shape[0] % 2:
        raise ValueError(f"{op}: signs: expected an even batch for the halves form, got a batch of {x.shape[0]}")
    blocks = x.shape[0] // 2 * -(-(x.shape[1] * x.shape[2] * x.shape[3]) // BLOCK)
    itemsize = x.dtype.itemsize
    if signs.shape != (blocks, 2048 // itemsize) or signs.dtype != WORD_DTYPES[itemsize]:
        raise ValueError(
            f"{op}: signs: expected {WORD_DTYPES[itemsize]} [{blocks}, {2048 // itemsize}] for this x, "
            f"got {signs.dtype} {list(signs.shape)}"
        )


def _normal(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """x̂ [B, C, H, W], in the dtype of the moments."""
    grouped = x.to(mean.dtype).unflatten(1, (mean.shape[1], -1))
    return ((grouped - mean[:, :, None, None, None]) * rstd[:, :, None, None, None]).flatten(1, 2)


def _affine(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        values = values * weight.to(values.dtype)[:, None, None]
    return values if bias is None else values + bias.to(values.dtype)[:, None, None]


def _signs_of(signs: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The signs as numbers [B, C, H, W]: of the first half of the samples, and their negation."""
    batch, channels, height, width = x.shape
    half, size = batch // 2, channels * height * width
    values = unpack(signs.view(half, -(-size // BLOCK), signs.shape[1]), dtype)[:, :size]
    first = values.reshape(half, height, width, channels).permute(0, 3, 1, 2)
    return torch.cat([first, -first])
