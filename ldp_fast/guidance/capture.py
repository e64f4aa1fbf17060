"""The guided step in gradient mode as one CUDA graph: noising, UNet, guidance, decoder, losses, gradient.

A graph replays the kernels of one run on the addresses of that run. So everything that changes from step to step has a
static buffer that is written before a replay: latents, text, the highest t of the annealing, and t and ε where they
are given. Random numbers are drawn inside the graph; torch keeps the generator's seed and offset on the device and
moves the offset with every replay. Whether t and ε are drawn or given is a flag on the device, so one graph serves
both. All writes are kernels or copies on the device: a replay never waits.

What cannot be captured (no CUDA device, a setting or a network that needs the host) runs `prior.gradient` on the same
buffers, with the same checks, and says why. A capture that fails must not spoil torch's state: up to torch 2.12 it
leaves a generator that can no longer draw, the allocator in recording mode, and the capture's stream current. Hence a
run in which synchronising is an error, a rehearsal on a copy of the generator's state, and the tidying up in `_tried`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import reason
from .check import wanted_by
from .inputs import (
    Timesteps,
    as_timesteps,
    check_generator,
    check_latents,
    check_noise,
    check_text,
    conditions,
    noise_shape,
    rows_for,
)
from .outputs import PriorStatistics
from .schedule import TimestepSampler
from .text import TextEmbeddings

if TYPE_CHECKING:
    from .prior import LatentDiffusionPrior

_LOG = logging.getLogger(__name__)
Result = tuple[torch.Tensor, PriorStatistics]


class CapturedStep:
    """A guided step of fixed shapes; made by `LatentDiffusionPrior.capture`.

    Settings, scheduler and networks are those of the capture. Weights may change in place (the graph reads their
    storage); another setting, another network, a scheduler that is changed, or weights that moved need a new capture.
    Until then what was captured stays in force, and everything that the graph reads stays in memory.

    Attributes:
        captured: whether calls replay a graph.
        reason: why they do not; empty where they do.
    """

    def __init__(
        self,
        prior: LatentDiffusionPrior,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        warmup: int = 3,
    ):
        check_latents(latents, prior.unet, prior.device)
        check_generator(generator)
        if warmup < 1:
            raise ValueError(f"warmup: expected at least 1 run, got {warmup}")
        if prior.settings.lambda_fm != 0:
            _ = prior.decoder  # made now, so that the copy shares it
        self._prior = prior.with_settings()
        self._prior.scheduler = copy.copy(prior.scheduler)  # and with it tables of α_t and σ_t of its own
        self._generator = generator
        settings = self._prior.settings
        self._sampler = TimestepSampler(len(self._prior.schedule), *settings.timestep_range, settings.anneal_to)
        self._copies = 1 if self._prior.guidance_scale is None else 2
        self._graph: Any = None
        self._result: Result | None = None
        self._pinned: list[torch.Tensor] = []
        # Outside of an enclosing inference mode, whose tensors could not be written to later.
        with torch.inference_mode(False), torch.no_grad():
            self._make_buffers(latents, text)
            self.reason = obstacle(self._prior, latents, generator)
            if not self.reason:
                self._graph, self._result, self.reason = record(self._drawing, latents.device, generator, warmup)
            if self._graph is not None:
                self._pinned = _weights(self._prior)
        if self.reason:
            _LOG.warning("prior.capture: steps are not captured, they run eagerly: %s", self.reason)

    @property
    def captured(self) -> bool:
        """Whether calls replay a CUDA graph."""
        return self._graph is not None

    def __getstate__(self) -> dict[str, Any]:
        if self._graph is not None:
            raise TypeError(
                "CapturedStep: expected to be used where it was captured, got asked for a copy of a CUDA graph; "
                "copy the prior and capture another step"
            )
        return self.__dict__

    def __repr__(self) -> str:
        shape = list(self._latents.shape)
        return f"CapturedStep({shape}, captured={self.captured}{f', reason={self.reason!r}' if self.reason else ''})"

    @torch.no_grad()
    def __call__(
        self,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor | None = None,
        *,
        timesteps: Timesteps | None = None,
        noise: torch.Tensor | None = None,
        progress: float = 0.0,
        clone: bool = False,
    ) -> Result:
        """dL/dv, as `prior.gradient` gives it.

        Args:
            latents: v, of the captured shape, dtype and device; copied, its graph is left alone.
            text: embeddings of the captured kind; None keeps those of the call before.
            timesteps: t, `[B]` integers or one number; None draws them.
            noise: ε, as `prior.gradient` takes it; None draws it.
            progress: fraction of the run that is over, for the annealing of t.
            clone: return tensors of the caller's own.

        Returns:
            g and the statistics. **The next call overwrites both**, unless they were cloned:
            `latents.backward(gradient=g)` uses g at once and needs no clone; what is kept over several steps does.

        Raises:
            ValueError: a shape, dtype or device that is not the captured one. They are checked in the fallback too.
        """
        self._fill(latents, text, timesteps, noise, progress)
        if self._graph is None:
            return self._prior.gradient(
                self._latents,
                self._text,
                timesteps=timesteps,
                noise=noise,
                generator=self._generator,
                progress=progress,
            )
        self._graph.replay()
        assert self._result is not None
        gradient, statistics = self._result
        return (gradient.clone(), statistics.clone()) if clone else (gradient, statistics)

    def _make_buffers(self, latents: torch.Tensor, text: TextEmbeddings | torch.Tensor) -> None:
        batch, device = len(latents), latents.device
        prior, size = self._prior, latents.shape[-2:]
        wanted, factor = wanted_by(prior.unet), prior.time_factor
        conditions(text, batch, self._copies, size, prior.settings.order, prior.dtype, wanted, factor)  # for its checks
        self._latents = latents.detach().clone()
        # A row a sample: one row for all and a row each then fit the same buffer.
        if isinstance(text, torch.Tensor):
            self._text: TextEmbeddings | torch.Tensor = rows_for(text, self._copies, batch).detach().clone()
        else:
            self._text = text.expand(batch)._map(lambda x: x.detach().clone(memory_format=torch.contiguous_format))
        self._timesteps = torch.zeros(batch, dtype=torch.int64, device=device)
        wide = torch.promote_types(latents.dtype, torch.float32)
        self._noise = torch.zeros(noise_shape(latents, prior.settings.noises), dtype=wide, device=device)
        self._highest = torch.full((), self._sampler.bounds(0.0)[1], dtype=torch.int64, device=device)
        self._given = torch.zeros(2, dtype=torch.bool, device=device)

    def _fill(
        self,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor | None,
        timesteps: Timesteps | None,
        noise: torch.Tensor | None,
        progress: float,
    ) -> None:
        """Checks everything, then writes everything: a call that raises has changed nothing."""
        batch, device = len(self._latents), self._latents.device
        highest = self._sampler.bounds(progress)[1]
        _check_same("latents", latents, self._latents, exact=True)
        pairs = [] if text is None else _text_pairs(text, self._text, self._copies, batch)
        if timesteps is not None:
            pairs.append((self._timesteps, as_timesteps(timesteps, batch, device, self._sampler.count)))
        if noise is not None:
            check_noise(noise, self._latents, self._prior.settings.noises)
            _check_same("noise", noise, self._noise)
            pairs.append((self._noise, noise))
        for buffer, value in [(self._latents, latents), *pairs]:
            buffer.copy_(value.detach(), non_blocking=True)
        self._highest.fill_(highest)
        for flag, given in enumerate((timesteps, noise)):
            self._given[flag].fill_(given is not None)

    def _drawing(self, generator: torch.Generator | None) -> Result:
        """The body of the graph: the step on the buffers, with t and ε drawn unless the flags say given."""
        drawn = self._sampler.sample_up_to(self._highest, len(self._latents), generator)
        noise = torch.randn(self._noise.shape, generator=generator, device=self._noise.device, dtype=self._noise.dtype)
        return self._prior.gradient(
            self._latents,
            self._text,
            timesteps=torch.where(self._given[0], self._timesteps, drawn),
            noise=torch.where(self._given[1], self._noise, noise),
        )


def _weights(prior: LatentDiffusionPrior) -> list[torch.Tensor]:
    """Views of what the networks hold: a graph goes on reading that memory when the networks have other weights."""
    vae = prior.decoder.vae if prior.settings.lambda_fm != 0 else None
    return [
        x.detach()
        for network in (prior.unet, vae)
        if network is not None
        for x in (*network.parameters(), *network.buffers())
    ]


def obstacle(prior: LatentDiffusionPrior, latents: torch.Tensor, generator: torch.Generator | None) -> str:
    """Why a step cannot be captured, as far as that is known beforehand; empty where nothing is in the way."""
    if latents.device.type != "cuda":
        there = " (there is one, but the networks are elsewhere)" if torch.cuda.is_available() else ""
        return f"no CUDA device: the latents are on {latents.device}{there}"
    if torch.cuda.is_current_stream_capturing():
        return "a graph is being captured already, and the step becomes a part of that one"
    if prior.settings.nonfinite == "raise":
        return "nonfinite='raise' reads the counts on the host"
    if generator is not None and generator.device.type != "cuda":
        return f"the generator is on {generator.device}, and a graph draws on the GPU only"
    return ""


def record(
    body: Callable[[torch.Generator | None], Result],
    device: torch.device,
    generator: torch.Generator | None,
    warmup: int,
) -> tuple[Any, Result | None, str]:
    """Captures `body(generator)`: `(graph, its static results, "")`, or `(None, None, why not)`.

    The warm-up, on a stream of its own, draws from a generator of its own: capturing advances no generator of the host.
    An error in it that does not come from synchronisation is the caller's, and is raised.
    """
    with torch.cuda.device(device), _autocast():
        here, side = torch.cuda.current_stream(), _stream(torch.cuda.current_device())
        default = torch.cuda.default_generators[torch.cuda.current_device()]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(warmup):
                body(torch.Generator(device))
            reason = _synchronises(lambda: body(torch.Generator(device)))
        here.wait_stream(side)
        torch.cuda.synchronize()
        if reason:
            return None, None, reason
        drawn_from = default if generator is None else generator
        kept = drawn_from.graphsafe_get_state()
        drawn_from.graphsafe_set_state(drawn_from.clone_state())
        try:
            reason = _tried(body, generator)[2]
        finally:
            drawn_from.graphsafe_set_state(kept)
        return (None, None, reason) if reason else _tried(body, generator)


@functools.cache
def _stream(device: int) -> Any:
    """The stream of all captures on a device: cuBLAS keeps a workspace for every stream it has seen, for good."""
    return torch.cuda.Stream(device)


def _tried(
    body: Callable[[torch.Generator | None], Result], generator: torch.Generator | None
) -> tuple[Any, Result | None, str]:
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    if generator is not None:
        graph.register_generator_state(generator)  # the default generator is always registered
    stream, first = _stream(torch.cuda.current_device()), ""
    try:
        # `graph` does not go back to the host's stream where its end fails, hence the outer context. Errors are looked
        # for in this thread only: a host's loader or watchdog threads may go on.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            try:
                result = body(generator)
            except RuntimeError as error:
                first = reason(error)  # the end of a broken capture would only say that it is broken
                raise
        return graph, result, ""
    except RuntimeError as error:
        # A capture that broke off leaves the allocator recording into its pool; one that ended does not.
        with contextlib.suppress(Exception):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
        del graph
        torch.cuda.synchronize()
        return None, None, f"the capture failed: {first or reason(error)}"


def _synchronises(run: Callable[[], Any]) -> str:
    """Runs once with synchronisation as an error; what synchronised, or an empty string."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return f"the step synchronises with the host: {reason(error)}{_where(error)}"
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""


def _autocast() -> torch.autocast:
    """Autocast as the host has it, without its cache, which would keep tensors of the graph."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    return torch.autocast("cuda", enabled=enabled, dtype=dtype, cache_enabled=False)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno})" if trace is not None else ""


def _check_same(name: str, value: torch.Tensor, buffer: torch.Tensor, *, exact: bool = False) -> None:
    """Checks against a buffer; unless `exact`, a dtype that the buffer's holds without loss will do."""
    fits = value.dtype == buffer.dtype or (not exact and torch.promote_types(value.dtype, buffer.dtype) == buffer.dtype)
    if value.shape != buffer.shape or value.device != buffer.device or not fits:
        raise ValueError(
            f"{name}: this step was captured for {buffer.dtype} {list(buffer.shape)} on {buffer.device}, "
            f"got {value.dtype} {list(value.shape)} on {value.device}; capture another step for it"
        )


def _text_pairs(
    text: TextEmbeddings | torch.Tensor, buffer: TextEmbeddings | torch.Tensor, copies: int, batch: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each buffer of the text with what goes into it."""
    check_text(text)
    if isinstance(text, torch.Tensor) != isinstance(buffer, torch.Tensor):
        raise ValueError(
            f"text: this step was captured for a {type(buffer).__name__}, got a {type(text).__name__}; "
            f"capture another step for it"
        )
    if isinstance(text, torch.Tensor):
        assert isinstance(buffer, torch.Tensor)
        pairs = [("text", buffer, rows_for(text, copies, batch))]
    else:
        text = text.expand(batch)
        names = [field.name for field in dataclasses.fields(text)]
        pairs = []
        for name in names:
            old, new = getattr(buffer, name), getattr(text, name)
            if (old is None) != (new is None):
                raise ValueError(
                    f"text.{name}: this step was captured {'without' if old is None else 'with'} it, "
                    f"got {'None' if new is None else 'a tensor'}; capture another step for it"
                )
            if old is not None:
                pairs.append((f"text.{name}", old, new))
    for name, old, new in pairs:
        _check_same(name, new, old)
    return [(old, new) for _, old, new in pairs]
