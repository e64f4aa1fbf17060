"""α_t, σ_t and w(t), and how t is drawn.

A t that is given is checked where looking at it is free: numbers, and tensors on the CPU. On a device, where the host
would wait for it, it is clamped into the schedule, and `Schedule.inside` says which were outside.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from ..errors import UsageError
from ..ops import outside_graphs
from .presets import Weighting
from .schedulers import read_scheduler

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)  # bytes and truth values would be read as masks
# What the conversions of docs/mathematics.md assume of α_t and σ_t; epsilon and sample go with any.
_RELATIONS = {"v_prediction": "α_t² + σ_t² = 1", "flow": "α_t + σ_t = 1"}


class Schedule:
    """Tables of α_t and σ_t, computed in float64, gathered in float32.

    Args:
        alpha: α_t = √ᾱ_t for every t, `[T]` float64 (1 − τ for flow matching).
        sigma: σ_t = √(1 − ᾱ_t), `[T]` float64 (τ for flow matching).
        time: what the network is told for each t, `[T]`; None tells it t itself.
        prediction: what the network predicts, as the scheduler says.
    """

    def __init__(
        self,
        alpha: torch.Tensor,
        sigma: torch.Tensor,
        time: torch.Tensor | None = None,
        prediction: str = "epsilon",
    ):
        if alpha.ndim != 1 or alpha.shape != sigma.shape:
            raise ValueError(
                f"Schedule: expected alpha and sigma of one shape [T], got {list(alpha.shape)} and {list(sigma.shape)}"
            )
        self._alpha, self._sigma = alpha.to(torch.float32), sigma.to(torch.float32)
        self._time = None if time is None else time.to(torch.float32)
        self.prediction = prediction
        self._off: dict[str, float] = {}
        self._after_zero = 0
        a, s = _values(self._alpha), _values(self._sigma)
        if a is not None and s is not None and len(a):
            self._off = {"v_prediction": float(abs(a * a + s * s - 1).max()), "flow": float(abs(a + s - 1).max())}
            self._after_zero = int(np.flatnonzero(s == 0).max(initial=-1)) + 1

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Schedule:
        """Reads a diffusers scheduler's configuration (see `schedulers`).

        Raises:
            TypeError: the argument is not a scheduler.
            UsageError: one whose z_t, t or prediction type is not known here, by name.
        """
        process = read_scheduler(scheduler)
        return cls(process.alpha, process.sigma, process.time, process.prediction)

    def __len__(self) -> int:
        return len(self._alpha)

    def to(self, device: torch.device) -> Schedule:
        """Moves the tables, once, to where the latents are."""
        if self._alpha.device != device:
            self._alpha, self._sigma = self._alpha.to(device), self._sigma.to(device)
            self._time = None if self._time is None else self._time.to(device)
        return self

    def check_prediction(self, prediction: str | None, timestep_range: tuple[float, float] = (0.0, 1.0)) -> None:
        """Checks that what a network predicts says what the noise is.

        Args:
            prediction: epsilon, v_prediction, sample or flow; None is what the scheduler says.
            timestep_range: fractions of the schedule between which t is drawn.

        Raises:
            UsageError: `v_prediction` or `flow` with an α_t and σ_t that they do not go with; `sample` where σ_t is 0,
                for v says nothing of the noise there.
        """
        prediction = prediction or self.prediction
        if self._off.get(prediction, 0.0) > 1e-5:
            fitting = [x for x in ("epsilon", "sample", *_RELATIONS) if self._off.get(x, 0.0) <= 1e-5]
            raise UsageError(
                f"prediction: expected one that goes with the scheduler ({', '.join(fitting)}); got {prediction}, "
                f"which needs {_RELATIONS[prediction]}"
            )
        lowest = TimestepSampler(len(self), *timestep_range).bounds(0.0)[0]
        first = self._first(prediction)
        if lowest < first:
            raise UsageError(
                f"timestep_range: expected t from {first} on for a network that predicts `sample`, because σ_t is 0 "
                f"before; got {lowest}"
            )

    def _first(self, prediction: str | None) -> int:
        return self._after_zero if (prediction or self.prediction) == "sample" else 0

    def inside(
        self, timesteps: torch.Tensor, prediction: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """t within the schedule, and what had to be clamped for it.

        Args:
            timesteps: t, `[B]`.
            prediction: of the network; None is what the scheduler says. For `sample` the schedule begins at σ_t > 0.

        Returns:
            t as it came and None where its values can be looked at; else t clamped, and whether that changed it, `[B]`
            bool on the device. Nothing waits for the device.

        Raises:
            ValueError: a value outside, where looking is free; a tensor of another dtype than signed integers.
        """
        first = self._first(prediction)
        if check_inside(timesteps, first, len(self)):
            return timesteps, None
        kept = timesteps.clamp(first, len(self) - 1)
        return kept, kept != timesteps

    def gather(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α_t and σ_t of each sample: two `[B]` float32 tensors. A t outside is refused or clamped, see `inside`."""
        if not check_inside(timesteps, 0, len(self)):
            timesteps = timesteps.clamp(0, len(self) - 1)
        return self._alpha[timesteps], self._sigma[timesteps]

    def between_sigmas(self, low: float, high: float) -> tuple[int, int]:
        """The first and the last t whose noise level σ_t / α_t (SJC's σ) lies in a range.

        Raises:
            UsageError: the range does not hold a t.
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


def _values(tensor: torch.Tensor) -> np.ndarray | None:
    """The values of a tensor on the CPU, without an operator of PyTorch.

    None if there are no values, or if looking would wait for a device: elsewhere, while compiling, and for the
    tensors of tracing.
    """
    if torch.compiler.is_compiling() or tensor.device.type != "cpu" or type(tensor) is not torch.Tensor:
        return None
    try:
        return tensor.detach().numpy()
    except RuntimeError:
        return None


def check_inside(timesteps: torch.Tensor, first: int, count: int) -> bool:
    """Whether the values of t can be looked at without waiting; if so, they are in [first, count).

    Raises:
        ValueError: they are outside, or are not signed integers.
    """
    if timesteps.dtype not in INTEGERS:
        raise ValueError(f"timesteps: expected signed integers, got {timesteps.dtype}")
    values = _values(timesteps)
    if values is None:
        return False
    if values.size and not first <= values.min() <= values.max() < count:
        got = values.tolist() if values.size <= 16 else f"{values.min()} to {values.max()}"
        raise ValueError(f"timesteps: expected numbers from {first} to {count - 1}, got {got}")
    return True


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
        """Lowest and highest t, both drawn, at a progress; below 0 and above 1 it counts as these.

        Raises:
            ValueError: a progress of NaN.
            TypeError: a progress that is not a number.
        """
        try:
            # `math.isnan` ends a graph of `torch.compile`, and every function around it would have graphs of its own.
            unknown = progress != progress if torch.compiler.is_compiling() else math.isnan(progress)
        except TypeError:
            raise TypeError(f"progress: expected a number from 0 (start) to 1 (end), got {progress!r}") from None
        if unknown:
            raise ValueError(f"progress: expected a number from 0 (start) to 1 (end), got {progress}")
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
