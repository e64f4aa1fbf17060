"""Features and gradients equal the VAE's own decoder under autograd, whatever the architecture, size and dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from ldp_fast.decoder import FrozenDecoder

from ..packaging.installation import ROOT
from .common import (
    ARCHITECTURES,
    BY_HAND,
    all_levels,
    architecture,
    check_features,
    kl,
    latent_channels,
    own_features,
    scaling,
)

# Of one pixel more samples: the rule compares statistics, for which eight numbers are too few.
SIZES = {(1, 1): 16, (3, 5): 1, (7, 4): 3}


def latents_for(vae: Any, height: int, width: int) -> torch.Tensor:
    return torch.randn(SIZES[height, width], latent_channels(vae), height, width)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_float32(name: str, size: tuple[int, int]) -> None:
    vae = architecture(name)
    check_features(vae, FrozenDecoder(vae, all_levels(vae), **scaling(vae)), latents_for(vae, *size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    vae = architecture(name).to(dtype)
    decoder = FrozenDecoder(vae, all_levels(vae), dtype=dtype, **scaling(vae))
    check_features(vae, decoder, latents_for(vae, 3, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis"])
def test_one_pixel_in_half_precision(name: str, dtype: torch.dtype) -> None:
    vae = architecture(name).to(dtype)
    decoder = FrozenDecoder(vae, all_levels(vae), dtype=dtype, **scaling(vae))
    check_features(vae, decoder, latents_for(vae, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_embedded_model(dtype: torch.dtype) -> None:
    vae = AutoencoderKL.from_pretrained(ROOT / "ldp_fast" / "zoo" / "primitives" / "vae", torch_dtype=dtype)
    vae.eval().requires_grad_(False)
    decoder = FrozenDecoder(vae, all_levels(vae))
    assert decoder.dtype == dtype and not decoder.fallbacks
    check_features(vae, decoder, torch.randn(2, 4, 5, 6))


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("levels", [("mid",), ("up3",), ("mid", "up2"), ("up1", "up3")], ids="+".join)
@pytest.mark.parametrize("name", ["sd1", "compvis 2"])
def test_any_subset_of_levels(name: str, levels: tuple[str, ...], memory: Any) -> None:
    vae = architecture(name)
    decoder = FrozenDecoder(vae, levels, memory=memory, **scaling(vae))
    check_features(vae, decoder, torch.randn(2, 4, 3, 2))


def test_levels_come_from_the_shallowest_to_the_deepest() -> None:
    vae = architecture("sd1")
    decoder = FrozenDecoder(vae, ("up2", "mid", "up0"))
    assert decoder.levels == ("mid", "up0", "up2")
    assert [x.shape[-1] for x in decoder.features(torch.randn(1, 4, 2, 2))] == [2, 4, 16]


@pytest.mark.parametrize("name", BY_HAND)
def test_every_block_of_these_is_done_by_hand(name: str) -> None:
    vae = architecture(name)
    decoder = FrozenDecoder(vae, all_levels(vae), **scaling(vae))
    assert decoder.fallbacks == {}
    assert "by hand" in repr(decoder) and "autograd" not in repr(decoder)


def test_autoencoder_tiny_is_run_by_autograd_and_says_so() -> None:
    decoder = FrozenDecoder(architecture("tiny"), ("up0", "up1", "up2"))
    assert set(decoder.fallbacks) == {"in.0", "up0.0", "up1.0", "up2.0"}
    assert decoder.fallbacks["up1.0"] == "unknown block Sequential"
    assert "blocks=0 by hand, 4 by autograd (in.0: unknown block _TinyEntry" in repr(decoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_latents_of_any_precision_get_a_gradient_of_theirs(dtype: torch.dtype) -> None:
    decoder = FrozenDecoder(architecture("mixed"), ("up1",))
    latents = torch.randn(1, 3, 3, 4).to(dtype).requires_grad_()
    (feature,) = decoder.features(latents)
    (grad,) = torch.autograd.grad(feature.sum(), latents)
    assert feature.dtype == torch.float32 and grad.dtype == dtype and grad.isfinite().all()


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "expanded"])
def test_latents_of_any_layout(layout: str) -> None:
    decoder = FrozenDecoder(architecture("sd1"), ("mid", "up1"))
    latents = torch.randn(1, 4, 5, 6).expand(2, 4, 5, 6).contiguous()
    other = {
        "channels_last": latents.contiguous(memory_format=torch.channels_last),
        "sliced": torch.nn.functional.pad(latents, (1, 2, 2, 1))[..., 2:-1, 1:-2],
        "expanded": latents[:1].expand(2, 4, 5, 6),
    }[layout]
    for x, y in zip(decoder.features(other), decoder.features(latents), strict=True):
        assert torch.equal(x, y)


def overflowing() -> AutoencoderKL:
    """SDXL's trouble: within float32, up0's features are a hundred times float16's largest number."""
    vae = kl((16, 32, 32, 32), latent_channels=4, scaling_factor=0.13025, force_upcast=True)
    last = vae.decoder.up_blocks[0].upsamplers[0].conv
    last.weight.mul_(5e4)
    return vae.half()


def test_a_vae_that_overflows_in_float16_is_run_in_float32() -> None:
    vae, levels = overflowing(), ("mid", "up0", "up1")
    latents = torch.randn(2, 4, 3, 5)
    own = own_features(vae, latents.half(), levels)
    assert [bool(x.isfinite().all()) for x in own] == [True, False, False]
    decoder = FrozenDecoder(vae, levels)
    assert decoder.dtype == torch.float32 and next(vae.parameters()).dtype == torch.float16
    check_features(vae.float(), decoder, latents)
    *_, statistics = decoder.feature_matching(latents, latents + 1.0, return_statistics=True)
    assert int(statistics.nonfinite.sum()) == 0


def test_float16_where_it_was_asked_for_counts_what_overflows() -> None:
    vae, levels = overflowing(), ("mid", "up0", "up1")
    latents, other = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    decoder = FrozenDecoder(vae, levels, dtype=torch.float16)
    loss, _, _, statistics = decoder.feature_matching(latents, other, return_statistics=True)
    counts = statistics.nonfinite
    assert not loss.isfinite() and not counts[0].any() and (counts[1] > 0).all()
    x, y = decoder.features(latents), decoder.features(other)
    wanted = torch.stack([(~(a.float() - b.float()).isfinite()).flatten(1).sum(1) for a, b in zip(x, y, strict=True)])
    assert torch.equal(counts, wanted.to(counts))
    assert (counts[2] == x[2][0].numel()).all()  # up1's norms make NaN of all of it
    with pytest.raises(FloatingPointError, match=r"FrozenDecoder.feature_matching: .* in up0, \d+ in up1"):
        decoder.feature_matching(latents, other, nonfinite="raise")
    zeroed = decoder.feature_matching(latents, other, nonfinite="zero", gradients=False)[0]
    assert zeroed.isfinite()
