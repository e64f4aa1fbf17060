"""The whole guided step, from latents to their gradient: UNet with guidance, feature matching, KL, distillation; B = 1.

    python -m pytest benchmarks/bench_step.py
    python -m pytest benchmarks/bench_step.py -k "breakdown"

`naive` is what a reader of the paper would write with diffusers (benchmarks/baselines.py), the hosts' ways are in
benchmarks/host_steps.py, `ours` is `LatentDiffusionPrior.gradient`. All rows of a group compute the gradient of the
same sample, t and noise (the hosts with their own w and guidance, the captured step with its own t). float32 on a CPU,
bfloat16 on a GPU unless a row says otherwise. `breakdown` times ours by its parts.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import losses
from ldp_fast.decoder import FrozenDecoder
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, packing

from . import REHEARSING, host_steps, memory, models
from .baselines import HookedDecoder, Problem, Weights, compiled, naive_loss, naive_step
from .machine import bfloat16_missing, compile_missing
from .timing import check_gradients, measure

BACKENDS = (
    "naive",
    "naive, autocast bfloat16",
    "naive, torch.compile",
    "Latent-NeRF's way",
    "threestudio's way",
    "ours",
    "ours, bfloat16",
    "ours, optimise()",
    "ours, captured",
    "ours, compile()",
)
PARTS = ("whole", "UNet", "decoder", "losses")
# Model and side of the latents; the largest first, in case that time runs out. A rehearsal has a small one of it.
SIZES = {
    "SD 1.5 64x64": ("SD 1.5", 8 if REHEARSING else 64),
    "SD 1.5 32x32": ("SD 1.5", 32),
    "SD 1.5 16x16": ("SD 1.5", 16),
    "small": ("embedded", 16),
}
CASES = [(size, backend) for size in SIZES for backend in BACKENDS]
WARM_UP_SIDE = 8
# λ1 is a hundred times the paper's, for the check below: the decoder's part of the gradient is not to be a trifle.
WEIGHTS = Weights(fm=1.0)


class Missing(Exception):
    """Why a backend cannot be timed; found out only when it is made."""


def without(backend: str, size: str, device: str) -> str | None:
    """Why a backend is not timed at a size on a device, or None."""
    large = size != "small"
    if device == "cpu":
        if SIZES[size][1] > 32:
            return "a GPU's size: a naive step takes more than a minute on two cores"
        if backend == "ours, captured":
            return "CUDA graphs need a GPU"
        if "compile" in backend and large:
            return "compiling SD 1.5's UNet takes minutes on two cores: timed with the embedded model"
        if backend == "ours, optimise()" and SIZES[size][1] == 32:
            return "it tries every precision and layout, minutes at this size: timed at 16x16"
        if backend in host_steps.SETTINGS and SIZES[size][1] == 32:
            return "the same networks as naive: timed at 16x16"
    elif backend in ("ours, bfloat16", "ours, optimise()"):
        return "for a CPU: on a GPU all rows are bfloat16"
    elif "compile" in backend and SIZES[size][1] in (16, 32) and large:
        return "a compilation takes a minute: timed at 64x64"
    if "bfloat16" in backend and (reason := bfloat16_missing(device)):
        return reason
    return compile_missing(device) if "compile" in backend else None


def dtype_of(backend: str, device: str) -> torch.dtype:
    """The precision of the weights: float32 under autocast, half on a GPU else."""
    whole = device == "cpu" or "autocast" in backend or backend == "Latent-NeRF's way"
    return torch.float32 if whole else torch.bfloat16


def make_prior(loaded: models.Models, **settings: Any) -> LatentDiffusionPrior:
    """Ours, with the settings that the naive step has."""
    w = WEIGHTS
    chosen = PriorSettings(w.fm, w.kl, w.lsd, **{"guidance_scale": w.guidance, "levels": models.LEVELS} | settings)
    return LatentDiffusionPrior(loaded.unet, loaded.vae, loaded.scheduler, settings=chosen, notes=loaded.notes)


def in_bfloat16(loaded: models.Models, side: int) -> LatentDiffusionPrior:
    """Ours with both networks in bfloat16, as `optimise` makes them; the kept model stays in float32."""
    prior = make_prior(loaded)
    unet = copy.deepcopy(loaded.unet).to(torch.bfloat16, memory_format=torch.channels_last)
    both = Problem.sample(side, "cpu").latents.repeat(2, 1, 1, 1).to(torch.bfloat16)
    text = loaded.text.to(torch.bfloat16)
    with torch.no_grad():
        packing.pack(unet, True, lambda: unet(both, torch.tensor(420), encoder_hidden_states=text))
    decoder = FrozenDecoder(loaded.vae, models.LEVELS, dtype=torch.bfloat16)
    return LatentDiffusionPrior(unet, None, loaded.scheduler, settings=prior.settings, decoder=decoder)


def gradient_function(backend: str, loaded: models.Models, device: str, side: int) -> Callable[[Problem], Tensor]:
    """A step by one of the backends: v, ε and t to the gradient on v.

    Raises:
        Missing: the backend says that it cannot.
    """
    if backend.startswith("ours"):
        return _ours(backend, loaded, device, side)
    decoder = HookedDecoder(loaded.vae)
    if backend == "Latent-NeRF's way":
        return lambda problem: host_steps.latent_nerf_step(loaded, decoder, problem, WEIGHTS)
    if backend == "threestudio's way":
        return lambda problem: host_steps.threestudio_step(loaded, decoder, problem, WEIGHTS)
    loss = compiled(naive_loss) if "compile" in backend else naive_loss

    def step(problem: Problem) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled="autocast" in backend):
            return naive_step(loaded, decoder, problem, WEIGHTS, loss)

    return step


def _ours(backend: str, loaded: models.Models, device: str, side: int) -> Callable[[Problem], Tensor]:
    prior = in_bfloat16(loaded, side) if backend == "ours, bfloat16" else make_prior(loaded)
    if backend == "ours, compile()":
        prior = prior.compile()
    example = Problem.sample(side, device).latents
    if backend == "ours, optimise()":
        prior = prior.optimise(example, loaded.text)
    if backend == "ours, captured":
        captured = prior.capture(example, loaded.text)
        if captured.reason:
            raise Missing(captured.reason)
        # As a host runs it: t and ε are drawn inside.
        return lambda problem: captured(problem.latents)[0]

    def step(problem: Problem) -> Tensor:
        return prior.gradient(problem.latents, loaded.text, timesteps=problem.timestep, noise=problem.noise)[0]

    return step


def prepare(
    backend: str, model: str, side: int, device: str, warm_up_side: int = WARM_UP_SIDE
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A step at a size and one on a tiny size."""
    loaded = models.load(model, device, dtype_of(backend, device))
    step = gradient_function(backend, loaded, device, side)
    # Compiled and captured code is for one size.
    fixed = "compile" in backend or "captured" in backend
    problem, tiny = (Problem.sample(size, device) for size in (side, side if fixed else warm_up_side))
    return lambda: step(problem), lambda: step(tiny)


def check_decoders_part(gradient: Tensor, model: str, side: int, device: str) -> None:
    """Refuses a step whose gradient lacks what comes through the decoder, or has another in its place.

    Raises:
        AssertionError: it is not the naive step's.
    """
    loaded = models.load(model, device, dtype_of("naive", device))
    decoder, problem = HookedDecoder(loaded.vae), Problem.sample(side, device)
    whole = naive_step(loaded, decoder, problem, WEIGHTS)
    rest = naive_step(loaded, decoder, problem, dataclasses.replace(WEIGHTS, fm=0.0))
    check_gradients([gradient, gradient - rest], [whole, whole - rest])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_step(benchmark: Any, device: str, case: tuple[str, str]) -> None:
    """One gradient."""
    size, backend = case
    model, side = SIZES[size]
    benchmark.group = f"step, {model} {side}x{side}, {device}"
    benchmark.extra_info |= {"backend": backend, "model": model, "side": side, "device": device}
    if reason := without(backend, size, device):
        pytest.skip(reason)
    half = device == "cuda" or backend in ("naive, autocast bfloat16", "ours, bfloat16")
    benchmark.extra_info["dtype"] = "bfloat16" if half else "float32"
    try:
        run, warm_up = prepare(backend, model, side, device)
    except Missing as missing:
        pytest.skip(str(missing))
    warm_up()
    if "compile" in backend:
        check_decoders_part(run(), model, side, device)
    # On a CPU a process for each, of the two that are compared.
    wanted = device == "cuda" or (side == 32 and backend in ("naive", "ours"))
    if wanted and not benchmark.disabled:
        arguments = {"backend": backend, "model": model, "side": side, "device": device}
        # A graph's memory is there from its capture on, so its making is counted.
        given = None if "captured" in backend else run
        benchmark.extra_info |= memory.extra(given, "benchmarks.bench_step:prepare", device, arguments)
    # The warm-up above has loaded everything; a second one at 32x32 would cost a CPU half a minute.
    few = device == "cpu" and size != "small"
    rounds = 10 if not few else 2 if side >= 32 else 3
    warm_ups = 0 if few and side >= 32 else 1
    measure(benchmark, run, device, rounds=rounds, warmup_rounds=warm_ups, graph="captured" not in backend)


def part_function(part: str, loaded: models.Models, problem: Problem) -> Callable[[], Any]:
    """A part of ours by itself, on tensors like those of the step."""
    prior, v, noise = make_prior(loaded), problem.latents, problem.noise
    alpha, sigma = prior.schedule.to(v.device).gather(problem.timestep)
    dtype = prior.dtype
    if part == "whole":
        return lambda: prior.gradient(v, loaded.text, timesteps=problem.timestep, noise=noise)
    if part == "UNet":
        doubled = losses.perturb(v, noise, alpha, sigma, copies=2, dtype=dtype)
        times = problem.timestep.repeat(2)

        def unet() -> Any:
            with torch.no_grad():
                return prior.unet(doubled, times, encoder_hidden_states=loaded.text)

        return unet
    if part == "decoder":
        return lambda: prior.decoder.feature_matching(v, v + 0.5 * noise, return_statistics=True)
    output = torch.cat([noise, v]).to(dtype)
    weight = torch.ones_like(alpha)
    lambdas = {"lambda_fm": WEIGHTS.fm, "lambda_kl": WEIGHTS.kl, "lambda_lsd": WEIGHTS.lsd}

    def arithmetic() -> Any:
        losses.perturb(v, noise, alpha, sigma, copies=2, dtype=dtype)
        residual = losses.guided_residual(output, noise, guidance_scale=WEIGHTS.guidance)
        v_prime = losses.residual_latents(v, residual, alpha)
        return losses.combine_gradients(v, residual, noise, v_prime, alpha, weight, **lambdas)

    return arithmetic


# `-k decoder` is for bench_decoder.py, so these ids do not say it.
@pytest.mark.parametrize("part", PARTS, ids=["whole", "unet", "features", "losses"])
@pytest.mark.parametrize("size", SIZES)
def test_breakdown(benchmark: Any, device: str, size: str, part: str) -> None:
    """Where our step's time goes."""
    model, side = SIZES[size]
    benchmark.group = f"step by parts, {model} {side}x{side}, {device}"
    benchmark.extra_info |= {"backend": part, "model": model, "side": side, "device": device}
    if reason := without("ours", size, device):
        pytest.skip(reason)
    loaded = models.load(model, device, dtype_of("ours", device))
    run = part_function(part, loaded, Problem.sample(side, device))
    few = device == "cpu" and size != "small" and part != "losses"
    # The minimum is what counts: at 32x32 the first of two rounds is the warm-up.
    warm_up = 0 if few and side >= 32 else 1
    measure(benchmark, run, device, rounds=2 if few else 10, warmup_rounds=warm_up)
