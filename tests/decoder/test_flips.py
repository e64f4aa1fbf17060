"""Two algorithms for the same convolutions, as in a graph and outside of it: what flipped signs allow."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.ops import _native

from .common import architecture
from .flips import assert_same_but_for_flips, flips
from .tf32 import TensorFloat32

ROUNDING = 1e-5


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    v, noise = (torch.randn(2, 4, 7, 5, generator=generator) for _ in range(2))
    return v, v + 0.5 * noise


def test_signs_that_can_flip_are_few_in_float32_and_more_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_CONV", "torch")
    vae = architecture("sd1")
    decoder, exact = FrozenDecoder(vae), FrozenDecoder(copy.deepcopy(vae).double())
    narrow = flips(decoder, exact, *pair())
    with TensorFloat32() as mode:
        wide = flips(decoder, exact, *pair())
    assert mode.seen and narrow.share < 1e-4 < wide.share < 0.03
    assert narrow.grad_v < wide.grad_v and narrow.grad_v_prime < wide.grad_v_prime


@pytest.mark.skipif(_native.extension() is None, reason="needs the compiled extension: a second algorithm")
@pytest.mark.parametrize("tf32", [False, True])
def test_two_algorithms_are_as_near_as_it_says(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TF32, its rounding on one side and not on the other: more than any two algorithms of cuDNN differ by."""
    vae = architecture("sd1")
    decoder, exact = FrozenDecoder(vae), FrozenDecoder(copy.deepcopy(vae).double())
    for seed in range(3):
        v, v_prime = pair(seed)
        monkeypatch.setenv("LDP_FAST_CONV", "winograd")
        _, *one = decoder.feature_matching(v, v_prime)
        monkeypatch.setenv("LDP_FAST_CONV", "torch")
        if tf32:
            with TensorFloat32():
                _, *other = decoder.feature_matching(v, v_prime)
                allowed = flips(decoder, exact, v, v_prime)
        else:
            _, *other = decoder.feature_matching(v, v_prime)
            allowed = flips(decoder, exact, v, v_prime)
        rounding = 3e-3 if tf32 else ROUNDING
        for x, y, added in zip(one, other, (allowed.grad_v, allowed.grad_v_prime), strict=True):
            assert_same_but_for_flips(x, y, added, rounding=rounding)
            # What is wrong by a hundredth in float32, or by a third in TF32, is seen.
            with pytest.raises(AssertionError, match="flips allow"):
                assert_same_but_for_flips(x * (1.35 if tf32 else 1.01), y, added, rounding=rounding)
