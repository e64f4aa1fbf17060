"""The frozen decoder against the VAE's own decoder with hooks, under autograd."""

from __future__ import annotations

import copy

import pytest
import torch

from ldp_fast.decoder import FrozenDecoder

from ..ops.common import weights_like
from ..support.models import CompVisAutoencoder, tiny_autoencoder, tiny_vae
from ..support.tolerances import GRADIENT, assert_close

LEVELS = ("mid", "up0", "up1", "up2", "up3")


def hooked_features(vae, latents: torch.Tensor, levels: tuple[str, ...]) -> list[torch.Tensor]:
    """The whole decoder, its blocks' outputs caught by hooks."""
    blocks = {f"up{i}": block for i, block in enumerate(vae.decoder.up_blocks)} | {"mid": vae.decoder.mid_block}
    found: dict[str, torch.Tensor] = {}
    hooks = [
        blocks[level].register_forward_hook(lambda _m, _i, out, level=level: found.__setitem__(level, out))
        for level in levels
    ]
    shift = vae.config.shift_factor or 0.0
    vae.decode(latents / vae.config.scaling_factor + shift)
    for hook in hooks:
        hook.remove()
    return [found[level] for level in levels]


@pytest.mark.parametrize("levels", [("up0", "up1", "up2"), ("mid",), LEVELS, ("up3",)])
@pytest.mark.parametrize("memory", ["save", "recompute", "auto"])
def test_features_and_gradient_equal_the_whole_decoder(levels: tuple[str, ...], memory: str) -> None:
    vae = tiny_vae(shift_factor=0.1)
    latents = torch.randn(2, 4, 6, 5)
    decoder, exact = FrozenDecoder(vae, levels, memory=memory), copy.deepcopy(vae).double()
    results = []
    for function, v in (
        (decoder.features, latents),
        (lambda x: hooked_features(vae, x, levels), latents),
        (lambda x: hooked_features(exact, x, levels), latents.double()),
    ):
        leaf = v.clone().requires_grad_()
        features = function(leaf)
        loss = sum((x * weights_like(x)).sum() for x in features)
        results.append((*features, *torch.autograd.grad(loss, leaf)))
    *triples, gradients = zip(*results, strict=True)
    for actual, eager, truth in triples:
        assert_close(actual, eager, truth)
    assert_close(*gradients, factor=GRADIENT)


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_feature_matching_gives_both_branches(norm: str, batch_reduction: str) -> None:
    vae = tiny_vae().double()
    v, v_prime = (torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    levels = ("up0", "up2")
    reduce = torch.Tensor.mean if norm == "mean" else torch.Tensor.sum
    pairs = zip(hooked_features(vae, v, levels), hooked_features(vae, v_prime, levels), strict=True)
    per_sample = sum(reduce((x - y).abs(), (1, 2, 3)) for x, y in pairs)
    expected = per_sample.mean() if batch_reduction == "mean" else per_sample.sum()
    grads = torch.autograd.grad(expected, (v, v_prime))
    decoder = FrozenDecoder(vae, levels)
    loss, grad_v, grad_v_prime, statistics = decoder.feature_matching(
        v, v_prime, norm=norm, batch_reduction=batch_reduction, return_statistics=True
    )
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(grad_v, grads[0])
    torch.testing.assert_close(grad_v_prime, grads[1])
    assert statistics.level_values.shape == (2, 2)
    without = decoder.feature_matching(v, v_prime, norm=norm, batch_reduction=batch_reduction, gradients=False)
    torch.testing.assert_close(without[0], loss)
    assert without[1] is None and without[2] is None and not loss.requires_grad


def test_nothing_past_the_deepest_level_is_computed() -> None:
    vae = tiny_vae()
    ran = []
    for index, block in enumerate(vae.decoder.up_blocks):
        block.register_forward_hook(lambda _m, _i, _o, index=index: ran.append(index))
    vae.decoder.conv_out.register_forward_hook(lambda _m, _i, _o: ran.append("out"))
    decoder = FrozenDecoder(vae, ("up0", "up1"))
    assert set(ran) == {0, 1}  # it is compared with the VAE's own decoder no further either
    ran.clear()
    decoder.features(torch.randn(1, 4, 4, 4))
    assert ran == [0, 1]


def test_parameters_get_no_gradient_and_stay_as_they_were() -> None:
    vae = tiny_vae().requires_grad_(True)
    latents = torch.randn(1, 4, 4, 4, requires_grad=True)
    sum(x.sum() for x in FrozenDecoder(vae).features(latents)).backward()
    assert latents.grad is not None
    assert all(p.requires_grad and p.grad is None for p in vae.parameters())


def test_compvis_decoder_is_the_same_decoder() -> None:
    vae = tiny_vae()
    latents = torch.randn(2, 4, 5, 5)
    expected = FrozenDecoder(vae, LEVELS).features(latents)
    actual = FrozenDecoder(CompVisAutoencoder(vae), LEVELS, scaling_factor=vae.config.scaling_factor).features(latents)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="scaling_factor"):
        FrozenDecoder(CompVisAutoencoder(vae))


def test_autoencoder_tiny_levels_compose_to_its_decoder() -> None:
    tiny = tiny_autoencoder()
    latents = torch.randn(1, 4, 4, 4, requires_grad=True)
    features = FrozenDecoder(tiny, ("up0", "up1", "up2")).features(latents)
    assert [list(x.shape) for x in features] == [[1, 8, 8, 8], [1, 8, 16, 16], [1, 8, 32, 32]]
    # What is left of the decoder after the last level gives its image.
    rest = tiny.decoder.layers[-2:]
    torch.testing.assert_close(rest(features[-1]) * 2 - 1, tiny.decode(latents).sample)
    (grad,) = torch.autograd.grad(features[-1].sum(), latents)
    assert torch.isfinite(grad).all() and grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_do_not_underflow(dtype: torch.dtype) -> None:
    """A level's cotangent ±1/M would vanish in float16 without scaling; against the float32 decoder."""
    vae = tiny_vae()
    v = torch.randn(1, 4, 16, 16)
    v_prime = v + 0.5 * torch.randn_like(v)
    _, *expected = FrozenDecoder(vae, ("up2",)).feature_matching(v, v_prime)
    _, *actual = FrozenDecoder(vae, ("up2",), dtype=dtype).feature_matching(v, v_prime)
    for x, y in zip(actual, expected, strict=True):
        assert x.dtype == torch.float32
        # Signs of nearly equal features flip in half precision, so the direction is what can be held.
        assert torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0) > 0.97


def test_force_upcast_runs_a_float16_vae_in_float32() -> None:
    vae = tiny_vae()
    vae.register_to_config(force_upcast=True)
    assert FrozenDecoder(vae.half()).dtype == torch.float32
    assert FrozenDecoder(vae, dtype=torch.float16).dtype == torch.float16
    vae.register_to_config(force_upcast=False)
    assert FrozenDecoder(vae).dtype == torch.float16


def test_autocast_around_it_changes_nothing() -> None:
    decoder = FrozenDecoder(tiny_vae())
    v, v_prime = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    expected = decoder.feature_matching(v, v_prime)
    with torch.autocast("cpu", torch.bfloat16):
        actual = decoder.feature_matching(v, v_prime)
    for x, y in zip(actual, expected, strict=True):
        assert torch.equal(x, y)


def test_errors_name_what_was_expected() -> None:
    vae = tiny_vae()
    with pytest.raises(ValueError, match="levels: expected some of mid, up0, up1, up2, up3, got up7"):
        FrozenDecoder(vae, ("up7",))
    with pytest.raises(ValueError, match="memory"):
        FrozenDecoder(vae, memory="none")
    with pytest.raises(TypeError, match="vae: expected a diffusers AutoencoderKL"):
        FrozenDecoder(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"latents: expected a floating-point tensor \[B, C, h, w\]"):
        FrozenDecoder(vae).features(torch.zeros(4, 4, 4))
    with pytest.raises(ValueError, match="latents_prime: expected the latents' shape"):
        FrozenDecoder(vae).feature_matching(torch.zeros(1, 4, 4, 4), torch.zeros(2, 4, 4, 4))
    assert "up1" in repr(FrozenDecoder(vae, ("up1",)))
