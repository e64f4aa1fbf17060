"""α_t, σ_t and w(t), and how t is drawn. Schedulers supply ᾱ_t; nothing else of theirs is used."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..errors import UsageError
from ..ops._compiled import outside_graphs
from .presets import Weighting


class Schedule:
    """Tables of α_t and σ_t, computed in float64, gathered in float32.

    Args:
        alpha: α_t = √ᾱ_t for every t, `[T]` float64 (1 − τ for flow matching).
        sigma: σ_t = √(1 − ᾱ_t), `[T]` float64 (τ for flow matching).
        time: what the network is told for each t, `[T]`; None tells it t itself.
    """

    def __init__(self, alpha: torch.Tensor, sigma: torch.Tensor, time: torch.Tensor | None = None):
        if alpha.ndim != 1 or alpha.shape != sigma.shape:
            raise ValueError(
                f"Schedule: expected alpha and sigma of one shape [T], got {list(alpha.shape)} and {list(sigma.shape)}"
            )
        self._alpha, self._sigma = alpha.to(torch.float32), sigma.to(torch.float32)
        self._time = None if time is None else time.to(torch.float32)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Schedule:
        """Reads a diffusers scheduler: `alphas_cumprod`, or the shift of a flow-matching scheduler.

        Raises:
            TypeError: the scheduler has neither.
        """
        alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
        if alphas_cumprod is not None:
            alpha_bar = torch.as_tensor(alphas_cumprod).detach().double().cpu()
            return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt())
        if "FlowMatch" in type(scheduler).__name__:
            # From the configuration: `scheduler.sigmas` changes when somebody calls set_timesteps.
            config = scheduler.config
            tau = torch.arange(1, config.num_train_timesteps + 1, dtype=torch.float64) / config.num_train_timesteps
            shift = 1.0 if getattr(config, "use_dynamic_shifting", False) else getattr(config, "shift", 1.0)
            tau = shift * tau / (1 + (shift - 1) * tau)
            # Flow-matching networks are told the noise level, not the row of the table.
            return cls(1 - tau, tau, tau * config.num_train_timesteps)
        raise TypeError(
            f"Schedule.from_scheduler: scheduler: expected alphas_cumprod, or a flow-matching scheduler; "
            f"got {type(scheduler).__name__}"
        )

    def __len__(self) -> int:
        return len(self._alpha)

    def to(self, device: torch.device) -> Schedule:
        """Moves the tables, once, to where the latents are."""
        if self._alpha.device != device:
            self._alpha, self._sigma = self._alpha.to(device), self._sigma.to(device)
            self._time = None if self._time is None else self._time.to(device)
        return self

    def gather(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α_t and σ_t of each sample: two `[B]` float32 tensors."""
        return self._alpha[timesteps], self._sigma[timesteps]

    def between_sigmas(self, low: float, high: float) -> tuple[int, int]:
        """The first and the last t whose noise level σ_t / α_t (SJC's σ) lies in a range.

        Raises:
            UsageError: there is none.
        """
        levels = (self._sigma / self._alpha).cpu()
        inside = ((levels >= low) & (levels <= high)).nonzero()[:, 0].tolist()
        if not inside:
            raise UsageError(
                f"sigma_range: expected LOW HIGH around some of the noise levels {float(levels.min()):.3g} to "
                f"{float(levels.max()):.3g}, got {low:g} {high:g}"
            )
        return inside[0], inside[-1]

    def network_time(self, timesteps: torch.Tensor) -> torch.Tensor:
        """What the network is told: t, or τ·T for flow matching, `[B]`."""
        return timesteps if self._time is None else self._time[timesteps]

    def weight(self, timesteps: torch.Tensor, weighting: Weighting) -> torch.Tensor:
        """w(t), `[B]` float32: 1, 1 − ᾱ_t, √ᾱ_t (1 − ᾱ_t), or what the callable says."""
        if callable(weighting):
            return weighting(timesteps).to(torch.float32)
        alpha, sigma = self.gather(timesteps)
        if weighting == "uniform":
            return torch.ones_like(alpha)
        return sigma.square() if weighting == "dreamfusion" else alpha * sigma.square()


@dataclasses.dataclass(frozen=True)
class TimestepSampler:
    """Draws t uniformly from [low·T, high·T], per sample; the upper end may fall linearly over the run.

    Attributes:
        count: T, the length of the schedule.
        low: lowest fraction of the schedule.
        high: highest fraction at the start.
        anneal_to: highest fraction at the end; None is `high`.
    """

    count: int
    low: float
    high: float
    anneal_to: float | None = None

    def bounds(self, progress: float) -> tuple[int, int]:
        """Lowest and highest t, both drawn, at a progress in [0, 1]."""
        high = self.high
        if self.anneal_to is not None:
            high += (self.anneal_to - high) * min(max(progress, 0.0), 1.0)
        lowest = min(int(self.low * self.count), self.count - 1)
        return lowest, max(lowest, min(int(high * self.count), self.count - 1))

    def sample(
        self, batch: int, device: torch.device, generator: torch.Generator | None = None, progress: float = 0.0
    ) -> torch.Tensor:
        """Timesteps `[batch]` int64 on `device`; a CPU generator draws on the CPU and the result is moved."""
        # Bounds are constants of a compiled graph: those that change at every step are drawn from outside of it.
        draw = _draw if self.anneal_to is None else _draw_outside
        return draw(self, batch, device, generator, progress)

    def sample_up_to(self, highest: torch.Tensor, batch: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """As `sample`, with the highest t as a value on the device: what a captured graph can draw.

        The numbers are not those of `sample` (`randint` takes its bounds on the host), their distribution is.

        Args:
            highest: of `bounds`, `[]` int64 on the device.
            batch: how many.
            generator: on the same device; None is the device's default.
        """
        lowest, _ = self.bounds(0.0)
        # float64: in float32 the product could round up to the next t.
        u = torch.rand(batch, generator=generator, device=highest.device, dtype=torch.float64)
        return (lowest + (u * (highest - lowest + 1)).floor().to(torch.int64)).clamp(max=highest)


def _draw(
    sampler: TimestepSampler, batch: int, device: torch.device, generator: torch.Generator | None, progress: float
) -> torch.Tensor:
    lowest, highest = sampler.bounds(progress)
    where = generator.device if generator is not None else device
    return torch.randint(lowest, highest + 1, (batch,), generator=generator, device=where).to(device)


_draw_outside = outside_graphs(_draw)
