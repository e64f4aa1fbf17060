"""Timesteps that are given: refused where looking is free, clamped and counted on a device; and progress."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, Schedule, TimestepSampler
from ldp_fast.guidance.inputs import as_timesteps, draw_noise

from ..integrations.adapters import ADAPTERS, Adapter
from ..ops.common import NoSync
from ..support.models import scheduler, tiny_unet, tiny_vae
from .steps import fixed, make

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (7, [7, 7]),
        (np.int32(7), [7, 7]),
        ([7], [7, 7]),
        ((7, 8), [7, 8]),
        (range(7, 9), [7, 8]),
        (np.array([7, 8]), [7, 8]),
        (np.array(7), [7, 7]),
        (torch.tensor(7), [7, 7]),
        (torch.tensor([[7], [8]]), [7, 8]),
        (torch.tensor([7, 8], dtype=torch.int8), [7, 8]),
        (torch.tensor([0, 999], dtype=torch.int16), [0, 999]),
        (torch.tensor([0, 999], dtype=torch.int32), [0, 999]),
    ],
)
def test_whole_numbers(given: Any, expected: list[int]) -> None:
    found = as_timesteps(given, 2, CPU, 1000)
    assert found.dtype == torch.int64 and found.tolist() == expected


OUTSIDE: list[Any] = [
    -1, 1000, [-1], [3, 1000], (5, -2), np.array([0, 1000]), torch.tensor([-1]), torch.tensor(1000),
    torch.tensor([5, -1], dtype=torch.int8), torch.tensor([5, 1000], dtype=torch.int32),
]  # fmt: skip
NO_NUMBERS: list[Any] = [
    500.7, 500.0, "5", b"5", range(3), True, np.float32(5), np.bool_(True), [1.5, 2.0], [True, False], ["5"],
    None, math.nan, {5},
    np.array([1.0, 2.0]), np.array([True, False]),
    torch.tensor([500.7]), torch.tensor([True, False]), torch.tensor([3, 4], dtype=torch.uint8),
    torch.tensor([3, 4], dtype=torch.uint16), torch.tensor(1j), [1, 2, 3], [], (), torch.tensor([1, 2, 3]),
]  # fmt: skip


@pytest.mark.parametrize("given", OUTSIDE + NO_NUMBERS, ids=repr)
def test_everything_else_is_refused(given: Any) -> None:
    """-1 was the last row, uint8 and bool were masks, 500.7 and "5" were rounded and read."""
    with pytest.raises(ValueError, match=r"^timesteps: expected .*, got "):
        as_timesteps(given, 2, CPU, 1000)


@pytest.mark.parametrize("given", [-1, [3, 1000], torch.tensor([-1]), torch.tensor([True, False]), 500.7], ids=repr)
def test_every_way_into_a_step_refuses(given: Any) -> None:
    prior, latents, text = make(lambda_fm=0.0)
    step = prior.capture(latents, text, warmup=1)
    for call in (prior, prior.gradient, step):
        with pytest.raises(ValueError, match=r"^timesteps: expected"):
            call(latents, text, timesteps=given)


def test_lists_and_tensors_give_the_same_step() -> None:
    prior, latents, text = make()
    call = fixed(latents)
    expected, _ = prior.gradient(latents, text, **call)
    for given in (call["timesteps"].tolist(), tuple(call["timesteps"].tolist()), call["timesteps"].to(torch.int16)):
        with NoSync():
            actual, statistics = prior.gradient(latents, text, timesteps=given, noise=call["noise"])
        assert torch.equal(actual, expected)
    assert statistics.outside is None and statistics.read()["clamped_t"] == 0


class Device(torch.Tensor):
    """A tensor whose values are on a device, as far as `Schedule` can tell: the CPU's, with the label taken off."""


def on_device(*values: int) -> torch.Tensor:
    return torch.tensor(values).as_subclass(Device)


def test_a_device_clamps_and_counts() -> None:
    schedule = Schedule.from_scheduler(scheduler())
    kept, outside = schedule.inside(on_device(-1, 0, 999, 1000, 2**40))
    assert kept.tolist() == [0, 0, 999, 999, 999] and outside is not None
    assert outside.tolist() == [True, False, False, True, True]
    alpha, sigma = schedule.gather(on_device(-1, 1000))
    expected = schedule.gather(torch.tensor([0, 999]))
    assert torch.equal(alpha.as_subclass(torch.Tensor), expected[0])
    assert torch.equal(sigma.as_subclass(torch.Tensor), expected[1])


def test_the_statistics_have_the_count() -> None:
    """From the prior's step on the device to `read`; what is clamped is what the network is told."""
    prior, latents, text = make(lambda_fm=0.0)
    noise = torch.randn(latents.shape)
    expected, _ = prior.gradient(latents, text, timesteps=torch.tensor([0, 999]), noise=noise)
    actual, statistics = prior.gradient(latents, text, timesteps=on_device(-7, 1000), noise=noise)
    torch.testing.assert_close(actual.as_subclass(torch.Tensor), expected)
    assert statistics.timesteps.tolist() == [0, 999] and statistics.read()["clamped_t"] == 2
    assert statistics.clone().read()["clamped_t"] == 2


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_a_host_s_network_is_told_what_is_clamped(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """α_t and σ_t were those of the clamped t, the network was told the other, and nobody counted."""
    found = []
    for drawn in (torch.tensor([0]), on_device(-7)):
        host, told = adapter.host(), []
        monkeypatch.setattr(torch, "randint", lambda *args, drawn=drawn, **options: drawn)
        host.unet.register_forward_pre_hook(lambda module, args, told=told: told.append(args[1]))
        torch.manual_seed(0)
        found.append(adapter.gradient(host).as_subclass(torch.Tensor))
        guidance = host.ldp
        statistics = guidance.statistics if hasattr(guidance, "statistics") else guidance.output.statistics
        assert {int(t) for x in told for t in x.reshape(-1)} == {0}
        assert statistics.timesteps.tolist() == [0] and statistics.read()["clamped_t"] == (drawn != 0)
    torch.testing.assert_close(*found)


@pytest.mark.gpu
def test_gpu_clamps_and_counts_without_waiting() -> None:
    prior, latents, text = make("cuda")
    noise = torch.randn_like(latents)
    right, wrong = torch.tensor([0, 999], device="cuda"), torch.tensor([-7, 1000], device="cuda")
    step = prior.capture(latents, text)
    for call in (prior.gradient, step):
        expected = call(latents, text, timesteps=right, noise=noise)[0].clone()
        torch.cuda.set_sync_debug_mode("error")
        try:
            actual, statistics = call(latents, text, timesteps=wrong, noise=noise)
            call(latents, text, timesteps=[3, 4], noise=noise)
            actual, statistics = call(latents, text, timesteps=wrong, noise=noise)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert (actual - expected).norm() < 1e-3 * expected.norm()
        assert statistics.timesteps.tolist() == [0, 999] and statistics.read()["clamped_t"] == 2


def beginning_at_zero(rows: int = 2) -> Any:
    """A schedule whose first rows have no noise."""
    made = scheduler("sample")
    made.alphas_cumprod = made.alphas_cumprod.clone()
    made.alphas_cumprod[:rows] = 1.0
    return made


def test_no_noise_is_nothing_that_a_sample_network_can_tell() -> None:
    """σ_t = 0 was 0/0, and the error was the decoder's."""
    settings = PriorSettings(lambda_fm=0.0, guidance_scale=3.0)
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), beginning_at_zero(), settings=settings)
    _, latents, text = make()
    for given in (0, [1, 5], torch.tensor([1, 5])):
        with pytest.raises(ValueError, match=r"timesteps: expected numbers from 2 to 999, got \[(0|1), "):
            prior.gradient(latents, text, timesteps=given)
    gradient, statistics = prior.gradient(latents, text, timesteps=on_device(1, 5))
    assert gradient.isfinite().all() and statistics.timesteps.tolist() == [2, 5]
    assert statistics.read()["clamped_t"] == 1
    with pytest.raises(
        UsageError, match=r"timestep_range: expected t from 2 on .* `sample`, because σ_t is 0 before; got 0"
    ):
        prior.with_settings(timestep_range=(0.0, 1.0))
    # The others divide by neither.
    other = prior.with_settings(prediction="epsilon", timestep_range=(0.0, 1.0))
    assert other.gradient(latents, text, timesteps=0)[0].isfinite().all()


def test_progress() -> None:
    sampler = TimestepSampler(1000, 0.02, 0.98, 0.5)
    for sure in (math.nan, float("nan"), np.float32("nan")):
        with pytest.raises(ValueError, match=r"progress: expected a number from 0 \(start\) to 1 \(end\), got nan"):
            sampler.bounds(sure)
    with pytest.raises(ValueError, match="progress"):
        sampler.sample(2, CPU, progress=math.nan)
    assert [sampler.bounds(p) for p in (-math.inf, -1, 0)] == [(20, 980)] * 3
    assert [sampler.bounds(p) for p in (1, 7.0, math.inf)] == [(20, 500)] * 3
    prior, latents, text = make(lambda_fm=0.0)
    step = prior.capture(latents, text, warmup=1)
    for call in (prior, prior.gradient, step):
        with pytest.raises(ValueError, match="progress: expected"):
            call(latents, text, progress=math.nan)


def test_a_default_device_is_no_matter() -> None:
    latents, held = torch.zeros(2, 4, 8, 8), scheduler()
    with META:
        schedule = Schedule.from_scheduler(held)
        alpha, _ = schedule.gather(torch.tensor([5, 6], device="cpu"))
        t = TimestepSampler(1000, 0.02, 0.98).sample(2, CPU, torch.Generator().manual_seed(0))
        u = TimestepSampler(1000, 0.02, 0.98).sample_up_to(torch.tensor(980, device="cpu"), 2)
        noise = draw_noise(latents, 1, torch.Generator().manual_seed(0))
        given = [as_timesteps(x, 2, CPU, 1000) for x in (5, [5, 6], torch.tensor([5, 6], device="cpu"))]
    assert {x.device for x in (alpha, t, u, noise, *given)} == {CPU}


def test_a_step_under_a_default_device() -> None:
    prior, latents, text = make(lambda_fm=0.0)
    expected, _ = prior.gradient(latents, text, **fixed(latents))
    with META:
        actual, statistics = prior.gradient(latents, text, **fixed_on_cpu(latents))
    assert torch.equal(actual, expected) and math.isfinite(statistics.read()["t"])


def fixed_on_cpu(latents: torch.Tensor) -> dict[str, torch.Tensor]:
    with CPU:
        return fixed(latents)
