"""Which of a decoder's blocks are known by hand: diffusers' and CompVis' resnets, attention, upsampling.

A block is known by the name of its class and by what its forward pass reads. Whatever could change the result (another
activation, a time embedding, adapters in the place of a convolution, hooks, dropout while training) makes it an unknown
block, which runs as it is under autograd; the reason is kept. That a known block computes what it is taken for is
compare.py's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.modules import module as every_module

from .fallback import AutogradLayer
from .layers import Attention, Entry, Layer, Resnet, Upsample
from .units import LatentUnits


class Unknown(Exception):
    """Why a block is not known by hand."""


def _require(good: bool, reason: str) -> None:
    if not good:
        raise Unknown(reason)


def _name(module: Any) -> str:
    return type(module).__name__


def _conv(module: Any, taps: int) -> nn.Conv2d:
    _require(type(module) is nn.Conv2d, f"{_name(module)} where a Conv2d was expected")
    pad = taps // 2
    plain = (
        module.kernel_size == (taps, taps)
        and module.stride == (1, 1)
        and module.padding == (pad, pad)
        and module.dilation == (1, 1)
        and module.groups == 1
        and (module.padding_mode == "zeros" or pad == 0)
    )
    _require(plain, f"another convolution than {taps}×{taps} of stride 1")
    return module


def _norm(module: Any) -> nn.GroupNorm:
    _require(type(module) is nn.GroupNorm, f"{_name(module)} where a GroupNorm was expected")
    return module


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Of nn.Module at large: what torch calls around every module.
GLOBAL_HOOKS = tuple(f"_global{table}" for table in HOOKS)


def _hooked(module: nn.Module) -> bool:
    return any(getattr(module, table, None) for table in HOOKS)


def overridden(module: nn.Module) -> list[str]:
    """Methods that an object has of its own in place of its class's: how a single block is patched."""
    kind = type(module)
    return [name for name in vars(module) if callable(getattr(kind, name, None))]


def _no_hooks(module: nn.Module) -> None:
    if any(getattr(every_module, table, None) for table in GLOBAL_HOOKS):
        raise Unknown("a hook on every module")
    for name, part in module.named_modules():
        if _hooked(part):
            raise Unknown(f"a hook on {name or _name(module)}")
        for method in overridden(part):
            raise Unknown(f"a {method} of its own on {name or _name(module)}")
        if isinstance(part, nn.Dropout) and part.training and part.p > 0:
            raise Unknown("dropout in training mode")


def _original(block: nn.Module) -> None:
    """A subclass of the same name is another block, whatever its weights make of that today."""
    if any(base.__name__ == _name(block) for base in type(block).__mro__[1:]):
        raise Unknown(f"a subclass of {_name(block)}")


def _all_read(block: nn.Module, layer: Layer) -> None:
    """What a layer by hand does not read can be zero today, and matter tomorrow."""
    known = {id(p) for module in layer.modules for p in module.parameters()}
    for name, parameter in block.named_parameters():
        if id(parameter) not in known:
            raise Unknown(f"a parameter that {_name(block)} does not have: {name}")


def _diffusers_resnet(block: Any, dtype: torch.dtype) -> Layer:
    _require(block.upsample is None and block.downsample is None, "a resnet that changes its resolution")
    _require(block.time_emb_proj is None, "a resnet with a time embedding")
    _require(block.time_embedding_norm in ("default", "group"), "a resnet of another normalisation")
    _require(_name(block.nonlinearity) == "SiLU", f"{_name(block.nonlinearity)} where SiLU was expected")
    _require(block.output_scale_factor == 1, "a resnet with an output_scale_factor")
    return _resnet(block, block.conv_shortcut, dtype)


def _compvis_resnet(block: Any, dtype: torch.dtype) -> Layer:
    _require(getattr(block, "temb_proj", None) is None, "a resnet with a time embedding")
    wide = getattr(block, "in_channels", 0) != getattr(block, "out_channels", 0)
    if wide and getattr(block, "use_conv_shortcut", False):
        raise Unknown("a resnet with a 3×3 shortcut")
    return _resnet(block, block.nin_shortcut if wide else None, dtype)


def _resnet(block: Any, skip: Any, dtype: torch.dtype) -> Layer:
    return Resnet(
        _norm(block.norm1),
        _conv(block.conv1, 3),
        _norm(block.norm2),
        _conv(block.conv2, 3),
        None if skip is None else _conv(skip, 1),
        dtype,
    )


def _diffusers_attention(block: Any, dtype: torch.dtype) -> Layer:
    _require(_name(block.processor) in ("AttnProcessor2_0", "AttnProcessor"), f"attention by {_name(block.processor)}")
    _require(block.spatial_norm is None and block.group_norm is not None, "attention of another normalisation")
    _require(getattr(block, "norm_q", None) is None and getattr(block, "norm_k", None) is None, "norms of q and k")
    _require(bool(block.residual_connection) and block.rescale_output_factor == 1, "attention without the plain skip")
    parts = [block.to_q, block.to_k, block.to_v, block.to_out[0]]
    _require(all(type(p) is nn.Linear for p in parts), "an adapter in the attention")
    width = block.to_q.out_features // block.heads
    _require(abs(block.scale - width**-0.5) < 1e-6 * width**-0.5, "attention of another scale")
    return Attention(_norm(block.group_norm), block.to_q, block.to_k, block.to_v, block.to_out[0], block.heads, dtype)


def _compvis_attention(block: Any, dtype: torch.dtype) -> Layer:
    query, key, value, out = (_conv(p, 1) for p in (block.q, block.k, block.v, block.proj_out))
    return Attention(_norm(block.norm), query, key, value, out, 1, dtype)


def _diffusers_upsample(block: Any, dtype: torch.dtype) -> Layer:
    _require(getattr(block, "norm", None) is None and not block.use_conv_transpose, "upsampling of another kind")
    _require(bool(block.use_conv) and bool(getattr(block, "interpolate", True)), "upsampling of another kind")
    return Upsample(_conv(block.conv if block.name == "conv" else block.Conv2d_0, 3), dtype)


def _compvis_upsample(block: Any, dtype: torch.dtype) -> Layer:
    _require(bool(block.with_conv), "upsampling without a convolution")
    return Upsample(_conv(block.conv, 3), dtype)


BLOCKS = {
    "ResnetBlock2D": _diffusers_resnet,
    "ResnetBlock": _compvis_resnet,
    "Attention": _diffusers_attention,
    "AttnBlock": _compvis_attention,
    "MemoryEfficientAttnBlock": _compvis_attention,
    "Upsample2D": _diffusers_upsample,
    "Upsample": _compvis_upsample,
}


class _Part(NamedTuple):
    """A block, and the place it has in its stage: how it is called depends on that alone, whatever its class is."""

    block: nn.Module
    place: Literal["resnet", "attention", "upsampler"]


def _parts(stage: Any) -> list[_Part] | None:
    """The blocks that a stage calls one after the other; None where the sequence is not known."""
    name = _name(stage)
    parts: list[_Part] = []
    if name == "UNetMidBlock2D":
        parts.append(_Part(stage.resnets[0], "resnet"))
        for attention, resnet in zip(stage.attentions, list(stage.resnets)[1:], strict=True):
            parts += [_Part(attention, "attention")] if attention is not None else []
            parts.append(_Part(resnet, "resnet"))
    elif name == "UpDecoderBlock2D":
        parts += [_Part(resnet, "resnet") for resnet in stage.resnets]
        parts += [_Part(upsampler, "upsampler") for upsampler in stage.upsamplers or ()]
    elif name == "_CompVisMid":
        mid = stage.mid
        parts += [_Part(mid.block_1, "resnet"), _Part(mid.attn_1, "attention"), _Part(mid.block_2, "resnet")]
    elif name == "_CompVisUp":
        level = stage.level
        for index, block in enumerate(level.block):
            parts.append(_Part(block, "resnet"))
            parts += [_Part(level.attn[index], "attention")] if len(level.attn) > 0 else []
        parts += [_Part(level.upsample, "upsampler")] if hasattr(level, "upsample") else []
    else:
        return None
    return parts


def layers_of(stage: nn.Module, dtype: torch.dtype, forced: Mapping[int, str] | None = None) -> list[Layer]:
    """A stage (see stages.py) as layers: by hand where they are known, else under autograd.

    Args:
        stage: of `split`.
        dtype: precision of the arithmetic.
        forced: layers, by number, that run under autograd although they are known, and why.
    """
    parts, forced = _parts(stage), forced or {}
    if parts is None:
        return [AutogradLayer(stage, forced.get(0, f"unknown block {_name(stage)}"), dtype)]
    if _hooked(stage) or overridden(stage):
        why = "a hook" if _hooked(stage) else f"a {overridden(stage)[0]} of its own"
        return [AutogradLayer(stage, f"{why} on {_name(stage)}", dtype)]
    layers: list[Layer] = []
    for number, (block, place) in enumerate(parts):
        try:
            _no_hooks(block)
            if _name(block) not in BLOCKS:
                raise Unknown(f"unknown block {_name(block)}")
            if number in forced:
                raise Unknown(forced[number])
            _original(block)
            layer = BLOCKS[_name(block)](block, dtype)
            _all_read(block, layer)
            layers.append(layer)
        except (Unknown, AttributeError) as error:
            module, enlarges = _OneArgument(block, place == "resnet"), 2 if place == "upsampler" else 1
            layers.append(AutogradLayer(module, str(error), dtype, enlarges=enlarges))
    return layers


def under_autograd(layer: Layer, stage: nn.Module, number: int) -> AutogradLayer:
    """The layer `number` of a stage as it is, to compare the layer by hand with."""
    parts = _parts(stage)
    if isinstance(layer, Entry):
        return AutogradLayer(stage, "", layer.dtype, units=layer.units)
    assert parts is not None
    block, place = parts[number]
    dtype: torch.dtype = layer.dtype
    return AutogradLayer(_OneArgument(block, place == "resnet"), "", dtype, enlarges=layer.enlarges)


class _OneArgument(nn.Module):
    """A block called with its input and, in a resnet's place, no time embedding."""

    def __init__(self, block: nn.Module, embedded: bool):
        super().__init__()
        self.block, self.embedded = block, embedded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x, None) if self.embedded else self.block(x)


def entry_of(stage: Any, units: LatentUnits, dtype: torch.dtype, forced: Mapping[int, str] | None = None) -> Layer:
    """The first stage: latents to the first features."""
    try:
        _no_hooks(stage)
        if forced:
            raise Unknown(forced[0])
        post_quant = stage.post_quant_conv
        return Entry(_conv(stage.conv_in, 3), None if post_quant is None else _conv(post_quant, 1), units, dtype)
    except (Unknown, AttributeError) as error:
        reason = str(error) if isinstance(error, Unknown) else f"unknown block {_name(stage)}"
        return AutogradLayer(stage, reason, dtype, units=units)
