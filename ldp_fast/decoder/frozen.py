"""The frozen decoder G of the paper, cut off at the deepest level asked for, with gradients to the latents only."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..losses.functional import feature_matching_loss
from .stages import split

DEFAULT_LEVELS = ("up0", "up1", "up2")
# In float16 the largest level's cotangents are brought to 2⁻⁸: the decoder amplifies them a hundredfold and more on the
# way down (float16 ends at 2¹⁶), and a level sixty times smaller is still far above the smallest number.
HEADROOM = 8


class _FrozenStage:
    """A stage whose parameters never get a gradient, although the module itself is left as it was found."""

    def __init__(self, name: str, module: nn.Module, dtype: torch.dtype):
        self.name = name
        parameters = list(module.parameters())
        if any(p.dtype != dtype for p in parameters):
            module = copy.deepcopy(module).to(dtype).requires_grad_(False)
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        # Looked up at each call: the host may freeze its VAE after this object was made.
        if any(p.requires_grad for p in self.module.parameters()):
            frozen = {name: p.detach() for name, p in self.module.named_parameters()}
            return torch.func.functional_call(self.module, frozen, (x,))
        return self.module(x)


class FrozenDecoder:
    """A VAE's decoder as a fixed feature extractor (paper §3.2).

    Nothing past the deepest level is computed, the VAE's parameters get no gradient whatever their `requires_grad`, and
    an enclosing autocast does not change the precision (`dtype` does).

    Args:
        vae: diffusers' AutoencoderKL or AutoencoderTiny, or a CompVis first-stage model. It is shared, not copied,
            unless `dtype` asks for another precision than it has.
        levels: names of the feature levels, any of `mid`, `up0`, `up1`, …; the paper's three levels are unnamed, and
            the default is this project's choice.
        memory: `save` keeps the activations until the backward, `recompute` computes each block again in the
            backward, `auto` is `save`.
        dtype: precision of the decoder's arithmetic; None is the VAE's own, except that a float16 VAE whose
            configuration says `force_upcast` (SDXL's overflows in float16) is run in float32.
        scaling_factor: latents are divided by it before they are decoded; None takes the VAE's configuration.
        shift_factor: added after that division; None takes the VAE's configuration (0 where it has none).

    Raises:
        TypeError: the VAE's decoder is of an unknown kind.
        ValueError: a level that the decoder does not have, or an unknown memory mode.
    """

    def __init__(
        self,
        vae: nn.Module,
        levels: tuple[str, ...] = DEFAULT_LEVELS,
        *,
        memory: Literal["auto", "save", "recompute"] = "auto",
        dtype: torch.dtype | None = None,
        scaling_factor: float | None = None,
        shift_factor: float | None = None,
    ):
        stages = split(vae)
        names = [name for name, _ in stages[1:]]
        unknown = [level for level in levels if level not in names]
        if unknown or not levels:
            raise ValueError(
                f"FrozenDecoder: levels: expected some of {', '.join(names)}, got {', '.join(levels) or 'nothing'}"
            )
        if memory not in ("auto", "save", "recompute"):
            raise ValueError(f"FrozenDecoder: memory: expected auto, save or recompute, got {memory!r}")
        config = getattr(vae, "config", None)
        own = next(vae.parameters()).dtype
        if dtype is None:
            dtype = torch.float32 if own == torch.float16 and getattr(config, "force_upcast", False) else own
        if scaling_factor is None:
            scaling_factor = getattr(config, "scaling_factor", None)
            if scaling_factor is None:
                raise ValueError(
                    "FrozenDecoder: scaling_factor: this VAE has no configuration to take it from; expected a number "
                    "(Stable Diffusion 1.x and 2.x: 0.18215), got None"
                )
        if shift_factor is None:
            shift_factor = getattr(config, "shift_factor", None) or 0.0
        self.levels = tuple(name for name in names if name in levels)
        deepest = names.index(self.levels[-1]) + 1
        self._stages = [_FrozenStage(name, module, dtype) for name, module in stages[: deepest + 1]]
        self.memory, self.dtype = memory, dtype
        self.scaling_factor, self.shift_factor = float(scaling_factor), float(shift_factor)

    def __repr__(self) -> str:
        return (
            f"FrozenDecoder(levels={self.levels}, memory={self.memory!r}, dtype={self.dtype}, "
            f"scaling_factor={self.scaling_factor}, shift_factor={self.shift_factor}, backend='autograd')"
        )

    def features(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """The features x_ℓ = G_ℓ(v) of the paper, from the shallowest level to the deepest.

        Args:
            latents: `[B, C, h, w]`, scaled as the diffusion model sees them.

        Returns:
            One `[B, C_ℓ, H_ℓ, W_ℓ]` a level, in the decoder's dtype, differentiable in the latents only.
        """
        if latents.ndim != 4 or not latents.is_floating_point():
            raise ValueError(
                f"FrozenDecoder.features: latents: expected a floating-point tensor [B, C, h, w], "
                f"got {latents.dtype} {list(latents.shape)}"
            )
        found = []
        with torch.autocast(latents.device.type, enabled=False):
            x = (
                latents.to(torch.promote_types(latents.dtype, torch.float32)) / self.scaling_factor
            ) + self.shift_factor
            x = x.to(self.dtype)
            for stage in self._stages:
                if self.memory == "recompute" and torch.is_grad_enabled() and x.requires_grad:
                    x = checkpoint(stage, x, use_reentrant=False)
                else:
                    x = stage(x)
                if stage.name in self.levels:
                    found.append(x)
        return found

    def feature_matching(
        self,
        latents: torch.Tensor,
        latents_prime: torch.Tensor,
        *,
        norm: Literal["mean", "sum"] = "mean",
        batch_reduction: Literal["mean", "sum"] = "mean",
        nonfinite: Literal["propagate", "zero", "raise"] = "propagate",
        gradients: bool = True,
        return_statistics: bool = False,
    ) -> tuple[Any, ...]:
        """L_FM and the gradients of its two branches, from one pass over [v; v′] (paper §3.2, Eq. 2 without 1 + α_t).

        Args:
            latents: v, `[B, C, h, w]`.
            latents_prime: v′ = v + ε̂ − ε, the same shape.
            norm: `mean` over a level's elements, or `sum` (‖·‖₁ as printed).
            batch_reduction: `mean` or `sum` over the samples.
            nonfinite: what a non-finite difference does, as in `feature_matching_loss`.
            gradients: False computes the value alone and returns None for both gradients.
            return_statistics: also return the per-level values and counts.

        Returns:
            `(loss, grad_v, grad_v_prime)`: a scalar without graph, and J(v)ᵀ ∂L/∂x and J(v′)ᵀ ∂L/∂x′, float32
            `[B, C, h, w]` (float64 for float64 latents), each branch on its own; with `return_statistics` a fourth
            element, see `feature_matching_loss`. Nothing synchronises with the host unless `nonfinite="raise"`.
        """
        if latents.shape != latents_prime.shape:
            raise ValueError(
                f"FrozenDecoder.feature_matching: latents_prime: expected the latents' shape {list(latents.shape)}, "
                f"got {list(latents_prime.shape)}"
            )
        precision = torch.promote_types(latents.dtype, torch.float32)
        # Under inference mode too: what comes out of this `cat` may be differentiated.
        with torch.inference_mode(False):
            both = torch.cat([latents.detach().to(precision), latents_prime.detach().to(precision)])
        # The backward too has to be outside of an enclosing autocast, which would run its matrix products in half.
        grad_v: torch.Tensor | None = None
        grad_v_prime: torch.Tensor | None = None
        with (
            torch.inference_mode(False),
            torch.autocast(latents.device.type, enabled=False),
            torch.set_grad_enabled(gradients),
        ):
            features = self.features(both.requires_grad_(gradients))
            loss, statistics = feature_matching_loss(
                features,
                None,
                norm=norm,
                batch_reduction=batch_reduction,
                nonfinite=nonfinite,
                return_statistics=True,
            )
            if gradients:
                scale = self._gradient_scale(features, norm, batch_reduction)
                (grad,) = torch.autograd.grad(loss * scale, both)
                grad_v, grad_v_prime = (grad / scale).chunk(2)
        result = (loss.detach(), grad_v, grad_v_prime)
        return (*result, statistics) if return_statistics else result

    def _gradient_scale(self, features: list[torch.Tensor], norm: str, batch_reduction: str) -> float:
        """A power of two that brings ±1/M into float16's range; 1 in the other precisions.

        With norm="mean" the cotangent of a level is ±1/M, and M reaches 2²⁵: below float16's smallest number.
        """
        if self.dtype != torch.float16 or norm != "mean":
            return 1.0
        elements = max(x[0].numel() for x in features) if features[0].shape[0] else 1
        samples = features[0].shape[0] // 2 if batch_reduction == "mean" else 1
        return 2.0 ** (math.floor(math.log2(max(1, elements * samples))) - HEADROOM)
