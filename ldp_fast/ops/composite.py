"""`torch.ops.ldp_fast.composite` and its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference import compute_dtype
from . import _native
from ._direct import call
from ._library import backward_of, define, register, register_autograd, register_no_gradient

GRADIENTS = ", ".join(f"Tensor? grad_{x}" for x in ("values", "opacity", "depth", "weights", "distortion", "emptiness"))
SAMPLES = "Tensor density, Tensor values, Tensor distances, Tensor steps, Tensor ray_offsets, Tensor? background"


def _fake(
    density: Tensor,
    values: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    background: Tensor | None,
    early_stop: float,
    emptiness_scale: float,
) -> tuple[Tensor, ...]:
    dtype, n_rays = compute_dtype(density, values, distances, steps, background), ray_offsets.shape[0] - 1
    shapes = ((n_rays, values.shape[1]), (n_rays,), (n_rays,), (density.shape[0],), (n_rays,), (n_rays,))
    return tuple(torch.empty(shape, dtype=dtype, device=density.device) for shape in shapes)


def _fake_backward(
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
    if background is None:
        grad_background = values.new_empty(0, values.shape[1])
    else:
        grad_background = torch.empty(background.shape, dtype=background.dtype, device=background.device)
    return (
        torch.empty(density.shape, dtype=density.dtype, device=density.device),
        torch.empty(values.shape, dtype=values.dtype, device=values.device),
        grad_background,
    )


def _native_of(name: str) -> Any:
    """Autograd hands over expanded gradients, and callers slices of a network's output: the kernels read neither."""

    def run(*arguments: Any) -> None:
        _native.function(name)(*(x.contiguous() if isinstance(x, Tensor) else x for x in arguments))

    return run


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.settings = inputs[6:]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, 5)]
    if not any(wanted) or all(grad is None for grad in grads):
        return (None,) * 8
    found = call("composite_backward", *grads, *ctx.saved_tensors, *ctx.settings)
    density, values, background = (grad if want else None for grad, want in zip(found, wanted, strict=True))
    return density, values, None, None, None, background, None, None


define(
    f"composite({SAMPLES}, float early_stop, float emptiness_scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
define(
    f"composite_backward({GRADIENTS}, {SAMPLES}, Tensor opacity, float early_stop, float emptiness_scale) "
    "-> (Tensor, Tensor, Tensor)"
)
register("composite", reference=reference.composite, fake=_fake, native=_native_of("composite"))
register(
    "composite_backward",
    reference=reference.composite_backward,
    fake=_fake_backward,
    native=_native_of("composite_backward"),
)
register_autograd("composite", _backward, _setup_context)
register_no_gradient("composite_backward", backward_of("composite"))
