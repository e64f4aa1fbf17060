"""feature_matching: loss and both gradients against features, the loss and autograd, each on its own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.decoder.matching import LevelMatching
from ldp_fast.losses import feature_matching_loss

from ..ops.common import NoSync, bitwise_equal
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import all_levels, architecture, latent_channels, own_features, scaling

NAN, INF = float("nan"), float("inf")


def naively(vae: Any, levels: tuple[str, ...], v: Tensor, v_prime: Tensor, **options: Any) -> tuple[Any, ...]:
    """The VAE's own features of both branches, the loss over them, and autograd."""
    leaves = [x.detach().clone().requires_grad_() for x in (v, v_prime)]
    lists = [own_features(vae, leaf, levels) for leaf in leaves]
    loss, statistics = feature_matching_loss(*lists, **options, return_statistics=True)
    return (loss.detach(), *torch.autograd.grad(loss, leaves), statistics)


def pair(vae: Any, *size: int, batch: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    v, noise = (torch.randn(batch, latent_channels(vae), *size, dtype=dtype) for _ in range(2))
    return v, v + 0.5 * noise


def assert_same(actual: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    """Loss, gradients and statistics, NaN where the other has it."""
    for x, y in zip((*actual[:3], *actual[3]), (*expected[:3], *expected[3]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["sd1", "sd3", "mixed", "no attention", "compvis 2", "tiny"])
def test_equals_features_loss_and_autograd(name: str, batch: int, memory: Any) -> None:
    vae = architecture(name).double()
    v, v_prime = pair(vae, 3, 4, batch=batch)
    decoder = FrozenDecoder(vae, all_levels(vae), memory=memory, **scaling(vae))
    actual = decoder.feature_matching(v, v_prime, return_statistics=True)
    assert_same(actual, naively(vae, all_levels(vae), v, v_prime))


@pytest.mark.parametrize("levels", [("mid",), ("up3",), ("up0", "up2")], ids="+".join)
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("nonfinite", ["propagate", "zero", "raise"])
def test_every_option(norm: str, batch_reduction: str, nonfinite: str, levels: tuple[str, ...]) -> None:
    vae = architecture("no multiple of 16").double()
    v, v_prime = pair(vae, 2, 3, batch=3)
    options = {"norm": norm, "batch_reduction": batch_reduction, "nonfinite": nonfinite}
    actual = FrozenDecoder(vae, levels).feature_matching(v, v_prime, **options, return_statistics=True)
    assert_same(actual, naively(vae, levels, v, v_prime, **options))


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("name", ["sd1", "mixed", "flux", "compvis"])
def test_float32_by_the_rule(name: str, norm: Any) -> None:
    vae = architecture(name)
    levels = all_levels(vae)[1:]
    v, v_prime = pair(vae, 4, 5, dtype=torch.float32)
    ours = FrozenDecoder(vae, levels, **scaling(vae)).feature_matching(v, v_prime, norm=norm)
    eager = naively(vae, levels, v, v_prime, norm=norm)
    truth = naively(vae.double(), levels, v.double(), v_prime.double(), norm=norm)
    for x, y, z, factor in zip(ours, eager, truth, (OUTPUT, GRADIENT, GRADIENT), strict=False):
        assert x.dtype == torch.float32
        assert_close(x, y, z, factor=factor, what=name)


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("nonfinite", ["propagate", "zero"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_sample_that_is_not_finite(value: float, nonfinite: Any, memory: Any) -> None:
    """It shows in its own gradients and in its own counts, and in the loss unless it is zeroed."""
    vae = architecture("mixed").double()
    levels = all_levels(vae)
    v, v_prime = pair(vae, 2, 3, batch=3)
    v[1, 0, 1, 2] = value
    decoder = FrozenDecoder(vae, levels, memory=memory)
    actual = decoder.feature_matching(v, v_prime, nonfinite=nonfinite, return_statistics=True)
    assert_same(actual, naively(vae, levels, v, v_prime, nonfinite=nonfinite))
    loss, grad_v, _, statistics = actual
    assert bool(loss.isfinite()) is (nonfinite == "zero")
    assert grad_v[1].isnan().any() and grad_v[::2].isfinite().all()
    assert (statistics.nonfinite[:, 1] > 0).all() and not statistics.nonfinite[:, ::2].any()


def test_raising_names_the_levels_that_are_not_finite() -> None:
    vae = architecture("sd1")
    vae.decoder.up_blocks[1].resnets[0].conv1.weight[0] = INF
    v, v_prime = pair(vae, 2, 3, dtype=torch.float32)
    words = r"^FrozenDecoder.feature_matching: expected finite .*: \d+ in up1, \d+ in up2$"
    with pytest.raises(FloatingPointError, match=words):
        FrozenDecoder(vae, ("up0", "up1", "up2")).feature_matching(v, v_prime, nonfinite="raise")
    FrozenDecoder(vae, ("mid", "up0")).feature_matching(v, v_prime, nonfinite="raise")


def test_equal_branches_give_nothing() -> None:
    vae = architecture("sd1")
    v, _ = pair(vae, 4, 3, dtype=torch.float32)
    loss, *grads = FrozenDecoder(vae).feature_matching(v, v.clone())
    assert loss == 0 and not any(grad.any() for grad in grads)


def test_each_branch_is_on_its_own_and_exchanges_with_the_other() -> None:
    vae = architecture("sd1")
    v, v_prime = pair(vae, 4, 3, dtype=torch.float32)
    decoder = FrozenDecoder(vae)
    loss, grad, grad_prime = decoder.feature_matching(v, v_prime)
    other = decoder.feature_matching(v_prime, v)
    assert bitwise_equal(loss, other[0])
    assert bitwise_equal(grad, other[2]) and bitwise_equal(grad_prime, other[1])
    # One sample at a time is the same as all of them, except for the mean over the batch.
    for b in range(2):
        alone = decoder.feature_matching(v[b : b + 1], v_prime[b : b + 1])
        torch.testing.assert_close(alone[1][0] / 2, grad[b], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["sd1", "tiny"])
@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_the_mode_around_it_changes_no_bit(name: str, memory: Any) -> None:
    vae = architecture(name)
    v, v_prime = pair(vae, 4, 4, dtype=torch.float32)
    decoder = FrozenDecoder(vae, ("up0", "up1"), memory=memory)
    expected = decoder.feature_matching(v, v_prime)
    with torch.inference_mode():
        made_inside = v.clone()
        results = [decoder.feature_matching(v, v_prime), decoder.feature_matching(made_inside, v_prime)]
    results.append(decoder.feature_matching(made_inside, v_prime))
    with torch.no_grad():
        results.append(decoder.feature_matching(v, v_prime))
    with torch.autocast("cpu", torch.bfloat16):
        results.append(decoder.feature_matching(v, v_prime))
    leaf = v.clone().requires_grad_()
    results.append(decoder.feature_matching(leaf, v_prime))
    for result in results:
        assert not any(x.requires_grad for x in result)
        assert all(bitwise_equal(x, y) for x, y in zip(result, expected, strict=True))
    assert leaf.grad is None


def test_both_memory_modes_give_the_same_bits() -> None:
    vae = architecture("compvis 2")
    v, v_prime = pair(vae, 4, 4, dtype=torch.float32)
    levels = all_levels(vae)
    runs = [
        FrozenDecoder(vae, levels, memory=memory, **scaling(vae)).feature_matching(v, v_prime)
        for memory in ("save", "recompute")
    ]
    assert all(bitwise_equal(x, y) for x, y in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_latents_of_any_precision(dtype: torch.dtype) -> None:
    """The gradients are float32, and the decoder's precision is its own."""
    vae = architecture("sd1")
    v, v_prime = pair(vae, 4, 4, dtype=dtype)
    decoder = FrozenDecoder(vae)
    result, wide = decoder.feature_matching(v, v_prime), decoder.feature_matching(v.float(), v_prime.float())
    assert all(x.dtype == torch.float32 and bitwise_equal(x, y) for x, y in zip(result, wide, strict=True))


@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
@pytest.mark.parametrize("norm", ["mean", "sum"])
def test_float16_gradients_neither_vanish_nor_overflow(norm: Any, batch_reduction: Any) -> None:
    """In a decoder that amplifies them a hundred thousand times, whatever the loss's own scale is."""
    vae = architecture("sd1")
    vae.decoder.conv_in.weight.mul_(3e3)
    for index in (0, 1):
        vae.decoder.up_blocks[index].resnets[0].conv2.weight.mul_(30.0)
    v, v_prime = pair(vae, 6, 6, dtype=torch.float32)
    options = {"norm": norm, "batch_reduction": batch_reduction}
    _, *wide = FrozenDecoder(vae).feature_matching(v, v_prime, **options)
    _, *half = FrozenDecoder(vae, dtype=torch.float16).feature_matching(v, v_prime, **options)
    for x, y in zip(half, wide, strict=True):
        assert x.isfinite().all()
        # Signs of nearly equal features flip in half precision, so the direction is what can be held.
        assert torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis 2", "tiny"])
@pytest.mark.parametrize("memory", ["save", "recompute", "auto"])
def test_nothing_waits_for_the_device(name: str, memory: Any) -> None:
    vae = architecture(name)
    v, v_prime = pair(vae, 4, 4, dtype=torch.float32)
    decoder = FrozenDecoder(vae, ("up0", "up1"), memory=memory, **scaling(vae))
    with NoSync():
        for nonfinite in ("propagate", "zero"):
            decoder.feature_matching(v, v_prime, nonfinite=nonfinite, return_statistics=True)
        leaf = v.clone().requires_grad_()
        sum(x.sum() for x in decoder.features(leaf)).backward()


def test_errors_say_what_was_expected() -> None:
    decoder = FrozenDecoder(architecture("sd1"))
    v = torch.zeros(1, 4, 2, 2)
    for bad, words in (
        ((v[0], v[0]), r"feature_matching: latents: expected a floating-point tensor \[B, C, h, w\], got"),
        ((v.int(), v.int()), "feature_matching: latents: expected a floating-point tensor"),
        ((v, v[:, :3]), "latents_prime: expected the latents' shape"),
        ((v[:, :3], v[:, :3]), "latents: expected the decoder's 4 channels, got shape"),
    ):
        with pytest.raises(ValueError, match=words):
            decoder.feature_matching(*bad)
    for name in ("norm", "batch_reduction", "nonfinite"):
        with pytest.raises(ValueError, match=f"FrozenDecoder.feature_matching: {name}: expected"):
            decoder.feature_matching(v, v, **{name: "median"})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_its_error_is_in_the_signs_of_what_is_nearly_equal(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sign among 10⁵ that rounding turns moves the gradient by some 1e-4; with the same signs it is float32's.

    The truth is the float64 decoder's gradient of Σ s (x − x′) / M with the signs s of the very features that were
    compared: a convolution of one sample may round otherwise than one of both.
    """
    vae, levels = architecture(name), ("up0", "up1", "up2")
    exact = copy.deepcopy(vae).double()
    torch.manual_seed(seed)
    v = torch.randn(1, latent_channels(vae), 8, 8)
    v_prime = v + 0.3 * torch.randn_like(v)
    signs: list[Tensor] = []

    def watched(self: LevelMatching, index: int, features: Tensor) -> None:
        x, y = features.chunk(2)
        signs.append((x - y).sign())
        add(self, index, features)

    add = LevelMatching.add
    monkeypatch.setattr(LevelMatching, "add", watched)
    _, *ours = FrozenDecoder(vae, levels).feature_matching(v, v_prime)
    assert len(signs) == len(levels)

    def gradients(vae: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [x.to(dtype).requires_grad_() for x in (v, v_prime)]
        pairs = zip(*(own_features(vae, x, levels) for x in leaves), signs, strict=True)
        loss = torch.stack([(s.to(dtype) * (x - y)).mean() for x, y, s in pairs]).sum()
        return torch.autograd.grad(loss, leaves)

    for x, eager, truth in zip(ours, gradients(vae, torch.float32), gradients(exact, torch.float64), strict=True):
        assert_close(x, eager, truth, factor=GRADIENT)
