"""Precision and layout of the networks on a CPU: what is fastest among what is accurate enough, measured.

Processors differ (AVX-512 with or without bfloat16, AMX), and so do networks and sizes: which of float32 and bfloat16,
contiguous and channels-last is fastest cannot be known beforehand, and how much guidance magnifies the rounding
depends on the prompt. So both are measured on the caller's own latents and text, and nothing is taken that deviates
from float32 by more than the tolerance.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ..decoder import FrozenDecoder
from ..decoder.narrow import bfloat16_in_hardware
from ..errors import UsageError
from ..losses.functional import residual_latents
from . import packing
from .inputs import check_latents, draw_noise
from .presets import PriorSettings
from .schedule import TimestepSampler
from .terms import Step
from .text import TextEmbeddings

if TYPE_CHECKING:
    from .prior import LatentDiffusionPrior

_LOG = logging.getLogger(__name__)
# Largest relative deviation (L2) from float32, of the residual and of the gradient, at the worst of three timesteps.
TOLERANCE = 0.05
# A candidate has to be faster than what is there by more than a measurement on a busy machine may be wrong.
MARGIN = 0.95
# Seconds after which a candidate is not timed again: long calls vary less, and all of them would take minutes.
ENOUGH = 2.0


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way of running a network, and what was measured of it.

    Attributes:
        network: `unet` or `decoder`.
        dtype: of its arithmetic.
        channels_last: whether the images between its layers are; the decoder chooses this itself.
        packed: whether oneDNN's blocks of the weights are kept (packing.py).
        seconds: shortest time of a call: the UNet on its guided batch, the decoder's feature matching.
        deviation: largest relative deviation of the residual (UNet) or of the matching's gradient (decoder).
    """

    network: Literal["unet", "decoder"]
    dtype: torch.dtype
    channels_last: bool
    seconds: float
    deviation: float
    packed: bool = False

    def __str__(self) -> str:
        how = (" channels-last" if self.channels_last else "") + (" packed" if self.packed else "")
        name = f"{self.network} {str(self.dtype).removeprefix('torch.')}{how}"
        return f"{name}: {self.seconds * 1e3:.1f} ms, deviation {self.deviation:.1e}"


@dataclasses.dataclass(frozen=True)
class Precision:
    """What `optimise` chose and why; `print` it.

    Attributes:
        unet: how the UNet runs.
        decoder: how the decoder runs; None where it was not looked at.
        tried: everything that was measured.
        deviation: of the whole gradient with both choices, the largest over three timesteps.
        tolerance: what was allowed.
        settings: for which all this was measured.
        notes: what was not tried or not taken, and why.
    """

    unet: Candidate
    decoder: Candidate | None
    tried: tuple[Candidate, ...]
    deviation: float
    tolerance: float
    settings: PriorSettings
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        chosen = [c for c in (self.unet, self.decoder) if c is not None]
        lines = [f"Precision: gradient within {self.deviation:.1e} of float32, {self.tolerance:g} allowed"]
        lines += [f"  {'*' if any(c is k for k in chosen) else ' '} {c}" for c in self.tried]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def warn_if_other(self, settings: PriorSettings) -> None:
        """Logs a warning where a reduced precision was measured with other settings than these."""
        reduced = any(c is not None and c.dtype != torch.float32 for c in (self.unet, self.decoder))
        if reduced and settings != self.settings:
            _LOG.warning("prior.optimise: the precision was measured with other settings; measure it again for these")


def optimised(
    prior: LatentDiffusionPrior,
    latents: torch.Tensor,
    text: TextEmbeddings | torch.Tensor,
    dtype: torch.dtype | Literal["auto"],
    channels_last: bool | Literal["auto"],
    tolerance: float,
    runs: int,
) -> LatentDiffusionPrior:
    """See `LatentDiffusionPrior.optimise`."""
    _check(prior, latents, dtype, channels_last, tolerance, runs)
    notes: list[str] = []
    dtypes = _dtypes(prior.unet, dtype, notes)
    if prior.settings.lambda_fm != 0:
        _ = prior.decoder  # made now, so that it is shared
    bench = _Bench(prior, latents.detach(), text, tolerance, runs)
    parts = {"unet": bench.search_unet(dtypes, dtype, channels_last)}
    if prior.settings.lambda_fm != 0:
        if prior._decoder_given or prior.decoder.dtype != torch.float32:
            notes.append("decoder: handed over, or not in float32; left as it is")
        else:
            parts["decoder"] = bench.search_decoder(dtypes, dtype)
    # Each is accurate enough alone; both together, in the whole gradient, have to be as well.
    chosen = {name: found.best for name, found in parts.items()}
    faster, deviation = bench.together(chosen)
    for name in ("decoder", "unet"):
        if deviation <= tolerance or name not in parts:
            continue
        if dtype != "auto":
            raise UsageError(f"dtype: with {dtype} {_too_far('the gradient', deviation, tolerance)}")
        notes.append(f"{name}: left in float32; otherwise {_too_far('the gradient', deviation, tolerance)}")
        chosen[name] = parts[name].base
        faster, deviation = bench.together(chosen)
    tried = tuple(m.candidate for found in parts.values() for m in (found.base, *found.others))
    decoder = chosen["decoder"].candidate if "decoder" in chosen else None
    faster.precision = Precision(
        chosen["unet"].candidate, decoder, tried, deviation, tolerance, prior.settings, tuple(notes)
    )
    _LOG.info("prior.optimise: %r", faster.precision)
    return faster


@dataclasses.dataclass
class _Measured:
    """A candidate, and the prior's attributes that make it; these are dropped where it is not taken."""

    candidate: Candidate
    attributes: dict[str, Any]


@dataclasses.dataclass
class _Found:
    base: _Measured
    others: list[_Measured]
    best: _Measured


class _Bench:
    """Runs a prior's parts on one input and compares them with what is there."""

    def __init__(
        self,
        prior: LatentDiffusionPrior,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor,
        tolerance: float,
        runs: int,
    ):
        self.prior: LatentDiffusionPrior = prior._sharing(precision=None)
        self.latents, self.text, self.tolerance, self.runs = latents, text, tolerance, runs
        self.noise = draw_noise(latents, prior.settings.noises, torch.Generator().manual_seed(0))
        low, high = TimestepSampler(len(prior.schedule), *prior.settings.timestep_range).bounds(0.0)
        self.timesteps = sorted({low, (low + high) // 2, high})

    def search_unet(self, dtypes: Sequence[torch.dtype], dtype: Any, channels_last: bool | Literal["auto"]) -> _Found:
        """Every precision in the layouts asked for, judged by the residual."""
        unet = self.prior.unet
        here = Candidate("unet", torch.float32, _is_channels_last(unet), math.inf, 0.0, packing.is_packed(unet))
        layouts = (False, True) if channels_last == "auto" else (channels_last,)
        kept = {d: packing.available(d) for d in dtypes}
        options = [dataclasses.replace(here, dtype=d, channels_last=c, packed=kept[d]) for d in dtypes for c in layouts]

        def made(candidate: Candidate) -> _Measured:
            network = self._made(unet, candidate)
            # There may be nothing in it that can be packed.
            candidate = dataclasses.replace(candidate, packed=packing.is_packed(network))
            return _Measured(candidate, {"unet": network})

        def residual(prior: LatentDiffusionPrior, t: int) -> torch.Tensor:
            return self._step(prior, t).residual

        return self._search(
            here,
            options,
            made,
            residual,
            lambda c: dtype in ("auto", c.dtype) and channels_last in ("auto", c.channels_last),
        )

    def search_decoder(self, dtypes: Sequence[torch.dtype], dtype: Any) -> _Found:
        """Every precision, judged by the gradients of feature matching on the same v and v′."""
        prior, decoder = self.prior, self.prior.decoder
        steps = {t: self._step(prior, t) for t in self.timesteps}
        moved = {t: residual_latents(self.latents.to(s.residual.dtype), s.residual, s.alpha) for t, s in steps.items()}
        here = Candidate("decoder", torch.float32, False, math.inf, 0.0)

        def gradients(prior: LatentDiffusionPrior, t: int) -> torch.Tensor:
            _, *both = prior.decoder.feature_matching(self.latents, moved[t], batch_reduction="sum")
            return torch.cat(both)

        def made(candidate: Candidate) -> _Measured:
            options: dict[str, Any] = {"memory": decoder.memory, "dtype": candidate.dtype}
            return _Measured(
                candidate, {"_decoder": FrozenDecoder(prior._require_vae(), prior.settings.levels, **options)}
            )

        options = [dataclasses.replace(here, dtype=d) for d in dtypes]
        return self._search(here, options, made, gradients, lambda c: dtype in ("auto", c.dtype))

    def together(self, chosen: dict[str, _Measured]) -> tuple[LatentDiffusionPrior, float]:
        """The prior with these parts, and the deviation of its gradient."""
        attributes = {name: value for part in chosen.values() for name, value in part.attributes.items()}
        faster: LatentDiffusionPrior = self.prior._sharing(**attributes)
        if not attributes:
            return faster, 0.0
        pairs = [[self._gradient(p, t) for p in (faster, self.prior)] for t in self.timesteps]
        return faster, max(_relative(*pair) for pair in pairs)

    def _made(self, unet: nn.Module, candidate: Candidate) -> nn.Module:
        made = _converted(unet, candidate.dtype, candidate.channels_last)
        if candidate.packed:
            prior = self.prior._sharing(unet=made)
            packing.pack(made, candidate.channels_last, lambda: self._step(prior, self.timesteps[0]))
        return made

    def _step(self, prior: LatentDiffusionPrior, t: int) -> Step:
        return prior._evaluate(self.latents, self.text, t, self.noise, None, 0.0)

    def _gradient(self, prior: LatentDiffusionPrior, t: int) -> torch.Tensor:
        return prior.gradient(self.latents, self.text, timesteps=t, noise=self.noise)[0]

    def _search(
        self,
        here: Candidate,
        options: list[Candidate],
        make: Callable[[Candidate], _Measured],
        run: Callable[[LatentDiffusionPrior, int], torch.Tensor],
        wanted: Callable[[Candidate], bool],
    ) -> _Found:
        base, others, best = _Measured(here, {}), [], None
        # Where what is there is all that there is to try, it is timed against itself.
        for option in [o for o in options if o != here] or [here]:
            measured = _Measured(here, {}) if option == here else make(option)
            if measured.candidate == here:  # a copy that is the same in everything
                if base.candidate.seconds < math.inf:
                    continue
                measured.attributes = {}
            ours, theirs, deviation = self._compare(run, self.prior._sharing(**measured.attributes))
            base.candidate = dataclasses.replace(base.candidate, seconds=min(base.candidate.seconds, ours))
            if measured.candidate == here:
                continue
            measured.candidate = dataclasses.replace(measured.candidate, seconds=theirs, deviation=deviation)
            others.append(measured)
            fits = wanted(measured.candidate) and deviation <= self.tolerance
            dropped = measured
            if fits and (best is None or theirs < best.candidate.seconds):
                best, dropped = measured, best or base
            dropped.attributes = {}  # one copy of a network is kept at a time, beside the one being made
        if wanted(base.candidate) and (best is None or best.candidate.seconds > MARGIN * base.candidate.seconds):
            best = base
        if best is None:
            closest = min((m.candidate for m in others if wanted(m.candidate)), key=lambda c: c.deviation)
            what = f"the {here.network} in {closest.dtype}"
            raise UsageError(f"dtype: {_too_far(what, closest.deviation, self.tolerance)}")
        return _Found(base, others, best)

    def _compare(
        self, run: Callable[[LatentDiffusionPrior, int], torch.Tensor], other: LatentDiffusionPrior
    ) -> tuple[float, float, float]:
        """Shortest times of what is there and of another, taken in turn, and the other's largest deviation."""
        times: tuple[list[float], list[float]] = ([], [])
        deviation = 0.0
        run(other, self.timesteps[0])  # what is prepared once is not timed
        began = time.perf_counter()
        for done in range(self.runs):
            if done > 0 and time.perf_counter() - began > ENOUGH:
                break
            for t in self.timesteps:
                results = []
                for prior, taken in zip((self.prior, other), times, strict=True):
                    start = time.perf_counter()
                    results.append(run(prior, t))
                    taken.append(time.perf_counter() - start)
                deviation = max(deviation, _relative(results[1], results[0]))
        return min(times[0]), min(times[1]), deviation


def _dtypes(unet: nn.Module, dtype: torch.dtype | Literal["auto"], notes: list[str]) -> tuple[torch.dtype, ...]:
    """The precisions to try; why bfloat16 is not among them goes to the notes."""
    if dtype != "auto":
        return (dtype,)
    if not bfloat16_in_hardware():
        notes.append("bfloat16: not tried, this processor does not have it")
        return (torch.float32,)
    if getattr(unet, "_keep_in_fp32_modules", None):
        notes.append("bfloat16: not tried, the UNet wants some of its modules in float32")
        return (torch.float32,)
    return (torch.float32, torch.bfloat16)


def _converted(unet: nn.Module, dtype: torch.dtype, channels_last: bool) -> nn.Module:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    plain = packing.unpacked(unet)
    made = (copy.deepcopy(plain) if plain is unet else plain).requires_grad_(False)
    # nn.Module's own: diffusers' `to` warns of modules to keep in float32, which do not exist here.
    convert: Any = nn.Module.to
    return convert(made, dtype=dtype, memory_format=layout)


def _is_channels_last(module: nn.Module) -> bool:
    if (layout := packing.is_channels_last(module)) is not None:
        return layout
    kernels = [p for p in module.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def _relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    difference, size = float((actual - expected).norm()), float(expected.norm())
    if difference == 0:
        return 0.0
    return difference / size if size > 0 and math.isfinite(difference / size) else math.inf


def _too_far(what: str, deviation: float, tolerance: float) -> str:
    return f"{what} deviates from float32 by {deviation:.1e} (relative L2), more than the {tolerance:g} allowed"


def _check(
    prior: LatentDiffusionPrior, latents: torch.Tensor, dtype: Any, channels_last: Any, tolerance: float, runs: int
) -> None:
    if prior.device.type != "cpu":
        raise UsageError(f"optimise: expected networks on a CPU, got {prior.device}; there, `from_pretrained(dtype=…)`")
    if hasattr(prior.unet, "_orig_mod"):
        raise UsageError("optimise: expected a UNet that is not compiled; optimise first, then compile")
    stored = next(prior.unet.parameters()).dtype
    if stored != prior.dtype:
        raise UsageError(f"optimise: expected a UNet in float32, got one cast layer by layer from {stored}")
    if prior.dtype != torch.float32:
        raise UsageError(f"optimise: expected a UNet in float32, to compare with, got {prior.dtype}")
    if dtype not in ("auto", torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(f"dtype: expected 'auto', torch.float32, torch.bfloat16 or torch.float16; got {dtype!r}")
    if channels_last not in ("auto", True, False):
        raise UsageError(f"channels_last: expected 'auto', True or False; got {channels_last!r}")
    if not tolerance >= 0 or runs < 1:
        raise UsageError(f"optimise: expected a tolerance of 0 or more and 1 run or more; got {tolerance} and {runs}")
    check_latents(latents, prior.unet, prior.device)
