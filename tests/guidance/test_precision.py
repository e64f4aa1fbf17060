"""`prior.optimise`: what is chosen is accurate enough and was the fastest measured; nothing of the host's changes."""

from __future__ import annotations

import copy
import itertools
import logging
from typing import Any

import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, packing, precision

from ..support.models import tiny_unet
from .steps import fixed, make, unet_to_trace

BOTH = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def a_processor_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests do not depend on the machine: bfloat16 is emulated where the processor does not have it."""
    monkeypatch.setattr(precision, "bfloat16_in_hardware", lambda: True)


def speeds(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """A clock by which only the candidate whose name holds `wanted` is fast."""
    original = precision._Bench._compare

    def compare(self: Any, run: Any, other: Any) -> tuple[float, float, float]:
        _, _, deviation = original(self, run, other)
        same_unet = other.unet is self.prior.unet
        network, dtype = ("decoder", other.decoder.dtype) if same_unet else ("unet", other.dtype)
        layout = " channels-last" if not same_unet and precision._is_channels_last(other.unet) else ""
        name = f"{network} {dtype}{layout}"
        return 1.0, 0.5 if name == wanted else 2.0, deviation

    monkeypatch.setattr(precision._Bench, "_compare", compare)


def unchanged(prior: LatentDiffusionPrior) -> bool:
    """Whether the host's UNet is as `tiny_unet` made it."""
    pairs = zip(prior.unet.parameters(), tiny_unet().parameters(), strict=True)
    return all(x.dtype == torch.float32 and x.is_contiguous() and torch.equal(x, fresh) for x, fresh in pairs)


@pytest.mark.parametrize(
    ("dtype", "channels_last", "fast"),
    [
        ("auto", "auto", "unet torch.float32 channels-last"),
        ("auto", "auto", "unet torch.bfloat16"),
        ("auto", "auto", "unet torch.bfloat16 channels-last"),
        ("auto", "auto", "decoder torch.bfloat16"),
        ("auto", "auto", "nothing"),
        (torch.float32, "auto", "unet torch.float32 channels-last"),
    ],
)
def test_the_fastest_is_taken(dtype: Any, channels_last: Any, fast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, fast)
    prior, latents, text = make()
    chosen = prior.optimise(latents, text, dtype=dtype, channels_last=channels_last, tolerance=0.9, runs=1)
    report = chosen.precision
    assert report is not None and report.decoder is not None and report.settings == prior.settings
    for part in (report.unet, report.decoder):
        layout = " channels-last" if part.channels_last else ""
        taken = f"{part.network} {part.dtype}{layout}"
        assert (taken == fast) == (part.seconds == 0.5) and (taken == fast or part.dtype == torch.float32)
    assert chosen.dtype == report.unet.dtype and chosen.decoder.dtype == report.decoder.dtype
    assert precision._is_channels_last(chosen.unet) == report.unet.channels_last
    if fast == "nothing":
        assert chosen.unet is prior.unet and chosen.decoder is prior.decoder and report.deviation == 0
    assert unchanged(prior) and prior.precision is None


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", BOTH)
def test_what_is_asked_for_is_what_runs(dtype: torch.dtype, channels_last: bool) -> None:
    prior, latents, text = make()
    chosen = prior.optimise(latents, text, dtype=dtype, channels_last=channels_last, tolerance=0.9, runs=1)
    assert chosen.precision is not None
    assert {p.dtype for p in chosen.unet.parameters()} == {dtype} and chosen.decoder.dtype == dtype
    assert precision._is_channels_last(chosen.unet) == channels_last
    assert chosen.vae is prior.vae and chosen.schedule is prior.schedule and unchanged(prior)
    # Both modes, against float32: within what was reported, at timesteps that were not measured too, give or take.
    allowed = max(1e-4, 3 * chosen.precision.deviation)
    expected, _ = prior.gradient(latents, text, **fixed(latents))
    leaf = latents.clone().requires_grad_()
    chosen(leaf, text, **fixed(latents)).loss.backward()
    for actual in (chosen.gradient(latents, text, **fixed(latents))[0], leaf.grad):
        assert actual is not None and (actual - expected).norm() < allowed * expected.norm()
    assert chosen.precision.deviation <= 0.9 and (dtype == torch.float32 or chosen.precision.deviation > 1e-4)


def test_the_tolerance_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast bfloat16 is: `auto` does not take it, and asking for it is refused with the number measured."""
    prior, latents, text = make()
    for fast in ("unet torch.bfloat16", "decoder torch.bfloat16"):
        with monkeypatch.context() as patch:
            speeds(patch, fast)
            report = prior.optimise(latents, text, tolerance=1e-4, runs=1).precision
        assert report is not None and report.decoder is not None
        assert {report.unet.dtype, report.decoder.dtype} == {torch.float32}
        assert sum(c.dtype == torch.bfloat16 and c.deviation > 1e-4 for c in report.tried) == 3
    with pytest.raises(UsageError, match=r"unet in torch.bfloat16 deviates from float32 by .* more than the 0.0001"):
        prior.optimise(latents, text, dtype=torch.bfloat16, tolerance=1e-4, runs=1)


def test_both_together_have_to_hold_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder goes back first, then the UNet; what was asked for is refused instead."""
    prior, latents, text = make()
    together = precision._Bench.together

    def pessimistic(self: Any, chosen: Any) -> Any:
        faster, deviation = together(self, chosen)
        return faster, 1.0 if deviation else 0.0

    monkeypatch.setattr(precision._Bench, "together", pessimistic)
    with pytest.raises(UsageError, match="the gradient deviates"):
        prior.optimise(latents, text, dtype=torch.bfloat16, tolerance=0.9, runs=1)
    monkeypatch.setattr(precision, "MARGIN", float("inf"))
    chosen = prior.optimise(latents, text, tolerance=0.9, runs=1)
    assert chosen.unet is prior.unet and chosen.decoder is prior.decoder
    assert chosen.precision is not None and "decoder: left in float32" in repr(chosen.precision)


def test_the_choice_is_logged_and_readable(caplog: pytest.LogCaptureFixture) -> None:
    prior, latents, text = make()
    with caplog.at_level(logging.INFO, "ldp_fast"):
        chosen = prior.optimise(latents, text, dtype=torch.bfloat16, tolerance=0.9, runs=1)
    report = repr(chosen.precision)
    assert report in caplog.text and report.count(" ms, deviation ") == len(chosen.precision.tried)
    assert "* unet bfloat16" in report and "0.9 allowed" in report
    caplog.clear()
    chosen.with_settings(guidance_scale=100.0)
    assert "measured with other settings" in caplog.text


def test_what_cannot_be_tried_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, latents, text = make(memory="save")
    report = prior.optimise(latents, text, runs=1).precision
    assert report is not None and report.decoder is None and "decoder: handed over" in repr(report)
    prior, latents, text = make(lambda_fm=0.0)
    prior.unet._keep_in_fp32_modules = ["conv_out"]
    report = prior.optimise(latents, text, runs=1).precision
    assert report is not None and report.decoder is None and "some of its modules in float32" in repr(report)
    monkeypatch.setattr(precision, "bfloat16_in_hardware", lambda: False)
    monkeypatch.setattr(packing, "available", lambda dtype: False)
    report = prior.optimise(latents, text, channels_last=False, runs=1).precision
    assert report is not None and "this processor does not have it" in repr(report)
    assert len(report.tried) == 1 and report.unet.seconds > 0


def test_the_layout_that_is_there_is_seen() -> None:
    prior, latents, text = make(lambda_fm=0.0)
    prior.unet.to(memory_format=torch.channels_last)
    chosen = prior.optimise(latents, text, dtype=torch.float32, channels_last=False, runs=1)
    assert not precision._is_channels_last(chosen.unet) and precision._is_channels_last(prior.unet)


@pytest.mark.skipif(not packing.available(torch.float32), reason="this torch cannot keep oneDNN's blocks")
def test_the_weights_of_what_is_taken_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it can be copied, compiled and optimised again, like any prior."""
    speeds(monkeypatch, "unet torch.float32 channels-last")
    prior, latents, text = make()
    prior.unet = unet_to_trace()
    chosen = prior.optimise(latents, text, tolerance=0.9, runs=1)
    assert chosen.precision is not None and "unet float32 channels-last packed" in repr(chosen.precision)
    expected, _ = prior.gradient(latents, text, **fixed(latents))
    again = chosen.optimise(latents, text, dtype=torch.float32, channels_last=False, runs=1)
    assert not precision._is_channels_last(again.unet) and packing.is_channels_last(chosen.unet)
    # What is packed already is what it is compared with, not a candidate of its own.
    here, *others = [c for c in again.precision.tried if c.network == "unet"]
    assert here.packed and here.channels_last and [c.channels_last for c in others] == [False]
    for other in (chosen, copy.deepcopy(chosen), chosen.compile(backend="eager"), again):
        actual, _ = other.gradient(latents, text, **fixed(latents))
        assert (actual - expected).norm() < 2e-3 * expected.norm()


def test_a_network_with_nothing_to_pack_is_not_called_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a copy of it, the same in everything, timed as another candidate."""
    prior, latents, text = make(lambda_fm=0.0)
    monkeypatch.setattr(packing, "_packable", lambda layer: False)
    for layouts, tried in ((False, 1), ("auto", 2)):
        chosen = prior.optimise(latents, text, dtype=torch.float32, channels_last=layouts, runs=1)
        assert chosen.precision is not None and "packed" not in repr(chosen.precision)
        assert len(chosen.precision.tried) == tried and chosen.precision.unet.seconds < float("inf")


def test_long_calls_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And short ones as often as was asked for."""
    prior, latents, text = make(lambda_fm=0.0)
    bench = precision._Bench(prior, latents, text, tolerance=0.9, runs=4)
    for enough, runs in ((float("inf"), 4), (0.0, 1)):
        calls: list[int] = []
        monkeypatch.setattr(precision, "ENOUGH", enough)
        bench._compare(lambda prior, t, calls=calls: calls.append(t) or torch.ones(1), prior)
        assert len(calls) == 1 + 2 * runs * len(bench.timesteps) and set(calls) == set(bench.timesteps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "half"}, "dtype: expected 'auto'"),
        ({"channels_last": "yes"}, "channels_last: expected 'auto', True or False"),
        ({"tolerance": float("nan")}, "a tolerance of 0 or more"),
        ({"runs": 0}, "1 run or more"),
    ],
)
def test_wrong_options_are_named(change: dict[str, Any], message: str) -> None:
    prior, latents, text = make(lambda_fm=0.0)
    with pytest.raises(UsageError, match=message):
        prior.optimise(latents, text, **change)
    with pytest.raises(ValueError, match="latents: expected"):
        prior.optimise(latents[:, :2], text)
    prior.unet.to(torch.bfloat16)
    with pytest.raises(UsageError, match="expected a UNet in float32"):
        prior.optimise(latents, text)


def test_deviations_that_are_not_finite_are_infinite() -> None:
    ones = torch.ones(3)
    assert precision._relative(ones, ones) == 0 and precision._relative(ones * 0, ones * 0) == 0
    for bad in (float("nan"), float("inf")):
        assert precision._relative(ones * bad, ones) == float("inf")
    assert precision._relative(ones, ones * 0) == float("inf")


def test_a_dtype_in_every_layout() -> None:
    unet = tiny_unet().requires_grad_(True)
    for dtype, layout in itertools.product(BOTH, (True, False)):
        made = precision._converted(unet, dtype, layout)
        assert {p.dtype for p in made.parameters()} == {dtype} and precision._is_channels_last(made) == layout
    assert all(p.requires_grad and p.dtype == torch.float32 for p in unet.parameters())
