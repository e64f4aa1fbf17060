"""The loss L = λ1·L_FM + λ2·L_KL + λ3·L_LSD (Eq. 2–4) of what the networks gave: as scalars, or as its gradient on v.

The one place that knows how λ's, scale, batch reduction and the policy for non-finite elements come together. The prior
is networks and these terms; a host's losses are these terms, the host's clip and what the host distils.

1. `Step`: v, r and the coefficients, of the networks and the schedule.
2. `match`: feature matching of v and v′ = v + r, which runs the decoder; nothing is done where λ1 is 0.
3. `loss(weights, latents, step, matching)`, or `gradient(weights, step, matching)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..decoder import FrozenDecoder
from ..losses.functional import (
    GradientStatistics,
    combine_gradients,
    latent_kl_loss,
    residual_latents,
    score_distillation_loss,
)
from .outputs import PriorOutput, PriorStatistics, ScaleGradient, WithGradient


class Weights(Protocol):
    """How the terms come together; `PriorSettings` says what each of them means."""

    @property
    def lambda_fm(self) -> float: ...
    @property
    def lambda_kl(self) -> float: ...
    @property
    def lambda_lsd(self) -> float: ...
    @property
    def scale(self) -> Literal["latent", "literal", "balanced"]: ...
    @property
    def batch_reduction(self) -> Literal["mean", "sum"]: ...
    @property
    def nonfinite(self) -> Literal["propagate", "zero", "raise"]: ...


class Matching(NamedTuple):
    """Feature matching of each sample, not reduced over the batch.

    Attributes:
        grad_v: gradient on v, `[B, C, H, W]`; None without feature matching, or where no gradient was wanted.
        grad_v_prime: the same on v′, without the factor 1 + α_t.
        levels: L_FM by level and sample, `[L, B]`; empty without feature matching.
        nonfinite: non-finite differences, the same.
        names: of the levels.
    """

    grad_v: Tensor | None
    grad_v_prime: Tensor | None
    levels: Tensor
    nonfinite: Tensor
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """What the noise predictor gave for v, t and ε.

    Attributes:
        latents: v, `[B, C, H, W]`, off its graph.
        residual: r = ε̂ − ε, along which feature matching moves.
        alpha: α_t, `[B]`.
        weight: w(t), `[B]`.
        timesteps: t, `[B]`.
        outside: which t were clamped, see `PriorStatistics`.
        field: what is distilled, where that is not r.
        regularise: False leaves feature matching and the KL term out.
    """

    latents: Tensor
    residual: Tensor
    alpha: Tensor
    weight: Tensor
    timesteps: Tensor
    outside: Tensor | None = None
    field: Tensor | None = None
    regularise: bool = True

    @property
    def distilled(self) -> Tensor:
        """r, or what takes its place."""
        return self.residual if self.field is None else self.field


@torch.no_grad()
def match(weights: Weights, decoder: Callable[[], FrozenDecoder], step: Step, *, gradients: bool = True) -> Matching:
    """Runs the decoder on v and v′ = v + r, where λ1 is not 0.

    Args:
        weights: λ1, scale and policy.
        decoder: gives the decoder; not called without feature matching.
        step: v, r and α_t.
        gradients: False computes the values alone.
    """
    v, r = step.latents, step.residual
    if not step.regularise or weights.lambda_fm == 0 or len(v) == 0:
        nothing = torch.zeros(0, len(v), device=v.device)
        return Matching(None, None, nothing, nothing, ())
    frozen = decoder()
    _, grad_v, grad_v_prime, found = frozen.feature_matching(
        v,
        residual_latents(v.to(torch.promote_types(v.dtype, r.dtype)), r, step.alpha),
        norm="sum" if weights.scale == "literal" else "mean",
        batch_reduction="sum",
        nonfinite=weights.nonfinite,
        gradients=gradients,
        return_statistics=True,
    )
    return Matching(grad_v, grad_v_prime, found.level_values, found.nonfinite, frozen.levels)


def loss(weights: Weights, latents: Tensor, step: Step, matching: Matching) -> PriorOutput:
    """Loss mode: scalars on the graph of the latents, whose backward multiplies by what comes in.

    Args:
        weights: λ's and conventions.
        latents: v with its graph  # [B, C, H, W]
        step: of its values.
        matching: of `match`.
    """
    reduce: dict[str, Any] = {"batch_reduction": weights.batch_reduction, "nonfinite": weights.nonfinite}
    balance = balance_of(weights, step, matching)
    lsd = score_distillation_loss(latents, step.distilled, step.weight, **reduce)
    fm, kl = torch.zeros_like(lsd.detach()), torch.zeros_like(lsd.detach())
    if step.regularise:
        kl = latent_kl_loss(latents, **reduce)
        if weights.scale != "literal":
            # Same value, N times the gradient: Eq. 3 counted per element, as LSD is.
            kl = ScaleGradient.apply(kl, latents.shape[1:].numel())
    if len(matching.levels):
        values = matching.levels.sum(0)
        fm = (values.mean() if weights.batch_reduction == "mean" else values.sum()).to(lsd.dtype)
        if matching.grad_v is not None:
            alone, _ = _combine(weights, step, matching, balance, 0.0, 0.0)
            fm = WithGradient.apply(latents, fm, alone)
    _, statistics = _whole(weights, step, matching, balance)
    # A weight of zero switches a term off, even one that is not finite, as it does in gradient mode.
    weighted = [(weights.lambda_fm, fm), (weights.lambda_kl, kl), (weights.lambda_lsd, lsd)]
    total = sum((scale * term for scale, term in weighted if scale != 0), torch.zeros_like(lsd.detach()))
    return PriorOutput(total, lsd, fm, kl, statistics)


@torch.no_grad()
def gradient(weights: Weights, step: Step, matching: Matching) -> tuple[Tensor, PriorStatistics]:
    """Gradient mode: dL/dv, float32 `[B, C, H, W]` (float64 for float64 latents), and the statistics."""
    return _whole(weights, step, matching, balance_of(weights, step, matching))


@torch.no_grad()
def balance_of(weights: Weights, step: Step, matching: Matching) -> Tensor | float:
    """What λ1 is multiplied by: 0 without feature matching, 1 on the scales `latent` and `literal`.

    On `balanced` ‖w r‖ / (L ‖N·dL_FM/dv‖) of each sample, `[B]`, L levels: λ1 / L is then the ratio to score
    distillation.
    """
    if matching.grad_v is None or matching.grad_v_prime is None:
        return 0.0
    if weights.scale != "balanced":
        return 1.0
    towards = matching.grad_v + (1 + step.alpha)[:, None, None, None] * matching.grad_v_prime
    distillation = step.weight[:, None, None, None] * step.distilled
    if weights.nonfinite == "zero":
        towards, distillation = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (towards, distillation))
    size = towards.flatten(1).norm(dim=1) * (towards[0].numel() * len(matching.levels))
    ratio = distillation.flatten(1).norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny)
    return torch.where(size == 0, torch.zeros_like(ratio), ratio)


def _whole(weights: Weights, step: Step, matching: Matching, balance: Tensor | float) -> tuple[Tensor, PriorStatistics]:
    """All three terms, and what was seen of them."""
    lambda_kl = weights.lambda_kl if step.regularise else 0.0
    found, terms = _combine(weights, step, matching, weights.lambda_fm * balance, lambda_kl, weights.lambda_lsd)
    return found, PriorStatistics(
        timesteps=step.timesteps,
        alpha=step.alpha,
        terms=terms._asdict(),
        fm=matching.levels.sum(0),
        fm_levels=matching.levels,
        fm_nonfinite=matching.nonfinite,
        levels=matching.names,
        outside=step.outside,
    )


@torch.no_grad()
def _combine(
    weights: Weights,
    step: Step,
    matching: Matching,
    lambda_fm: Tensor | float,
    lambda_kl: float,
    lambda_lsd: float,
) -> tuple[Tensor, GradientStatistics]:
    return combine_gradients(
        step.latents,
        step.distilled,
        matching.grad_v,
        matching.grad_v_prime,
        step.alpha,
        step.weight,
        lambda_fm=lambda_fm,
        lambda_kl=lambda_kl,
        lambda_lsd=lambda_lsd,
        scale="literal" if weights.scale == "literal" else "latent",
        batch_reduction=weights.batch_reduction,
        nonfinite=weights.nonfinite,
    )
