"""What the prior returns: values on the graph, statistics on the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class PriorStatistics:
    """What happened in a step, on the device; `read()` brings it to the host.

    Attributes:
        timesteps: t, `[B]` int64.
        alpha: α_t, `[B]`.
        terms: the per-sample statistics of `combine_gradients`, by name, each `[B]`.
        fm: L_FM of each sample (mean-type), `[B]`; zero where λ1 is 0.
        fm_levels: the same by level, `[L, B]`; empty where λ1 is 0.
        fm_nonfinite: non-finite feature differences by level; empty where λ1 is 0.
        levels: names of the levels.
        outside: which t were given outside of the schedule, on a device where that cannot be looked at without
            waiting, and were clamped into it, `[B]` bool; None where they were checked or drawn.
    """

    timesteps: torch.Tensor
    alpha: torch.Tensor
    terms: dict[str, torch.Tensor]
    fm: torch.Tensor
    fm_levels: torch.Tensor
    fm_nonfinite: torch.Tensor
    levels: tuple[str, ...]
    outside: torch.Tensor | None = None

    def clone(self) -> PriorStatistics:
        """The same in memory of its own, for what a captured step would overwrite."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        copies: dict[str, Any] = {k: x.clone() if isinstance(x, torch.Tensor) else x for k, x in values.items()}
        return PriorStatistics(**{**copies, "terms": {name: x.clone() for name, x in self.terms.items()}})

    def read(self) -> dict[str, float]:
        """Batch means of the values and norms, sums of the counts, as Python numbers. Synchronises with the device."""
        values = {
            name: float(x.sum() if name.startswith("nonfinite") else x.float().mean()) for name, x in self.terms.items()
        }
        values |= {"t": float(self.timesteps.float().mean()), "fm": float(self.fm.mean())}
        values["clamped_t"] = 0.0 if self.outside is None else float(self.outside.sum())
        for index, level in enumerate(self.levels[: len(self.fm_levels)]):
            values[f"fm_{level}"] = float(self.fm_levels[index].mean())
            values[f"nonfinite_fm_{level}"] = float(self.fm_nonfinite[index].sum())
        return values


@dataclasses.dataclass(frozen=True)
class PriorOutput:
    """Loss mode's result: scalars on the autograd graph. `loss` = λ1·fm + λ2·kl + λ3·lsd.

    The values are the mean-type numbers of docs/mathematics.md; the gradients are those of the chosen scale.
    """

    loss: torch.Tensor
    lsd: torch.Tensor
    fm: torch.Tensor
    kl: torch.Tensor
    statistics: PriorStatistics


class ScaleGradient(torch.autograd.Function):
    """The same value, a multiple of the gradient."""

    @staticmethod
    def forward(value: torch.Tensor, factor: float) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, float], output: torch.Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad_output * ctx.factor, None


class WithGradient(torch.autograd.Function):
    """A scalar with a given value and a given gradient; the backward multiplies by what comes in."""

    @staticmethod
    def forward(latents: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.dtype = inputs[0].dtype

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.dtype), None, None
