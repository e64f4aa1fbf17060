"""A block's name promises nothing: what does not compute what it is taken for is run as it is, or refused by name."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ldp_fast.decoder import FrozenDecoder

from . import compvis
from .common import all_levels, architecture, check_features, kl, scaling

LEVELS = ("mid", "up0", "up1")


def conv_of(vae: Any) -> Any:
    return vae.decoder.up_blocks[0].resnets[1].conv1


def asymmetric(conv: Any) -> None:
    """Textures that tile in one direction, as many tools make them."""

    def _conv_forward(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = F.pad(F.pad(x, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1))
        return F.conv2d(x, weight, bias)

    conv._conv_forward = types.MethodType(_conv_forward, conv)


def renamed(vae: Any) -> None:
    """A subclass of the same name."""

    class ResnetBlock2D(type(vae.decoder.up_blocks[0].resnets[1])):  # type: ignore[misc]
        def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
            return 0.5 * super().forward(x, temb)

    vae.decoder.up_blocks[0].resnets[1].__class__ = ResnetBlock2D


def another_gradient(vae: Any) -> None:
    """The same values; the gradient goes straight through."""

    class ResnetBlock2D(type(vae.decoder.up_blocks[0].resnets[1])):  # type: ignore[misc]
        def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
            return x + (super().forward(x, temb) - x).detach()

    vae.decoder.up_blocks[0].resnets[1].__class__ = ResnetBlock2D


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda vae: asymmetric(conv_of(vae)), "a _conv_forward of its own on conv1"),
        (renamed, "a subclass of ResnetBlock2D"),
        (another_gradient, "a subclass of ResnetBlock2D"),
    ],
    ids=["_conv_forward", "same-named subclass", "gradient"],
)
def test_a_block_that_deviates_runs_as_it_is(change: Callable[[Any], None], reason: str) -> None:
    vae = kl(latent_channels=4)
    change(vae)
    decoder = FrozenDecoder(vae, LEVELS)
    assert list(decoder.fallbacks) == ["up0.1"] and decoder.fallbacks["up0.1"].startswith(reason)
    check_features(vae, decoder, torch.randn(2, 4, 4, 3))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_class_that_is_patched(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, own = kl(latent_channels=4), ResnetBlock2D.forward
    decoder = FrozenDecoder(vae, LEVELS)
    assert decoder.fallbacks == {}
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda self, x, temb, *args: 0.7 * own(self, x, temb))
    if when == "before":
        decoder = FrozenDecoder(vae, LEVELS)
    check_features(vae, decoder, torch.randn(1, 4, 4, 3))
    assert {reason.split(" (")[0] for reason in decoder.fallbacks.values()} == {"its own code gives other values"}
    monkeypatch.undo()
    assert decoder.fallbacks == {}
    check_features(vae, decoder, torch.randn(1, 4, 4, 3))


def test_weights_that_hide_everything_are_compared_again() -> None:
    """Zeros, and what is not finite: whether the decoder is one of its blocks is told when there are others."""
    vae = kl(latent_channels=4)
    good = {key: value.clone() for key, value in vae.state_dict().items()}
    own_forward(vae)
    for bad in (0.0, float("nan")):
        for parameter in vae.parameters():
            parameter.fill_(bad)
        decoder = FrozenDecoder(vae, LEVELS)
        vae.load_state_dict(good)
        with pytest.raises(TypeError, match="AutoencoderKL is not served: its own code gives"):
            decoder.features(torch.randn(1, 4, 4, 4))


def test_code_that_is_patched_later_beside_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    vae = kl(latent_channels=4)
    decoder, own = FrozenDecoder(vae, LEVELS), AttnProcessor2_0.__call__
    monkeypatch.setattr(AttnProcessor2_0, "__call__", lambda *args, **kwargs: 0.5 * own(*args, **kwargs))
    assert list(decoder.fallbacks) == ["mid.1"]
    check_features(vae, decoder, torch.randn(1, 4, 4, 3))
    monkeypatch.undo()
    assert decoder.fallbacks == {}
    decode = type(vae)._decode
    monkeypatch.setattr(type(vae), "_decode", lambda self, z, *args, **kwargs: decode(self, 2 * z, *args, **kwargs))
    with pytest.raises(TypeError, match="AutoencoderKL is not served"):
        decoder.features(torch.randn(1, 4, 4, 4))


def test_what_a_host_keeps_on_its_decoder_is_its_own() -> None:
    """Tensors, the shape of the last latents: no reason to compare anything."""
    vae = kl(latent_channels=4)
    decoder = FrozenDecoder(vae, LEVELS)
    built = decoder._built()
    for _ in range(2):
        vae.stash, vae.decoder.last_z_shape, vae.decoder.skips = [torch.ones(2)], (1, 4, 4, 4), {"a": torch.ones(3)}
        assert decoder._built() is built


def own_forward(vae: Any) -> None:
    decoder, own = vae.decoder, vae.decoder.forward
    decoder.forward = lambda z, *args, **kwargs: own(1.5 * z, *args, **kwargs)


def between(vae: Any) -> None:
    """Something happens between two blocks, in the decoder's own code."""
    decoder: Any = vae.decoder

    def forward(z: Tensor, latent_embeds: Any = None) -> Tensor:
        x = decoder.mid_block(decoder.conv_in(z), None)
        for block in decoder.up_blocks:
            x = block(1.1 * x, None)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))

    decoder.forward = forward


@pytest.mark.parametrize(
    "change",
    [own_forward, between, lambda vae: vae.decoder.register_forward_pre_hook(lambda module, args: (1.5 * args[0],))],
    ids=["forward", "between", "hook"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_decoder_that_does_more_than_its_blocks_is_refused(change: Callable[[Any], Any], when: str) -> None:
    vae = kl(latent_channels=4)
    decoder = FrozenDecoder(vae, LEVELS) if when == "after" else None
    change(vae)
    with pytest.raises(TypeError, match=r"vae: AutoencoderKL is not served: its own code gives .* than its blocks"):
        FrozenDecoder(vae, LEVELS) if decoder is None else decoder.features(torch.randn(1, 4, 4, 4))


def test_what_changes_no_feature_is_taken() -> None:
    """A hook that looks, one on the image, a decoder that counts its calls."""
    vae, seen = kl(latent_channels=4), []
    vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    vae.decoder.conv_out.register_forward_hook(lambda module, args, out: 2 * out)
    own = vae.decoder.forward
    vae.decoder.forward = lambda *args, **kwargs: (seen.append(1), own(*args, **kwargs))[1]
    decoder, latents = FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3)
    assert seen and decoder.fallbacks == {}
    plain = FrozenDecoder(kl(latent_channels=4), LEVELS)
    assert all(torch.equal(x, y) for x, y in zip(decoder.features(latents), plain.features(latents), strict=True))


def test_the_vae_is_left_as_it_was() -> None:
    vae = kl(latent_channels=4).train().requires_grad_(True)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    FrozenDecoder(vae, LEVELS, dtype=torch.bfloat16)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in vae.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vae.modules())


def test_a_decoder_under_no_grad_is_compared_by_its_values() -> None:
    vae = kl(latent_channels=4)
    vae.decode = torch.no_grad()(vae.decode)
    check_features(kl(latent_channels=4), FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3))


def test_weights_that_are_not_finite_are_not_compared() -> None:
    vae = architecture("sd1")
    vae.decoder.mid_block.resnets[0].conv1.weight.fill_(float("nan"))
    decoder = FrozenDecoder(vae, LEVELS)
    assert decoder.fallbacks == {} and not decoder.features(torch.randn(1, 4, 4, 4))[0].isfinite().any()


def two_levels(**options: Any) -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (32, 32),
        "latent_channels": 4,
    } | options


def hunyuan_image() -> Any:
    return diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        spatial_compression_ratio=4,
        sample_size=32,
        scaling_factor=0.75,
    )


def attention_only(kind: str) -> dict[str, Any]:
    return {"up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), "norm_type": kind, "vq_embed_dim": 4}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "VQModel": (
        lambda: diffusers.VQModel(**two_levels()),
        "VQModel is not served: its own code gives other features after the first convolution",
    ),
    "movq": (
        lambda: diffusers.VQModel(**two_levels(**attention_only("spatial"))),
        "VQModel is not served: its blocks cannot be called one after the other",
    ),
    "HunyuanImage": (
        hunyuan_image,
        "AutoencoderKLHunyuanImage is not served: its own code gives other features at mid",
    ),
    "SVD": (
        lambda: diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2
        ),
        r"AutoencoderKLTemporalDecoder is not served: its decode does not take latents \[1, 4, 3, 2\]",
    ),
    "Wan": (
        lambda: diffusers.AutoencoderKLWan(base_dim=3, z_dim=4, dim_mult=[1, 1], num_res_blocks=1),
        "AutoencoderKLWan is not served: its first convolution does not take images",
    ),
    "CogVideoX": (
        lambda: diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 2,
            up_block_types=("CogVideoXUpBlock3D",) * 2,
            block_out_channels=(8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
        ),
        "AutoencoderKLCogVideoX is not served: its decode does not take latents",
    ),
    "Flux2": (
        lambda: diffusers.AutoencoderKLFlux2(**two_levels(layers_per_block=1)),
        "scaling_factor: the configuration of AutoencoderKLFlux2 has no such entry",
    ),
    "Oobleck": (
        lambda: diffusers.AutoencoderOobleck(encoder_hidden_size=4, decoder_channels=4),
        "got AutoencoderOobleck",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_vae_of_another_kind_is_refused_by_name(name: str) -> None:
    make, sentence = REFUSED[name]
    try:
        vae = make().eval()
    except AttributeError:
        pytest.skip(f"this diffusers has no VAE of {name}")
    with pytest.raises((TypeError, ValueError), match=sentence):
        FrozenDecoder(vae, ("up0",))


def test_another_encoder_is_no_matter() -> None:
    vae = diffusers.AsymmetricAutoencoderKL(
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        down_block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2,
        up_block_out_channels=(16, 16),
    ).eval()
    decoder = FrozenDecoder(vae, ("mid", "up0"))
    assert decoder.fallbacks == {}


@pytest.mark.parametrize("name", ["compvis", "compvis 2"])
def test_the_decode_of_compvis_is_the_one_compared_with(name: str) -> None:
    vae = architecture(name)

    def decode(self: Any, z: Tensor) -> Tensor:
        return vae.levels(z if name == "compvis" else 2 * z)["up3"]

    # Hooks are on the blocks, wherever they are called from.
    vae.decode = types.MethodType(decode, vae)
    if name == "compvis":
        assert FrozenDecoder(vae, all_levels(vae), **scaling(vae)).fallbacks == {}
    else:
        with pytest.raises(TypeError, match="AutoencoderKL is not served"):
            FrozenDecoder(vae, all_levels(vae), **scaling(vae))
    assert isinstance(vae, compvis.AutoencoderKL)
