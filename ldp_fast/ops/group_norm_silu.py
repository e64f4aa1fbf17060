"""`torch.ops.ldp_fast.group_norm_moments`, `group_norm_silu` and its backward, for networks whose weights are frozen.

`group_norm_silu` differentiates through the moments as well: they are to be those of the same x, and get no gradient
of their own. A weight or bias that requires one is an error, in the forward already: there is nothing here to compute
it, and None would be a wrong number. Results are contiguous where x is, as torch's own are, and channels-last
otherwise. On a CPU images of bfloat16 and float16 are read and written as they are by csrc, which computes in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference import compute_dtype
from ..reference import group_norm_silu as reference
from ._library import backward_of, define, register, register_autograd, register_no_gradient
from ._native import function

# Of images, on a CPU with the extension, beside float32.
STORED = frozenset({torch.bfloat16, torch.float16})
NORM = "Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, bool silu"


def _fake_moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    reference.check_groups(x, groups)
    mean = x.new_empty((x.shape[0], groups), dtype=compute_dtype(x))
    return mean, torch.empty_like(mean)


def _fake(x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, silu: bool) -> Tensor:
    reference.check_arguments("group_norm_silu", x, mean, rstd, weight, bias)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=reference.layout(x))


def _fake_backward(
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
    reference.check_arguments("group_norm_silu_backward", x, mean, rstd, weight, bias)
    reference.check_backward(grad, x, addend, signs)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=reference.layout(x))


def _constant(values: Tensor | None) -> Tensor | None:
    """Weight or bias [C] as csrc has it: float32, whatever the images are."""
    return None if values is None else values.to(torch.float32).contiguous()


def _native_moments(mean: Tensor, rstd: Tensor, x: Tensor, groups: int, eps: float) -> None:
    function("group_norm_moments")(mean, rstd, x.contiguous(memory_format=reference.layout(x)), groups, eps)


def _native(
    out: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, silu: bool
) -> None:
    moments, affine = map(Tensor.contiguous, (mean, rstd)), map(_constant, (weight, bias))
    function("group_norm_silu")(out, x.contiguous(memory_format=reference.layout(x)), *moments, *affine, silu)


def _native_backward(
    grad_x: Tensor,
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
) -> None:
    # Signs are packed in the order of channels-last images, and csrc takes images of one call in one layout.
    layout = torch.channels_last if signs is not None else reference.layout(x)
    result = grad_x
    if not result.is_contiguous(memory_format=layout):
        result = torch.empty_like(grad_x, memory_format=layout)
    images = [None if image is None else image.contiguous(memory_format=layout) for image in (grad, x, addend)]
    moments, affine = map(Tensor.contiguous, (mean, rstd)), map(_constant, (weight, bias))
    more = images[2], None if signs is None else signs.contiguous(), sign_weight
    function("group_norm_silu_backward")(result, *images[:2], *moments, *affine, silu, *more)
    if result is not grad_x:
        grad_x.copy_(result)


def _no_moments_backward(ctx: Any, *grads: Tensor | None) -> Any:
    raise RuntimeError("group_norm_moments: expected no backward through the moments, got one")


def _setup_moments(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    for name, constant in zip(("weight", "bias"), inputs[3:5], strict=True):
        if constant is not None and constant.requires_grad:
            raise RuntimeError(
                f"group_norm_silu: {name}: expected a frozen one (detached, or requires_grad=False), "
                "got one that requires a gradient"
            )
    ctx.save_for_backward(*inputs[:5])
    ctx.silu = inputs[5]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    return (torch.ops.ldp_fast.group_norm_silu_backward(grad, *ctx.saved_tensors, ctx.silu), *(None,) * 5)


define("group_norm_moments(Tensor x, int groups, float eps) -> (Tensor mean, Tensor rstd)")
define(f"group_norm_silu({NORM}) -> Tensor")
define(
    f"group_norm_silu_backward(Tensor grad, {NORM}, Tensor? addend=None, Tensor? signs=None, float sign_weight=0.0) "
    "-> Tensor"
)
register(
    "group_norm_moments",
    reference=reference.group_norm_moments,
    fake=_fake_moments,
    launcher="ldp_fast.kernels.group_norm_moments:moments",
    native=_native_moments,
    stored=STORED,
)
register(
    "group_norm_silu",
    reference=reference.group_norm_silu,
    fake=_fake,
    launcher="ldp_fast.kernels.group_norm_silu:forward",
    native=_native,
    stored=STORED,
)
register(
    "group_norm_silu_backward",
    reference=reference.group_norm_silu_backward,
    fake=_fake_backward,
    launcher="ldp_fast.kernels.group_norm_silu:backward",
    native=_native_backward,
    stored=STORED,
)
register_autograd("group_norm_moments", _no_moments_backward, _setup_moments)
register_autograd("group_norm_silu", _backward, _setup_context)
register_no_gradient("group_norm_silu_backward", backward_of("group_norm_silu"))
