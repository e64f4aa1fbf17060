"""`torch.ops.ldp_fast.latent_field` and its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference.latent_field import FieldArguments, FieldNetwork, to_unit
from . import _native
from ._library import backward_of, define, register, register_autograd, register_no_gradient
from .hash_grid import SCHEMA as LAYOUT

# Of a FieldNetwork.
NETWORK = (
    "int hidden, int layers, int channels, bool bias, bool sigmoid, float blob_strength, float blob_std, bool half"
)


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    positions, table, _, _, _, layout, _, network = FieldArguments.unpack(*arguments)
    size, dtype = positions.shape[0], torch.float16 if network.half else None
    encoding = table.new_empty(size, len(layout.resolutions) * table.shape[1], dtype=dtype)
    return positions.new_empty(size), positions.new_empty(size, network.channels), encoding


def _fake_backward(
    grad_density: Tensor, grad_latents: Tensor, positions: Tensor, encoding: Tensor, weights: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return weights.new_empty(encoding.shape), torch.empty_like(weights), torch.empty_like(positions)


def _workspace(positions: Tensor, backward: bool, encoding: int, network: FieldNetwork) -> Tensor | None:
    """What the CUDA kernels need beside their outputs (csrc/latent_field/latent_field_plan.h): the weights as
    fragments want them and, for the backward, one sum of their gradients for each block. None on a CPU."""
    if positions.device.type != "cuda":
        return None
    with torch.cuda.device(positions.device):
        hidden, layers, channels, bias, *_ = network
        floats = _native.required("latent_field").latent_field_workspace(
            encoding, hidden, layers, channels, bias, positions.shape[0], backward
        )
    return positions.new_empty(floats)


def _run_native(density: Tensor, latents: Tensor, encoding: Tensor, *arguments: Any) -> None:
    positions, *_, half = arguments
    on_cpu = positions.device.type == "cpu"
    if half and on_cpu:
        results = reference.latent_field(*arguments)
        for output, result in zip((density, latents, encoding), results, strict=True):
            output.copy_(result)
        return
    workspace = None
    if not on_cpu:
        workspace = _workspace(positions, False, encoding.shape[1], FieldArguments.unpack(*arguments).network)
    _native.function("latent_field")(density, latents, encoding, workspace, *arguments)


def _run_native_backward(grad_encoding: Tensor, grad_weights: Tensor, grad_positions: Tensor, *arguments: Any) -> None:
    _, _, positions, encoding, _, _, *network = arguments
    workspace = _workspace(positions, True, encoding.shape[1], FieldNetwork(*network))
    _native.function("latent_field_backward")(grad_encoding, grad_weights, grad_positions, workspace, *arguments)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *saved, ctx.layout, ctx.bound, ctx.network = FieldArguments.unpack(*inputs)
    _, _, encoding = output
    ctx.save_for_backward(*saved, encoding)
    ctx.mark_non_differentiable(encoding)
    # Zeros in place of the encoding's gradient, which there is none of, would be 128 bytes a sample.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_density: Tensor | None, grad_latents: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    positions, table, shadow, weights, count, encoding = ctx.saved_tensors
    to_positions, to_table, _, to_weights = ctx.needs_input_grad[:4]
    none = (None,) * len(ctx.needs_input_grad)
    if not (to_positions or to_table or to_weights):
        return none
    ops = torch.ops.ldp_fast
    if grad_density is None:
        grad_density = positions.new_zeros(positions.shape[0])
    if grad_latents is None:
        grad_latents = positions.new_zeros(positions.shape[0], ctx.network.channels)
    grad_encoding, grad_weights, grad_positions = ops.latent_field_backward(
        grad_density.contiguous(), grad_latents.contiguous(), positions, encoding, weights, count, *ctx.network
    )
    grad_table = None
    if to_positions or to_table:
        unit = to_unit(positions, ctx.bound)
    if to_table:
        deterministic = torch.are_deterministic_algorithms_enabled()
        grad_table = ops.hash_grid_backward_table(grad_encoding, unit, count, *table.shape, *ctx.layout, deterministic)
    if to_positions:
        through_grid = ops.hash_grid_backward_positions(grad_encoding, unit, table, shadow, count, *ctx.layout)
        grad_positions = grad_positions + through_grid / (2 * ctx.bound)
    return (
        grad_positions if to_positions else None,
        grad_table,
        None,
        grad_weights if to_weights else None,
        *none[4:],
    )


define(
    "latent_field(Tensor positions, Tensor table, Tensor? shadow, Tensor weights, Tensor? count, "
    f"{LAYOUT}, float bound, {NETWORK}) -> (Tensor, Tensor, Tensor)"
)
define(
    "latent_field_backward(Tensor grad_density, Tensor grad_latents, Tensor positions, Tensor encoding, "
    f"Tensor weights, Tensor? count, {NETWORK}) -> (Tensor, Tensor, Tensor)"
)
register("latent_field", reference=reference.latent_field, fake=_fake, native=_run_native)
register(
    "latent_field_backward", reference=reference.latent_field_backward, fake=_fake_backward, native=_run_native_backward
)
register_autograd("latent_field", _backward, _setup_context)
register_no_gradient("latent_field_backward", backward_of("latent_field"))
