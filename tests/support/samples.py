"""The inputs of every operator: for correctness, gradients, opcheck and benchmarks alike.

`sample_inputs(op, ...)` returns keyword arguments of `ldp_fast.losses.<op>`; `sample_arguments(op, ...)` the positional
ones of `torch.ops.ldp_fast.<op>`. Values are random with the spread of real ones, drawn in float64 and then rounded, so
that every dtype sees the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int, int]

SHAPE: Shape = (2, 4, 8, 8)
SHAPES: tuple[Shape, ...] = (
    (2, 4, 8, 8),
    (1, 4, 16, 16),
    (3, 16, 5, 7),  # no multiple of anything
    (1, 1, 1, 1),
    (2, 1, 1, 1030),  # more than one block, and a tail
    (0, 4, 8, 8),
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LAYOUTS = ("contiguous", "channels_last", "every_other", "cropped", "misaligned", "expanded", "mixed")

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow", "sigma")

DIFFERENTIABLE = ("residual_latents", "latent_kl_loss", "score_distillation_loss")
OPERATORS = ("perturb", "guided_residual", "perp_neg_residual", *DIFFERENTIABLE, "combine_gradients")


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """Returns the same values in another layout: a name of `LAYOUTS` (`mixed` is channels-last here)."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout in ("channels_last", "mixed"):
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "every_other":
        return tensor.repeat_interleave(2, 0)[::2]
    if layout == "cropped":
        return torch.nn.functional.pad(tensor, (1, 2))[..., 1:-2]
    if layout == "misaligned":
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    if layout == "expanded":
        return tensor[:1].expand_as(tensor) if tensor.shape[0] > 1 else tensor
    raise ValueError(f"layout: expected one of {LAYOUTS}, got {layout!r}")


class Maker:
    """Draws tensors of one dtype, device, layout and magnitude from one seed."""

    def __init__(self, dtype: torch.dtype, device: str, layout: str, magnitude: float, seed: int):
        self.dtype, self.device, self.layout, self.magnitude = dtype, device, layout, magnitude
        self.generator = torch.Generator().manual_seed(seed)
        self.made = 0

    def latents(self, shape: Shape, mean: float = 0.0, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of normal numbers; the first of a `mixed` sample is contiguous, the others channels-last."""
        values = self.magnitude * (torch.randn(shape, dtype=torch.float64, generator=self.generator) + mean)
        first = self.made == 0
        self.made += 1
        layout = "contiguous" if self.layout == "mixed" and first else self.layout
        return lay_out(values.to(self.dtype if dtype is None else dtype).to(self.device), layout)

    def coefficient(self, batch: int, low: float, high: float) -> Tensor:
        """A float32 tensor [batch] between two bounds."""
        values = low + (high - low) * torch.rand(batch, dtype=torch.float64, generator=self.generator)
        return values.to(torch.float32).to(self.device)


def sample_inputs(
    op: str,
    *,
    shape: Shape = SHAPE,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    layout: str = "contiguous",
    magnitude: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Returns keyword arguments for `ldp_fast.losses.<op>`.

    Args:
        op: a name of `OPERATORS`.
        shape: of the latents.
        dtype: of the latents and their like.
        device: where everything is.
        layout: a name of `LAYOUTS`.
        magnitude: factor on the latents and their like.
        seed: of the values.
        **options: further arguments of the operator, which win.
    """
    make = Maker(dtype, device, layout, magnitude, seed)
    batch, channels, height, width = shape
    alpha = make.coefficient(batch, 0.1, 0.99)
    sigma = (1 - alpha.double().square()).sqrt().float()
    inputs: dict[str, Any]
    if op == "perturb":
        inputs = {"latents": make.latents(shape), "noise": make.latents(shape), "alpha": alpha, "sigma": sigma}
    elif op == "guided_residual":
        guided = options.get("guidance_scale", True) is not None
        rows = 2 * batch if guided else batch
        inputs = {"noise": make.latents(shape), "model_output": make.latents((rows, channels, height, width))}
        if guided:
            inputs["guidance_scale"] = make.coefficient(batch, 1.0, 10.0)
        if options.get("prediction", "epsilon") != "epsilon":
            inputs |= {"noisy_latents": make.latents((rows, channels, height, width)), "alpha": alpha, "sigma": sigma}
    elif op == "perp_neg_residual":
        count = options.pop("count", 2)
        inputs = {"noise": make.latents(shape), "model_output": make.latents(((2 + count) * batch, *shape[1:]))}
        inputs["negative_weights"] = make.coefficient(batch * count, -2.0, -0.1).view(batch, count)
        inputs["guidance_scale"] = make.coefficient(batch, 1.0, 10.0)
        if options.get("prediction", "epsilon") != "epsilon":
            inputs |= {"noisy_latents": make.latents(shape), "alpha": alpha, "sigma": sigma}
    elif op == "residual_latents":
        inputs = {"latents": make.latents(shape), "residual": make.latents(shape), "alpha": alpha}
    elif op == "latent_kl_loss":
        inputs = {"latents": make.latents(shape, mean=0.3)}
    elif op == "score_distillation_loss":
        inputs = {"latents": make.latents(shape), "residual": make.latents(shape)}
        inputs["weight"] = make.coefficient(batch, 0.05, 1.0)
    elif op == "combine_gradients":
        inputs = {"latents": make.latents(shape, mean=0.3)}
        inputs |= {name: make.latents(shape) for name in ("residual", "grad_v", "grad_v_prime")}
        inputs |= {"alpha": alpha, "weight": make.coefficient(batch, 0.05, 1.0)}
        inputs |= {"lambda_fm": 0.01, "lambda_kl": 0.1, "lambda_lsd": 1.0}
    else:
        raise ValueError(f"op: expected one of {OPERATORS}, got {op!r}")
    return inputs | options


def widen(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the same inputs with every floating tensor in float64."""
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}


def sample_arguments(name: str, *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE) -> list[tuple[Any, ...]]:
    """Returns argument tuples for `torch.ops.ldp_fast.<name>`, differentiable ones requiring a gradient.

    Args:
        name: of an operator, its backward included.
        dtype: of the latents and their like.
        shape: of the latents.
    """
    make = Maker(dtype, "cpu", "contiguous", 1.0, 0)
    v, r = make.latents(shape), make.latents(shape, dtype=torch.float32)
    a, s = make.coefficient(shape[0], 0.1, 0.9), make.coefficient(shape[0], 0.1, 0.9)
    nhwc = lay_out(v, "channels_last")
    with_grad = v.clone().requires_grad_()
    last_with_grad = nhwc.clone().requires_grad_()
    table: dict[str, list[tuple[Any, ...]]] = {
        "perturb": [(v, r, a, s), (nhwc, r, a, s, 2, torch.float16)],
        "guided_residual": [
            (v, r),
            (torch.cat([v, v]), r, a),
            (torch.cat([v, v]), r, a, torch.cat([v, v]), a, s, "from_text", "text_first", "v_prediction"),
            (nhwc, lay_out(r, "channels_last"), None, v, a, s, "from_uncond", "uncond_first", "sample"),
        ],
        "perp_neg_residual": [
            (torch.cat([v, v, v, v]), r, torch.stack([-a, s], 1), s),
            (torch.cat([nhwc, v, v]), r, -a[:, None], s, v, a, s, "uncond_first", "by_sample", "v_prediction"),
        ],
        "residual_latents": [(with_grad, r, a), (last_with_grad, r, a)],
        "residual_latents_backward": [(v, a), (nhwc, a)],
        "latent_kl": [(with_grad,), (last_with_grad, True)],
        "latent_kl_backward": [(a, v, a, s), (a, nhwc, a, s, True)],
        "score_distillation": [(with_grad, r, a), (last_with_grad, r, a, True)],
        "score_distillation_backward": [(a, r, s, dtype), (a, lay_out(r, "channels_last"), s, dtype, True)],
        "combine_gradients": [
            (v, r, v, r, a, s, 0.01, 0.1, 1.0),
            (nhwc, r, None, None, a, s, 0.0, 0.1, 1.0, None, a, s, True, False, True),
        ],
    }
    return table[name]
