"""What is not known by hand is run by autograd, says why, and gives the same."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.decoder import FrozenDecoder

from . import compvis
from .common import all_levels, architecture, check_features, kl, scaling


class LoRA(nn.Module):
    """An adapter in a convolution's or a projection's place."""

    def __init__(self, base: Any):
        super().__init__()
        self.base, self.factor = base, nn.Parameter(torch.tensor(1.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.base(x)


class Wrapped(nn.Module):
    """A block of another class, which has to be called as the one it stands for."""

    def __init__(self, base: Any):
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        return 0.9 * self.base(x, temb)


class PartialConv(nn.Conv2d):
    """A convolution whose forward computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.5


def resnet_of(vae: Any) -> Any:
    return vae.decoder.up_blocks[0].resnets[1]


def attention_of(vae: Any) -> Any:
    return vae.decoder.mid_block.attentions[0]


def upsampler_of(vae: Any) -> Any:
    return vae.decoder.up_blocks[0].upsamplers[0]


def swap(module: Any, name: str, make: Callable[[Any], nn.Module]) -> None:
    setattr(module, name, make(getattr(module, name)))


def of_class(module: nn.Module, kind: type[nn.Module]) -> None:
    module.__class__ = kind


def halved(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    return 0.5 * output


def doubled_gradient(module: nn.Module, into: tuple[Any, ...], out: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if g is None else 2.0 * g for g in into)


def own_forward(vae: Any) -> None:
    resnet = resnet_of(vae)
    resnet.forward = types.MethodType(lambda self, x, temb: 0.5 * type(self).forward(self, x, temb), resnet)


def subclassed(vae: Any) -> None:
    of_class(resnet_of(vae), type("PatchedBlock", (type(resnet_of(vae)),), {}))


def tiled(vae: Any) -> None:
    """Seamless textures, as many tools make them."""
    for module in vae.decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"


# name: (what is done to the VAE, which block runs by autograd, why)
CHANGES: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "hook": (lambda v: resnet_of(v).register_forward_hook(halved), "up0.1", "a hook on ResnetBlock2D"),
    "hook inside": (lambda v: resnet_of(v).conv1.register_forward_hook(halved), "up0.1", "a hook on conv1"),
    "pre-hook": (
        lambda v: attention_of(v).to_q.register_forward_pre_hook(lambda m, x: (0.5 * x[0],)),
        "mid.1",
        "a hook on to_q",
    ),
    "backward hook": (
        lambda v: resnet_of(v).register_full_backward_hook(doubled_gradient),
        "up0.1",
        "a hook on ResnetBlock2D",
    ),
    "hook on a level": (
        lambda v: v.decoder.up_blocks[0].register_forward_hook(halved),
        "up0.0",
        "a hook on UpDecoderBlock2D",
    ),
    "backward hook on a level": (
        lambda v: v.decoder.up_blocks[0].register_full_backward_hook(doubled_gradient),
        "up0.0",
        "a hook on UpDecoderBlock2D",
    ),
    "hook on the entry": (
        lambda v: v.decoder.conv_in.register_forward_hook(halved),
        "in.0",
        "a hook on conv_in",
    ),
    "forward of its own": (own_forward, "up0.1", "a forward of its own on ResnetBlock2D"),
    "adapter": (
        lambda v: swap(resnet_of(v), "conv1", LoRA),
        "up0.1",
        "LoRA where a Conv2d was expected",
    ),
    "adapter in the attention": (
        lambda v: swap(attention_of(v), "to_v", LoRA),
        "mid.1",
        "an adapter in the attention",
    ),
    "adapter in an upsampler": (
        lambda v: swap(upsampler_of(v), "conv", LoRA),
        "up0.3",
        "LoRA where a Conv2d was expected",
    ),
    "adapter in the entry": (
        lambda v: swap(v, "post_quant_conv", LoRA),
        "in.0",
        "LoRA where a Conv2d was expected",
    ),
    "subclass of a convolution": (
        lambda v: of_class(resnet_of(v).conv2, PartialConv),
        "up0.1",
        "PartialConv where a Conv2d was expected",
    ),
    "activation": (
        lambda v: swap(resnet_of(v), "nonlinearity", lambda _: nn.GELU()),
        "up0.1",
        "GELU where SiLU was expected",
    ),
    "norm": (
        lambda v: swap(resnet_of(v), "norm2", lambda _: nn.BatchNorm2d(32).eval()),
        "up0.1",
        "BatchNorm2d where a GroupNorm was expected",
    ),
    "scaled output": (
        lambda v: setattr(resnet_of(v), "output_scale_factor", 2.0),
        "up0.1",
        "a resnet with an output_scale_factor",
    ),
    "attention of another scale": (
        lambda v: setattr(attention_of(v), "rescale_output_factor", 2.0),
        "mid.1",
        "attention without the plain skip",
    ),
    "unknown block": (
        lambda v: v.decoder.up_blocks[0].resnets.__setitem__(1, Wrapped(resnet_of(v))),
        "up0.1",
        "unknown block Wrapped",
    ),
    "subclass of a block": (subclassed, "up0.1", "unknown block PatchedBlock"),
    "weight norm": (
        lambda v: nn.utils.parametrizations.weight_norm(resnet_of(v).conv1),
        "up0.1",
        "ParametrizedConv2d where a Conv2d was expected",
    ),
    "dilated": (
        lambda v: (setattr(resnet_of(v).conv1, "dilation", (2, 2)), setattr(resnet_of(v).conv1, "padding", (2, 2))),
        "up0.1",
        "another convolution than 3×3 of stride 1",
    ),
}


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_unknown_block_is_run_as_it_is(name: str, memory: Any) -> None:
    change, block, reason = CHANGES[name]
    vae = kl(latent_channels=4)
    change(vae)
    decoder = FrozenDecoder(vae, ("mid", "up0", "up1"), memory=memory)
    assert decoder.fallbacks == {block: reason}
    assert f"1 by autograd ({block}: {reason})" in repr(decoder)
    check_features(vae, decoder, torch.randn(2, 4, 4, 3))


def test_every_convolution_of_another_padding() -> None:
    vae = kl((16, 32), layers=1, latent_channels=4)
    tiled(vae)
    decoder = FrozenDecoder(vae, all_levels(vae))
    assert set(decoder.fallbacks) == {"in.0", "mid.0", "mid.2", "up0.0", "up0.1", "up0.2", "up1.0", "up1.1"}
    check_features(vae, decoder, torch.randn(1, 4, 4, 3))


def test_dropout_in_training_mode() -> None:
    """Known by hand where it does nothing."""
    vae = compvis.AutoencoderKL()
    for module in vae.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert FrozenDecoder(vae, ("mid",), **scaling(vae)).fallbacks == {}
    vae.train()
    decoder = FrozenDecoder(vae, ("mid",), **scaling(vae))
    assert decoder.fallbacks == {"mid.0": "dropout in training mode", "mid.2": "dropout in training mode"}
    first, second = (decoder.features(torch.ones(1, 4, 4, 4))[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("change", "block", "reason"),
    [
        (
            lambda d: d.up[-2].block.__setitem__(0, compvis.ResnetBlock(24, 8, conv_shortcut=True)),
            "up1.0",
            "a resnet with a 3×3 shortcut",
        ),
        (lambda d: setattr(d.up[-1], "upsample", compvis.Upsample(24, False)), "up0.2", "upsampling without a conv"),
        (lambda d: setattr(d.mid, "attn_1", nn.Identity()), "mid.1", "unknown block Identity"),
        (lambda d: setattr(d.up[-1], "upsample", nn.Upsample(scale_factor=2)), "up0.2", "'Upsample' object has no"),
    ],
    ids=["3×3 shortcut", "no convolution", "no attention", "torch's Upsample"],
)
def test_unknown_blocks_of_compvis(change: Callable[[Any], Any], block: str, reason: str) -> None:
    vae = compvis.AutoencoderKL((8, 24), 3)
    change(vae.decoder)
    vae.requires_grad_(False)
    decoder = FrozenDecoder(vae, all_levels(vae), **scaling(vae))
    assert list(decoder.fallbacks) == [block] and decoder.fallbacks[block].startswith(reason)
    check_features(vae, decoder, torch.randn(2, 3, 4, 3))


def test_a_fallback_sees_weights_that_want_gradients_and_gives_them_none() -> None:
    vae = kl(latent_channels=4).requires_grad_(True)
    swap(resnet_of(vae), "conv1", LoRA)
    decoder = FrozenDecoder(vae, ("up0", "up1"))
    check_features(vae, decoder, torch.randn(1, 4, 4, 3))
    assert all(p.requires_grad and p.grad is None for p in vae.parameters())


def test_another_precision_keeps_the_reasons() -> None:
    vae = kl(latent_channels=4)
    swap(resnet_of(vae), "conv1", LoRA)
    decoder = FrozenDecoder(vae, ("up0",), dtype=torch.bfloat16)
    assert list(decoder.fallbacks) == ["up0.1"]
    check_features(vae.to(torch.bfloat16), decoder, torch.randn(1, 4, 4, 3))


def test_nothing_is_unknown_in_a_plain_vae() -> None:
    decoder = FrozenDecoder(architecture("sd1"))
    assert decoder.fallbacks == {} and "blocks=16 by hand)" in repr(decoder)
