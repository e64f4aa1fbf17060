"""The native operators on latents (csrc/latents) as `_library.register` takes them: `run(*outputs, *arguments)`.

They take float32 batches that are dense and all laid out alike, contiguous or channels-last. What is laid out otherwise
than the output is copied first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import widened
from ._native import function

# As csrc/latents/latents.h numbers them.
_PREDICTIONS = {"epsilon": 0, "v_prediction": 1, "sample": 2, "flow": 3, "sigma": 4}
WIDENED = frozenset({torch.bfloat16, torch.float16})
_LAST = torch.channels_last


def _rows(out: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The output and tensors [·, C, H, W], all of them in the output's order."""
    if out.is_contiguous():
        return [out, *[x if x.is_contiguous() else x.contiguous() for x in tensors]]
    return [out, *[x.contiguous(memory_format=_LAST) for x in tensors]]


def perturb(
    out: Tensor,
    latents: Tensor,
    noise: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    copies: int = 1,
    dtype: torch.dtype | None = None,
) -> None:
    """Fills `out`, z_t = α_t v + σ_t ε, `copies` times over."""
    function("perturb")(*_rows(out, latents, noise), alpha.contiguous(), sigma.contiguous())


def guided_residual(
    out: Tensor,
    model_output: Tensor,
    noise: Tensor,
    guidance_scale: Tensor | None = None,
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    guidance: str = "from_uncond",
    order: str = "uncond_first",
    prediction: str = "epsilon",
) -> None:
    """Fills `out`, r = ε̂ − ε. What is stored in half precision is widened first, so that it has float32's bits."""
    model_output, noise = widened(model_output, torch.float32), widened(noise, torch.float32)
    if noisy_latents is None:
        out, model_output, noise = _rows(out, model_output, noise)
    else:
        noisy_latents = widened(noisy_latents, torch.float32)
        out, model_output, noise, noisy_latents = _rows(out, model_output, noise, noisy_latents)
    s, a, b = [None if x is None else x.contiguous() for x in (guidance_scale, alpha, sigma)]
    options = guidance == "from_text", order == "text_first", _PREDICTIONS[prediction]
    function("guided_residual")(out, model_output, noise, s, noisy_latents, a, b, *options)


def residual_latents(out: Tensor, latents: Tensor, residual: Tensor, alpha: Tensor) -> None:
    """Fills `out`, v′ = v + r; α_t is for the backward."""
    function("residual_latents")(*_rows(out, latents, residual))


def residual_latents_backward(out: Tensor, grad: Tensor, alpha: Tensor) -> None:
    """Fills `out`, (1 + α_t) grad."""
    function("residual_latents_backward")(*_rows(out, grad), alpha.contiguous())


def score_distillation(
    value: Tensor,
    count: Tensor,
    latents: Tensor,
    residual: Tensor,
    weight: Tensor,
    zero_nonfinite: bool = False,
    counted: bool = True,
) -> None:
    """Fills `value`, ½·mean(w r²), and `count` where it is wanted; a sum is the same in every order of the axes."""
    rows = residual if residual.is_contiguous(memory_format=_LAST) else residual.contiguous()
    function("score_distillation")(value, count if counted else None, rows, weight.contiguous(), zero_nonfinite)


def score_distillation_backward(
    out: Tensor,
    grad: Tensor,
    residual: Tensor,
    weight: Tensor,
    dtype: torch.dtype | None = None,
    zero_nonfinite: bool = False,
) -> None:
    """Fills `out`, grad · w r."""
    out, residual = _rows(out, residual)
    function("score_distillation_backward")(out, grad.contiguous(), residual, weight.contiguous(), zero_nonfinite)
