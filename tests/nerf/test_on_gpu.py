"""The renderer on a CUDA device: parity with the CPU, one graph for the whole step, streams, devices, determinism."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.nerf import (
    Cameras,
    DirectionalBackground,
    FusedAdam,
    HashGrid,
    LatentField,
    LatentRenderer,
    OccupancyGrid,
    SampleOverflow,
    VoxelField,
)

pytestmark = pytest.mark.gpu


def make_renderer(field: str = "latent", **options: object) -> LatentRenderer:
    torch.manual_seed(0)
    inner: nn.Module
    if field == "latent":
        inner = LatentField(HashGrid(log2_table_size=15))
        nn.init.normal_(inner.grid.table, std=0.3)
    else:
        inner = VoxelField(40, density_shift=0.0)
        nn.init.normal_(inner.table, std=2.0)
    return LatentRenderer(inner, OccupancyGrid(resolution=64), DirectionalBackground(4), **options)  # type: ignore[arg-type]


def loss_of(renderer: nn.Module, cameras: Cameras, seed: Tensor) -> Tensor:
    out = renderer(cameras, 32, 32, seed=seed)
    return out.latents.square().mean() + out.opacity.mean() + out.distortion.mean()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double().cpu() - b.double().cpu()).norm() / b.double().norm().clamp(min=1e-30))


@pytest.mark.parametrize("field", ["latent", "voxel"])
def test_agrees_with_the_cpu(field: str) -> None:
    host = make_renderer(field, steps_per_ray=64)
    device = copy.deepcopy(host).cuda()
    cameras, seed = Cameras.orbit([0.0, 120.0], 25.0), torch.tensor([7])
    for renderer in (host, device):
        renderer.occupancy.update(renderer.field)
    assert relative(device.occupancy.average, host.occupancy.average) < 1e-5
    device.occupancy.load_state_dict(host.occupancy.state_dict())
    out, wanted = device(cameras.to("cuda"), 32, 32, seed=seed.cuda()), host(cameras, 32, 32, seed=seed)
    count = int(wanted.samples.counts[0])
    assert count > 1000
    assert torch.equal(out.samples.counts.cpu(), wanted.samples.counts)
    assert torch.equal(out.samples.positions[:count].cpu(), wanted.samples.positions)
    for name in ("latents", "opacity", "depth", "distortion", "emptiness"):
        assert relative(getattr(out, name), getattr(wanted, name)) < 1e-5, name
    ours = torch.autograd.grad(loss_of(device, cameras.to("cuda"), seed.cuda()), list(device.parameters()))
    theirs = torch.autograd.grad(loss_of(host, cameras, seed), list(host.parameters()))
    for a, b, (name, _) in zip(ours, theirs, host.named_parameters(), strict=True):
        assert b.any() and relative(a, b) < 1e-4, name


def test_half_precision_is_near_and_its_gradients_are_float32() -> None:
    renderer, cameras = make_renderer(steps_per_ray=64).cuda(), Cameras.orbit([0.0, 120.0]).to("cuda")
    seed = torch.tensor([7], device="cuda")
    full = renderer(cameras, 32, 32, seed=seed).latents
    with torch.autocast("cuda", torch.float16):
        half = renderer(cameras, 32, 32, seed=seed)
        loss = half.latents.float().square().mean()
    assert relative(half.latents, full.cpu()) < 1e-2
    gradients = torch.autograd.grad(loss, [renderer.field.grid.table, renderer.field.weights])
    assert all(g.dtype == torch.float32 and g.isfinite().all() and g.any() for g in gradients)


def test_one_graph_for_the_whole_step() -> None:
    def prepare() -> tuple[LatentRenderer, FusedAdam]:
        renderer = make_renderer(steps_per_ray=64).cuda()
        return renderer, FusedAdam(renderer.parameters(), lr=1e-2)

    cameras = Cameras.orbit([0.0, 120.0]).to("cuda")
    renderer, optimiser = prepare()
    seed = torch.zeros(1, dtype=torch.int64, device="cuda")

    def step(r: LatentRenderer, o: FusedAdam, s: Tensor) -> None:
        loss_of(r, cameras, s).backward()
        o.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(renderer, optimiser, seed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(renderer, optimiser, seed)
    for i in range(1, 4):
        seed.fill_(i)
        graph.replay()

    eager, other = prepare()
    for i in (0, 1, 2, 3):
        step(eager, other, torch.tensor([i], device="cuda"))
    for (name, a), (_, b) in zip(renderer.named_parameters(), eager.named_parameters(), strict=True):
        assert relative(a, b.cpu()) < 1e-3, name


def test_nothing_synchronises() -> None:
    renderer, cameras = make_renderer(steps_per_ray=64).cuda(), Cameras.orbit([0.0, 120.0]).to("cuda")
    optimiser = FusedAdam(renderer.parameters(), lr=1e-2)
    seed = torch.zeros(1, dtype=torch.int64, device="cuda")

    def step() -> None:
        renderer.occupancy.update(renderer.field)
        loss_of(renderer, cameras, seed).backward()
        optimiser.step()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_stream_other_than_the_default_is_used() -> None:
    renderer, cameras = make_renderer(steps_per_ray=64).cuda().eval(), Cameras.orbit(0.0).to("cuda")
    with torch.no_grad():
        bare = renderer(cameras, 16, 16).latents
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(10_000_000)
            renderer.field.weights.zero_()
            late = renderer(cameras, 16, 16).latents
        side.synchronize()
    assert not torch.equal(late, bare) and torch.equal(late, renderer(cameras, 16, 16).latents)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_the_second_device() -> None:
    first, cameras = make_renderer(steps_per_ray=32).eval(), Cameras.orbit(0.0)
    second = copy.deepcopy(first).to("cuda:1")
    assert torch.cuda.current_device() == 0
    out = second(cameras.to("cuda:1"), 16, 16).latents
    assert out.device.index == 1 and relative(out, first(cameras, 16, 16).latents) < 1e-5


def test_deterministic_ten_times() -> None:
    renderer, cameras = make_renderer(steps_per_ray=64).cuda(), Cameras.orbit([0.0, 120.0]).to("cuda")
    seed = torch.tensor([3], device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        found = [
            torch.autograd.grad(loss_of(renderer, cameras, seed), [renderer.field.grid.table, renderer.field.weights])
            for _ in range(10)
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_overflow_arrives_without_waiting() -> None:
    renderer, cameras = make_renderer(steps_per_ray=64, max_samples=100).cuda(), Cameras.orbit(0.0).to("cuda")
    renderer(cameras, 16, 16)
    torch.cuda.synchronize()
    with pytest.raises(SampleOverflow, match="max_samples: expected at least"):
        renderer(cameras, 16, 16)


def test_overflow_is_reported_though_the_host_runs_ahead() -> None:
    renderer, cameras = make_renderer(steps_per_ray=64, max_samples=10**6).cuda(), Cameras.orbit(0.0).to("cuda")
    renderer(cameras, 16, 16)  # kernels are loaded: the host is then faster than the sleep
    torch.cuda.synchronize()
    renderer.max_samples = 100
    torch.cuda._sleep(200_000_000)
    renderer(cameras, 16, 16)
    renderer.max_samples = 10**6
    renderer(cameras, 16, 16)  # the first report has not arrived yet
    torch.cuda.synchronize()
    with pytest.raises(SampleOverflow, match="got 100"):
        renderer(cameras, 16, 16)


def test_a_graph_can_be_captured_with_a_limit() -> None:
    renderer, cameras = make_renderer(steps_per_ray=64, max_samples=10**6).cuda(), Cameras.orbit(0.0).to("cuda")
    seed = torch.zeros(1, dtype=torch.int64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        renderer(cameras, 16, 16, seed=seed)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = renderer(cameras, 16, 16, seed=seed)
    graph.replay()
    out.statistics.check()
    assert torch.equal(out.latents, renderer(cameras, 16, 16, seed=seed).latents)
