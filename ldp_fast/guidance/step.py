"""One evaluation of the frozen networks: what both modes, and every scale, are computed from."""

from __future__ import annotations

import dataclasses

import torch

from .presets import PriorSettings


@dataclasses.dataclass(frozen=True)
class Step:
    """What the networks gave for v, t and ε.

    Attributes:
        latents: v, `[B, C, H, W]`.
        residual: r = ε̂ − ε.
        alpha: α_t, `[B]`.
        weight: w(t), `[B]`.
        timesteps: t, `[B]`.
        grad_v: gradient of each sample's feature matching on v; None without feature matching.
        grad_v_prime: the same on v′, without the factor 1 + α_t.
        fm_levels: L_FM by level and sample, `[L, B]`; empty without feature matching.
        fm_nonfinite: non-finite differences, the same.
        outside: which t were clamped, see `PriorStatistics`.
    """

    latents: torch.Tensor
    residual: torch.Tensor
    alpha: torch.Tensor
    weight: torch.Tensor
    timesteps: torch.Tensor
    grad_v: torch.Tensor | None
    grad_v_prime: torch.Tensor | None
    fm_levels: torch.Tensor
    fm_nonfinite: torch.Tensor
    outside: torch.Tensor | None = None

    @torch.no_grad()
    def balance(self, settings: PriorSettings) -> torch.Tensor | float:
        """What λ1 is multiplied by: 0 without feature matching, 1 on the scales `latent` and `literal`.

        On `balanced` ‖w r‖ / (L ‖N·dL_FM/dv‖) of each sample, `[B]`, L levels: λ1 / L is then the ratio to score
        distillation.
        """
        if self.grad_v is None or self.grad_v_prime is None:
            return 0.0
        if settings.scale != "balanced":
            return 1.0
        matching = self.grad_v + (1 + self.alpha)[:, None, None, None] * self.grad_v_prime
        distillation = self.weight[:, None, None, None] * self.residual
        if settings.nonfinite == "zero":
            matching, distillation = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (matching, distillation))
        size = matching.flatten(1).norm(dim=1) * (matching[0].numel() * len(self.fm_levels))
        ratio = distillation.flatten(1).norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny)
        return torch.where(size == 0, torch.zeros_like(ratio), ratio)
