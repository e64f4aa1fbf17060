"""The captured step: its buffers and its body on any machine, the graph itself on a GPU."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ldp_fast.guidance import CapturedStep, LatentDiffusionPrior, TextEmbeddings, TimestepSampler
from ldp_fast.guidance import capture as capture_module

from .. import standin
from ..ops.common import NoSync
from ..support.models import TEXT_WIDTH, tiny_unet
from .steps import assert_near_graph, fixed, make


def same(a: Any, b: Any) -> bool:
    """Whether two results are bitwise equal: gradient, t and every statistic."""
    (g, s), (h, r) = a, b
    tensors = [(g, h), (s.timesteps, r.timesteps), (s.fm, r.fm), *((s.terms[k], r.terms[k]) for k in s.terms)]
    return all(torch.equal(x, y) for x, y in tensors)


class EmulatedGraph:
    """What a CUDA graph does, on the CPU: a replay runs the body again and writes into the tensors of the first run."""

    def __init__(self, body: Any, generator: torch.Generator | None):
        self.body, self.generator = body, generator
        self.result = body(generator)

    def replay(self) -> None:
        (gradient, old), (fresh, new) = self.result, self.body(self.generator)
        gradient.copy_(fresh)
        for name in ("timesteps", "alpha", "fm", "fm_levels", "fm_nonfinite"):
            getattr(old, name).copy_(getattr(new, name))
        for name, value in old.terms.items():
            value.copy_(new.terms[name])


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures are possible, and made of an `EmulatedGraph`."""

    def record(body: Any, device: torch.device, generator: torch.Generator | None, warmup: int) -> Any:
        graph = EmulatedGraph(body, generator)
        return graph, graph.result, ""

    monkeypatch.setattr(capture_module, "obstacle", lambda *_: "")
    monkeypatch.setattr(capture_module, "record", record)


def test_without_a_gpu_it_falls_back_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    prior, latents, text = make()
    with caplog.at_level(logging.WARNING, "ldp_fast"):
        step = prior.capture(latents, text, generator=torch.Generator().manual_seed(4))
    assert isinstance(step, CapturedStep) and not step.captured
    assert step.reason.startswith("no CUDA device") and step.reason in caplog.text and step.reason in repr(step)
    generator = torch.Generator().manual_seed(4)
    for progress in (0.0, 0.5):
        drawn = step(latents, progress=progress, clone=True)
        assert same(drawn, prior.gradient(latents, text, generator=generator, progress=progress))
    call = fixed(latents)
    other = TextEmbeddings(text.text * 2, text.uncond - 1)
    assert same(step(latents + 1, other, **call), prior.gradient(latents + 1, other, **call))
    assert same(step(latents, **call), prior.gradient(latents, other, **call))  # the text of the call before


def test_captures_on_a_device_share_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or object())
    capture_module._stream.cache_clear()
    try:
        streams = [capture_module._stream(device) for device in (0, 0, 1, 0)]
    finally:
        capture_module._stream.cache_clear()
    assert made == [0, 1] and streams[0] is streams[1] is streams[3] is not streams[2]


def test_obstacles_are_named() -> None:
    prior, latents, _ = make("cpu", nonfinite="raise")
    elsewhere: Any = latents.to("meta")
    assert "no CUDA device: the latents are on meta" in capture_module.obstacle(prior, elsewhere, None)


@pytest.mark.parametrize(("as_tensor", "noises"), [(False, 1), (True, 1), (False, 3), (True, 3)])
def test_static_buffers(emulated: None, as_tensor: bool, noises: int) -> None:
    """Given t and ε: whatever is written between two replays is what the next one sees."""
    prior, latents, text = make(noises=noises)
    forms: list[Any] = [text, TextEmbeddings(text.text + 1, text.uncond)]
    forms.append(TextEmbeddings(torch.randn(2, 5, TEXT_WIDTH), torch.randn(2, 5, TEXT_WIDTH)))  # a prompt a sample
    if as_tensor:
        forms = [torch.cat([x.uncond, x.text]) for x in forms]
    step = prior.capture(latents, forms[0])
    assert step.captured and step.reason == ""
    for index, form in enumerate(forms):
        v, call = latents + index, fixed(latents, index, noises)
        assert same(step(v, form, **call), prior.gradient(v, form, **call))
    assert same(step(latents, None, timesteps=300, noise=call["noise"]),
                prior.gradient(latents, forms[-1], timesteps=300, noise=call["noise"]))  # fmt: skip


def test_what_is_returned_is_overwritten_unless_cloned(emulated: None) -> None:
    prior, latents, text = make()
    step = prior.capture(latents, text)
    first, statistics = step(latents, **fixed(latents))
    kept = step(latents, **fixed(latents), clone=True)
    before = first.clone()
    second, _ = step(latents + 1, **fixed(latents, 1))
    assert second is first and not torch.equal(first, before)
    assert torch.equal(kept[0], before) and not torch.equal(statistics.fm, kept[1].fm)
    assert kept[1].read().keys() == statistics.read().keys()


def test_in_a_training_loop(emulated: None) -> None:
    """Between the renderer's forward and `latents.backward(gradient=g)`; several steps, as a host accumulates them."""
    prior, latents, text = make()
    step = prior.capture(latents, text)
    gradients = []
    for run in (step, lambda v, **call: prior.gradient(v, text, **call)):
        torch.manual_seed(0)
        renderer = torch.nn.Conv2d(4, 4, 1)
        for index in range(3):
            rendered = renderer(latents)
            g, _ = run(rendered, **fixed(latents, index))
            assert not g.requires_grad and not g.is_inference()
            rendered.backward(gradient=g)
        gradients.append(renderer.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_captured_in_inference_mode_and_used_outside(emulated: None) -> None:
    prior, latents, text = make()
    with torch.inference_mode():
        step = prior.capture(latents, text)
    leaf = latents.clone().requires_grad_()
    g, _ = step(leaf, **fixed(latents))
    leaf.backward(gradient=g)
    assert torch.equal(leaf.grad, prior.gradient(latents, text, **fixed(latents))[0])


def test_annealing_does_not_freeze(emulated: None) -> None:
    prior, latents, text = make(lambda_fm=0.0, timestep_range=(0.1, 0.9), anneal_to=0.2)
    step = prior.capture(latents, text, generator=torch.Generator().manual_seed(1))
    drawn = {p: torch.cat([step(latents, progress=p)[1].timesteps.clone() for _ in range(40)]) for p in (0.0, 1.0, 0.5)}
    assert 100 <= drawn[0.0].min() and 700 < drawn[0.0].max() <= 900 and len(drawn[0.0].unique()) > 40
    assert 100 <= drawn[1.0].min() and drawn[1.0].max() <= 200
    assert 100 <= drawn[0.5].min() and 400 < drawn[0.5].max() <= 550


def test_drawn_and_given_can_be_mixed(emulated: None) -> None:
    prior, latents, text = make(lambda_fm=0.0)
    step = prior.capture(latents, text)
    call = fixed(latents)
    given = step(latents, **call)[1].timesteps.clone()
    drawn = torch.stack([step(latents, noise=call["noise"])[1].timesteps.clone() for _ in range(4)])
    assert torch.equal(given, call["timesteps"]) and len(drawn.unique(dim=0)) == 4
    noises = [step(latents, timesteps=call["timesteps"], clone=True)[0] for _ in range(2)]
    assert not torch.equal(*noises)


def test_timesteps_from_a_bound_on_the_device() -> None:
    sampler = TimestepSampler(1000, 0.02, 0.98, 0.5)
    generator = torch.Generator().manual_seed(0)
    for progress in (0.0, 0.7, 1.0):
        low, high = sampler.bounds(progress)
        t = sampler.sample_up_to(torch.tensor(high), 200_000, generator)
        assert t.dtype == torch.int64 and t.min() == low and t.max() == high
        counts = torch.bincount(t - low).double()
        expected = len(t) / (high - low + 1)
        # χ² over its degrees of freedom: 1 ± √(2/n); a bound taken one too low or too high doubles or empties a bin.
        assert abs((counts - expected).square().sum() / expected / (high - low) - 1) < 0.3
    assert torch.equal(TimestepSampler(1000, 0.5, 0.5).sample_up_to(torch.tensor(500), 3), torch.full((3,), 500))


def test_the_last_timestep_is_a_bound_even_for_the_largest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda n, dtype, **_: torch.ones(n, dtype=dtype))
    assert TimestepSampler(1000, 0.02, 0.98).sample_up_to(torch.tensor(980), 2).tolist() == [980, 980]


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(3, 4, 8, 8)}, r"latents: .* captured for torch.float32 \[2, 4, 8, 8\] on cpu, got"),
        ({"latents": torch.zeros(2, 4, 8, 8).half()}, r"latents: .*got torch.float16"),
        ({"latents": torch.zeros(2, 4, 8, 8, device="meta")}, r"latents: .*on meta"),
        ({"noise": torch.zeros(1, 4, 8, 8)}, "noise: expected the latents' shape"),
        ({"noise": torch.zeros(2, 4, 8, 8).double()}, r"noise: .*got torch.float64"),
        ({"timesteps": torch.tensor([1, 2, 3])}, "timesteps: expected 1 or 2 integers"),
        ({"timesteps": 1000}, "timesteps: expected whole numbers from 0 to 999"),
        ({"text": torch.zeros(2, 5, TEXT_WIDTH)}, "text: .* a TextEmbeddings, got a Tensor"),
        ({"text": TextEmbeddings(*torch.zeros(2, 1, 6, TEXT_WIDTH))}, r"text.text: .*\[2, 5, 16\].*got .*\[2, 6, 16\]"),
        ({"text": TextEmbeddings(*torch.zeros(2, 3, 5, TEXT_WIDTH))}, "expected embeddings of 1 or 2 rows"),
        ({"text": TextEmbeddings(*torch.zeros(2, 1, 5, TEXT_WIDTH), torch.zeros(1, 3))}, "text.pooled: .* without it"),
    ],
)
def test_wrong_calls_are_refused_and_change_nothing(
    captured: bool, change: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    if captured:
        request.getfixturevalue("emulated")
    prior, latents, text = make(lambda_fm=0.0)
    step = prior.capture(latents, text)
    before = [x.clone() for x in (step._latents, step._noise, step._timesteps, step._given)]
    with pytest.raises(ValueError, match=message):
        step(**{"latents": latents + 1, **fixed(latents), **change})
    after = (step._latents, step._noise, step._timesteps, step._given)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_wrong_captures_are_refused() -> None:
    prior, latents, text = make()
    with pytest.raises(ValueError, match="empty batch"):
        prior.capture(latents[:0], text)
    with pytest.raises(ValueError, match=r"latents: expected .*\[B, 4, H, W\]"):
        prior.capture(latents[:, :3], text)
    with pytest.raises(ValueError, match="expected embeddings of 1 or 2 rows"):
        prior.capture(latents, TextEmbeddings(*torch.zeros(2, 3, 5, TEXT_WIDTH)))
    with pytest.raises(ValueError, match="warmup: expected at least 1"):
        prior.capture(latents, text, warmup=0)


def test_settings_are_those_of_the_capture() -> None:
    prior, latents, text = make()
    expected = prior.gradient(latents, text, **fixed(latents))
    step = prior.capture(latents, text)
    prior.settings = prior.with_settings(lambda_lsd=0.0, lambda_fm=0.0).settings
    assert same(step(latents, **fixed(latents)), expected)


@pytest.mark.parametrize("captured", [False, True])
def test_the_scheduler_is_that_of_the_capture(captured: bool, request: pytest.FixtureRequest) -> None:
    """Its tables were the prior's, made again for a scheduler that changed: a graph then read memory that was free."""
    if captured:
        request.getfixturevalue("emulated")
    prior, latents, text = make()
    call = fixed(latents)
    expected = prior.gradient(latents, text, **call)
    step = prior.capture(latents, text)
    prior.scheduler.alphas_cumprod = prior.scheduler.alphas_cumprod.clone() ** 2
    assert not same(prior.gradient(latents, text, **call), expected)
    prior.schedule.to(torch.device("meta"))
    assert same(step(latents, **call), expected)


def test_what_the_graph_reads_stays_in_memory(emulated: None) -> None:
    prior, latents, text = make()
    names = [prior.unet.conv_out, prior.vae.decoder.conv_in]
    step = prior.capture(latents, text)
    old = [StorageWeakRef(module.weight.untyped_storage()) for module in names]
    for module in names:
        module.weight.data = module.weight.data.clone()
    gc.collect()
    assert not any(storage.expired() for storage in old)
    del step
    gc.collect()
    assert all(storage.expired() for storage in old)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions(emulated: None, dtype: torch.dtype) -> None:
    prior, latents, text = make()
    latents = latents.to(dtype).to(memory_format=torch.channels_last)
    step = prior.capture(latents, text)
    call = {"timesteps": torch.tensor([100, 600]), "noise": torch.randn(latents.shape).to(step._noise.dtype)}
    assert step._noise.dtype == torch.promote_types(dtype, torch.float32)
    assert same(step(latents, **call), prior.gradient(latents, text, **call))


@pytest.mark.parametrize("generator", [False, True])
def test_neither_the_fallback_nor_the_body_synchronises(emulated: None, generator: bool) -> None:
    prior, latents, text = make()
    step = prior.capture(latents, text, generator=torch.Generator().manual_seed(0) if generator else None)
    views = TextEmbeddings(text.text.repeat(3, 1, 1), text.uncond.repeat(3, 1, 1))
    for graph in (step._graph, None):
        step._graph = graph
        with NoSync():
            step(latents, views.select(torch.tensor([2, 0])), progress=0.3, clone=True)
            step(latents, **fixed(latents))


class Synchronising(torch.nn.Module):
    """A network that looks at a value."""

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        self.unet, self.config = unet, unet.config

    def forward(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert float(sample.abs().max()) < 1e9
        return self.unet(sample, *args, **kwargs)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_gpu_graph_equals_eager_and_follows_what_changes() -> None:
    prior, latents, text = make("cuda", lambda_kl=0.2)
    step = prior.capture(latents, text)
    assert step.captured, step.reason
    for index in range(3):
        v, call = latents + index, fixed(latents, index)
        assert_near_graph(step(v, **call), prior.gradient(v, text, **call))
    other = TextEmbeddings(text.text * 2, text.uncond - 1)
    assert_near_graph(step(latents, other, **call), prior.gradient(latents, other, **call))
    with torch.no_grad():
        prior.unet.conv_out.weight.mul_(1.5)
    assert_near_graph(step(latents, **call), prior.gradient(latents, other, **call))


@pytest.mark.gpu
@pytest.mark.parametrize("own", [False, True])
def test_gpu_random_numbers_advance_with_every_replay(own: bool) -> None:
    prior, latents, text = make("cuda", lambda_fm=0.0, timestep_range=(0.1, 0.9), anneal_to=0.2)
    generator = torch.Generator("cuda") if own else None
    seed = generator.manual_seed if generator is not None else torch.manual_seed
    seed(3)
    state = torch.cuda.get_rng_state()
    step = prior.capture(latents, text, generator=generator)
    assert step.captured, step.reason
    assert own or torch.equal(state, torch.cuda.get_rng_state()), "capturing drew from the host's generator"
    runs = []
    for _ in range(2):
        seed(7)
        runs.append([step(latents, progress=p, clone=True) for p in (0.0, 0.0, 1.0)])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first[1].timesteps, second[1].timesteps)
    assert not torch.equal(runs[0][0][0], runs[0][1][0])
    late = torch.cat([step(latents, progress=1.0)[1].timesteps.clone() for _ in range(40)])
    early = torch.cat([step(latents, progress=0.0)[1].timesteps.clone() for _ in range(40)])
    assert 100 <= late.min() and late.max() <= 200 < 500 < early.max() <= 900


@pytest.mark.gpu
def test_gpu_replays_do_not_synchronise() -> None:
    prior, latents, text = make("cuda")
    step = prior.capture(latents, text)
    assert step.captured, step.reason
    call = fixed(latents)
    step(latents, text, **call)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(latents, text, progress=0.4)
        step(latents, timesteps=300, clone=True)
        step(latents, **call)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_gpu_a_network_that_synchronises_falls_back_and_spoils_nothing() -> None:
    good, latents, text = make("cuda")
    bad = LatentDiffusionPrior(Synchronising(tiny_unet().cuda()), good.vae, good.scheduler, settings=good.settings)
    stream = torch.cuda.current_stream()
    step = bad.capture(latents, text)
    assert not step.captured and "synchronises with the host" in step.reason
    assert standin.ACTIVE or "forward" in step.reason  # the stand-in raises in a function of its own
    assert_near_graph(step(latents, **fixed(latents)), good.gradient(latents, text, **fixed(latents)))
    assert torch.cuda.current_stream() == stream and torch.cuda.get_sync_debug_mode() == 0
    assert torch.isfinite(torch.randn(3, device="cuda")).all()
    assert good.capture(latents, text).captured


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_gpu_a_capture_that_breaks_off_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the run that looks for synchronisation has missed it: the capture itself fails."""
    monkeypatch.setattr(capture_module, "_synchronises", lambda run: "")
    good, latents, text = make("cuda")
    first = good.capture(latents, text)
    bad = LatentDiffusionPrior(Synchronising(tiny_unet().cuda()), good.vae, good.scheduler, settings=good.settings)
    stream, state = torch.cuda.current_stream(), torch.cuda.get_rng_state()
    step = bad.capture(latents, text)
    assert not step.captured and step.reason.startswith("the capture failed")
    assert torch.cuda.current_stream() == stream and torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.isfinite(torch.randn(3, device="cuda")).all()
    assert_near_graph(step(latents, **fixed(latents)), good.gradient(latents, text, **fixed(latents)))
    for again in (first, good.capture(latents, text)):
        assert again.captured
        assert_near_graph(again(latents, **fixed(latents)), good.gradient(latents, text, **fixed(latents)))
        assert torch.isfinite(again(latents)[0]).all()


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
def test_gpu_obstacles() -> None:
    prior, latents, text = make("cuda")
    raising = prior.with_settings(nonfinite="raise").capture(latents, text)
    assert not raising.captured and "nonfinite" in raising.reason
    on_the_host = prior.capture(latents, text, generator=torch.Generator().manual_seed(0))
    assert not on_the_host.captured and "the generator is on cpu" in on_the_host.reason
    expected = prior.gradient(latents, text, generator=torch.Generator().manual_seed(0))
    assert_near_graph(on_the_host(latents), expected)


@pytest.mark.gpu
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gpu_under_autocast(dtype: torch.dtype) -> None:
    """Autocast is captured as it is; its cache of converted weights must not keep tensors of the graph."""
    prior, latents, text = make("cuda")
    with torch.autocast("cuda", dtype=dtype):
        step = prior.capture(latents, text)
        expected = prior.gradient(latents, text, **fixed(latents))
    assert step.captured, step.reason
    for _ in range(2):
        g, _ = step(latents, **fixed(latents))
        assert (g - expected[0]).norm() < 2e-2 * expected[0].norm()
