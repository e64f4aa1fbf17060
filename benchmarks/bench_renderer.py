"""The renderer: field and whole step, against plain PyTorch and, where they are installed, tiny-cuda-nn with nerfacc.

    python -m pytest benchmarks/bench_renderer.py
    python -m pytest benchmarks/bench_renderer.py -k "not sweep"

`eager` is what one would write in PyTorch: a hash grid of gathers and autograd. `reference` is `ldp_fast.reference`,
`ours` the extension. A step is march, field, composite, backward and Adam. Peak memory (benchmarks/memory.py) is filed
in `extra_info`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.nerf import Cameras, FusedAdam, HashGrid, LatentField, LatentRenderer

from . import memory
from .timing import measure

SIDE, SAMPLES = 64, 64
PRIMES = (1, 2654435761, 805459861)


def eager_encoding(grid: HashGrid, x: Tensor) -> Tensor:
    """The hash grid as plain PyTorch with autograd: eight gathers a level."""
    out = []
    corners = torch.tensor([[c >> d & 1 for d in range(3)] for c in range(8)], device=x.device)
    primes = torch.tensor(PRIMES, device=x.device)
    for level, (resolution, scale) in enumerate(zip(grid.resolutions, grid.scales, strict=True)):
        size = grid.offsets[level + 1] - grid.offsets[level]
        at = x * scale + 0.5
        low = at.floor()
        t = (at - low)[:, None]
        vertex = low.long()[:, None] + corners  # [S, 8, 3]
        if grid.dense[level]:
            index = (vertex * torch.tensor([1, resolution, resolution**2], device=x.device)).sum(-1) % size
        else:
            hashed = vertex * primes
            index = (hashed[..., 0] ^ hashed[..., 1] ^ hashed[..., 2]) & (size - 1)
        weight = torch.where(corners.bool(), t, 1 - t).prod(-1)
        out.append((weight[..., None] * grid.table[grid.offsets[level] + index]).sum(1))
    return torch.cat(out, dim=-1)


def eager_field(field: LatentField, positions: Tensor) -> tuple[Tensor, Tensor]:
    h = eager_encoding(field.grid, (positions + field.bound) / (2 * field.bound))
    *inner, last = field.linear_layers()
    for matrix, bias in inner:
        h = F.relu(F.linear(h, matrix, bias))
    h = F.linear(h, *last)
    blob = field.blob.strength * (-positions.square().sum(-1) / (2 * field.blob.std**2)).exp()
    return (h[:, 0] + blob).exp(), h[:, 1:]


def make_field(device: str, log2_table_size: int = 19) -> LatentField:
    torch.manual_seed(0)
    return LatentField(HashGrid(log2_table_size=log2_table_size)).to(device)


def make_positions(device: str, side: int = SIDE, samples: int = SAMPLES) -> Tensor:
    """Samples along the rays of a camera that sees the whole box, ray after ray."""
    origins, directions = Cameras.orbit(30.0, 20.0, radius=3.0, fov=40.0).rays(side, side)
    t = torch.linspace(2.0, 4.0, samples)[:, None]
    return (origins[:, None] + t * directions[:, None]).reshape(-1, 3).clamp(-0.999, 0.999).to(device)


def field_pass(field: LatentField, positions: Tensor, function: Callable[..., Any]) -> None:
    for p in field.parameters():
        p.grad = None
    density, latents = function(positions)
    (density.mean() + latents.square().mean()).backward()


def prepare(backend: str, device: str, side: int = SIDE, log2_table_size: int = 19) -> Callable[[], None]:
    """One forward and backward of the field at side² rays × 64 samples. Backends: eager, reference, ours."""
    field, positions = make_field(device, log2_table_size), make_positions(device, side)
    function = (lambda x: eager_field(field, x)) if backend == "eager" else field
    return lambda: field_pass(field, positions, function)


def prepare_step(device: str, side: int = SIDE, steps_per_ray: int = SAMPLES) -> Callable[[], None]:
    """One whole step of the renderer."""
    field = make_field(device)
    renderer = LatentRenderer(field, steps_per_ray=steps_per_ray)
    optimiser = FusedAdam(field.parameter_groups(1e-3), eps=1e-15)
    cameras = Cameras.orbit(30.0, 20.0, radius=2.2, fov=60.0).to(device)
    seed = torch.zeros(1, dtype=torch.int64, device=device)

    def step() -> None:
        seed.add_(1)
        out = renderer(cameras, side, side, seed=seed)
        (out.latents.square().mean() + out.opacity.mean()).backward()
        optimiser.step()

    return step


def prepare_with_warm_up(backend: str, device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """The field's pass, and one on 8² rays."""
    return prepare(backend, device), prepare(backend, device, 8)


def peak_memory(backend: str, device: str) -> dict[str, Any]:
    """Peak memory of the field's pass beyond what its inputs and parameters take, or why there is none."""
    if reason := memory.missing(device):
        return {"memory_missing": reason}
    run = prepare(backend, device) if device == "cuda" else None
    if run is not None:
        run()
    environment = {"LDP_FAST_BACKEND": "auto" if backend == "ours" else "reference"}
    target = "benchmarks.bench_renderer:prepare_with_warm_up"
    return memory.measure(run, target, device, {"backend": backend, "device": device}, environment).as_extra()


@pytest.mark.parametrize("side", [16, 64], ids=["small", "full"])
@pytest.mark.parametrize("backend", ["eager", "reference", "ours"])
def test_field_forward_and_backward(
    benchmark: Any, device: str, backend: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64×64 rays × 64 samples (16×16 × 64 if small), L=16, F=2, T=2¹⁹, MLP 32→64→64→5, float32."""
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference" if backend == "reference" else "auto")
    benchmark.group = f"field, forward and backward, {side * side * SAMPLES} samples, {device}"
    benchmark.extra_info["backend"] = backend
    if side == SIDE and not benchmark.disabled:
        benchmark.extra_info |= peak_memory(backend, device)
    run, graph = prepare(backend, device, side), backend != "reference"
    measure(benchmark, run, device, rounds=3 if backend != "ours" else 10, warmup_rounds=1, graph=graph)


@pytest.mark.parametrize("backend", ["reference", "ours"])
def test_step(benchmark: Any, device: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole step at 64×64 rays, at most 64 samples each."""
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference" if backend == "reference" else "auto")
    benchmark.group = f"renderer step, 64×64 rays, {device}"
    benchmark.extra_info["backend"] = backend
    run = prepare_step(device)
    measure(benchmark, run, device, rounds=3 if backend != "ours" else 10, warmup_rounds=1, graph=False)


def test_step_captured(benchmark: Any, device: str) -> None:
    """The same step as one CUDA graph."""
    benchmark.group = f"renderer step, 64×64 rays, {device}"
    benchmark.extra_info["backend"] = "ours, captured"
    if device != "cuda":
        pytest.skip("CUDA graphs need a GPU")
    step = prepare_step(device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    measure(benchmark, graph.replay, device, graph=False)


def test_step_tcnn_nerfacc(benchmark: Any, device: str) -> None:
    """The same step as one would put it together from tiny-cuda-nn and nerfacc."""
    benchmark.group = f"renderer step, 64×64 rays, {device}"
    benchmark.extra_info["backend"] = "tiny-cuda-nn + nerfacc"
    absent = [name for name in ("tinycudann", "nerfacc") if importlib.util.find_spec(name) is None]
    if absent or device != "cuda":
        pytest.skip(f"needs a GPU, tiny-cuda-nn and nerfacc; missing here: {', '.join(absent) or 'a GPU'}")
    import nerfacc

    field = LatentField(HashGrid(), backend="tcnn").to(device)
    optimiser = torch.optim.Adam([field.network.params], lr=1e-3, eps=1e-15, fused=True)
    origins, directions = Cameras.orbit(30.0, 20.0, radius=2.2, fov=60.0).to(device).rays(SIDE, SIDE)
    estimator = nerfacc.OccGridEstimator([-1.0, -1, -1, 1, 1, 1], resolution=128).to(device)
    estimator.binaries.fill_(True)

    def step() -> None:
        ray, start, end = estimator.sampling(
            origins, directions, render_step_size=2 * math.sqrt(3) / SAMPLES, stratified=True
        )
        positions = origins[ray] + directions[ray] * ((start + end) / 2)[:, None]
        density, latents = field(positions)
        weights = nerfacc.render_weight_from_density(start, end, density, ray_indices=ray, n_rays=len(origins))[0]
        image = nerfacc.accumulate_along_rays(weights, latents, ray_indices=ray, n_rays=len(origins))
        opacity = nerfacc.accumulate_along_rays(weights, None, ray_indices=ray, n_rays=len(origins))
        (image.square().mean() + opacity.mean()).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    measure(benchmark, step, device, graph=False)  # its sampling waits for the host


@pytest.mark.parametrize("side", [32, 64, 128, 256, 512])
def test_sweep_rays(benchmark: Any, device: str, side: int) -> None:
    """Cost over the number of rays, at most 64 samples each."""
    benchmark.group = f"sweep: renderer step over rays, {device}"
    benchmark.extra_info |= {"backend": "ours", "rays": side * side}
    run = prepare_step(device, side)
    measure(benchmark, run, device, rounds=3 if side >= 256 else 6, warmup_rounds=1)


@pytest.mark.parametrize("samples", [16, 32, 64, 128, 256])
def test_sweep_samples(benchmark: Any, device: str, samples: int) -> None:
    """Cost over the samples of a ray, at 64×64 rays."""
    benchmark.group = f"sweep: renderer step over samples, {device}"
    benchmark.extra_info |= {"backend": "ours", "samples": samples}
    run = prepare_step(device, SIDE, samples)
    measure(benchmark, run, device, rounds=6, warmup_rounds=1)


@pytest.mark.parametrize("log2_table_size", range(14, 22))
def test_sweep_table(benchmark: Any, device: str, log2_table_size: int) -> None:
    """Cost over T, field forward and backward at 64×64 rays × 64 samples."""
    benchmark.group = f"sweep: field over T, {device}"
    benchmark.extra_info |= {"backend": "ours", "log2_table_size": log2_table_size}
    run = prepare("ours", device, SIDE, log2_table_size)
    measure(benchmark, run, device, rounds=6, warmup_rounds=1)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic(benchmark: Any, device: str, deterministic: bool) -> None:
    """What `torch.use_deterministic_algorithms(True)` costs; nothing on a CPU, which is deterministic anyway."""
    benchmark.group = f"field, forward and backward, deterministic or not, {device}"
    benchmark.extra_info |= {"backend": "ours", "deterministic": deterministic}
    run = prepare("ours", device)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        measure(benchmark, run, device, rounds=6, warmup_rounds=1)
    finally:
        torch.use_deterministic_algorithms(before)
