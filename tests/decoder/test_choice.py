"""Which convolution the decoder takes on a CPU: by size and lanes, unless a setting says otherwise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ldp_fast.decoder import choice
from ldp_fast.decoder.pieces import CHANNELS_LAST, Conv
from ldp_fast.ops import _native
from ldp_fast.ops import frozen_conv as module

from ..support.tolerances import GRADIENT, OUTPUT, assert_close

needs_extension = pytest.mark.skipif(_native.extension() is None, reason="needs the compiled extension")
KINDS = ("same", "same_transposed", "upsample", "upsample_transposed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_more_channels_never_need_more_pixels(kind: str, lanes: int) -> None:
    fewest = [choice.fewest_pixels(kind, channels, lanes) for channels in (16, 32, 64, 128, 256, 512, 1024)]
    assert fewest == sorted(fewest, reverse=True) and fewest[-1] < math.inf


def convolution(upsample: bool) -> Conv:
    return Conv(nn.Conv2d(128, 128, 3, padding=1), torch.float32, upsample=upsample)


def image(side: int) -> torch.Tensor:
    return torch.randn(2, 128, side, side).contiguous(memory_format=CHANNELS_LAST)


@needs_extension
@pytest.mark.parametrize("kind", KINDS)
def test_few_pixels_are_torch_s_and_many_the_extension_s(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LDP_FAST_CONV")
    monkeypatch.setenv("LDP_FAST_BACKEND", "auto")
    conv, ran = convolution(kind.startswith("upsample")), []
    original = module.function
    monkeypatch.setattr(module, "function", lambda name: ran.append(name) or original(name))
    forward = not kind.endswith("transposed")
    enlarged = 2 if kind == "upsample_transposed" else 1
    for setting, side, native in (
        ("auto", 4, False),
        ("auto", 32, True),
        ("winograd", 4, True),
        ("torch", 32, False),
    ):
        monkeypatch.setenv("LDP_FAST_CONV", setting)
        ran.clear()
        x = image(side * enlarged)
        result = conv.forward(x, conv.bias(), None, (), None) if forward else conv.backward(x)
        assert bool(ran) is native, (setting, side)
        assert result.is_contiguous(memory_format=CHANNELS_LAST)


@needs_extension
@pytest.mark.parametrize("upsample", [False, True])
def test_both_ways_give_the_same(upsample: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", "auto")
    conv, x, grad = convolution(upsample), image(16), image(32 if upsample else 16)
    wide, results = Conv(conv.module, torch.float64, upsample=upsample), {}
    for setting in ("torch", "winograd"):
        monkeypatch.setenv("LDP_FAST_CONV", setting)
        results[setting] = (conv.forward(x, conv.bias(), None, (), None), conv.backward(grad))
    truth = (wide.forward(x.double(), wide.bias(), None, (), None), wide.backward(grad.double()))
    for i, factor in enumerate((OUTPUT, GRADIENT)):
        assert_close(results["winograd"][i], results["torch"][i], truth[i], factor=factor, what=f"result {i}")


def test_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_CONV", "direct")
    with pytest.raises(ValueError, match="LDP_FAST_CONV: expected one of auto, winograd, torch, got 'direct'"):
        choice.winograd_is_faster(torch.zeros(1, 16, 4, 4), torch.zeros(16, 16, 3, 3), "same")
