"""LoRA files (low-rank additions to a network's weights), fused into the weights when a model is loaded.

Fused, because the prior's networks are frozen: W + s·(alpha/r)·B·A is computed once, in float32, and what runs after
that is the plain network with its fast paths, at no cost a step. Who wants to change a weight while running keeps a
diffusers pipeline with live adapters and makes the prior with `from_pipe`.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from ..errors import UsageError
from .components import as_path, listed, quietly

Lora: TypeAlias = str | pathlib.Path | tuple[str | pathlib.Path, float]
DEFAULT_NAME = "pytorch_lora_weights.safetensors"
_TARGETS = ("unet", "text_encoder", "text_encoder_2")
# Ends of a weight's name in peft's spelling, and what stands before them is the layer.
_ENDS = (".lora_A.weight", ".lora_B.weight", ".lora_B.bias")


def fuse(parts: dict[str, Any], lora: Sequence[Lora]) -> None:
    """Adds LoRA files to the weights of a model, in place: W + Σ weight · alpha/r · B·A, each rounded once.

    Args:
        parts: `unet` and the text encoders, by their names; unset ones may be absent.
        lora: files, or pairs of a file and its weight (1 otherwise), in diffusers', peft's or kohya's format; a folder
            stands for the `pytorch_lora_weights.safetensors` in it.

    Raises:
        UsageError: peft is not installed; a file that is not there, or is not safetensors or not a LoRA; layers that
            the model does not have or that have another shape.
    """
    if isinstance(lora, (str, pathlib.Path)):
        raise UsageError(f"lora: expected a list of files, or of pairs of a file and its weight; got {str(lora)!r}")
    if importlib.util.find_spec("peft") is None:
        raise UsageError("lora: expected the package peft beside diffusers (pip install peft); it is not installed")
    files = [_file_and_weight(entry) for entry in lora]
    names: dict[str, float] = {}
    for number, (path, weight) in enumerate(files):
        adapter = f"ldp_fast_{number}"
        _attach(parts, path, adapter)
        names[adapter] = weight
    for target in _TARGETS:
        if parts.get(target) is not None:
            _merge(parts[target], names)


def _file_and_weight(entry: Lora) -> tuple[pathlib.Path, float]:
    file, weight = entry if isinstance(entry, (tuple, list)) else (entry, 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise UsageError(f"lora: expected a number as the weight of {str(file)!r}, got {weight!r}")
    path = as_path("lora", file)
    path = path / DEFAULT_NAME if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"lora: there is no file {path}")
    if path.suffix != ".safetensors":
        raise UsageError(f"lora: expected a .safetensors file, got {path.name}")
    return path, float(weight)


def _attach(parts: dict[str, Any], path: pathlib.Path, adapter: str) -> None:
    """Puts one file's layers beside the model's, as diffusers does; every weight of the file has to find its layer."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        unread = [key for key in file.keys() if "dora_scale" in key]
    if unread:
        raise UsageError(f"lora: expected a LoRA that diffusers reads in {path}; it leaves out DoRA's {listed(unread)}")
    loader: Any = StableDiffusionLoraLoaderMixin
    if parts.get("text_encoder_2") is not None or parts["unet"].config.addition_embed_type == "text_time":
        loader = StableDiffusionXLLoraLoaderMixin
    try:
        with quietly():
            state, alphas, *metadata = loader.lora_state_dict(
                str(path), unet_config=parts["unet"].config, return_lora_metadata=True, use_safetensors=True
            )
            state = {key: tensor for key, tensor in state.items()}
            expected = _layers(parts, path, state)
            extra = {"adapter_name": adapter, **({"metadata": metadata[0]} if metadata else {})}
            if expected["unet"]:
                loader.load_lora_into_unet(state, alphas, parts["unet"], **extra)
            for target in _TARGETS[1:]:
                if expected[target]:
                    loader.load_lora_into_text_encoder(state, alphas, parts[target], prefix=target, **extra)
    except UsageError:
        raise
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"lora: could not use {path}: {reason[:300]}") from error
    for target, layers in expected.items():
        modules = dict(parts[target].named_modules()) if layers else {}
        unmet = [layer for layer in layers if adapter not in getattr(modules.get(layer), "lora_A", ())]
        if unmet:
            raise UsageError(f"lora: {path} did not reach {len(unmet)} layers of the {target}: {listed(unmet)}")


def _layers(parts: dict[str, Any], path: pathlib.Path, state: dict[str, torch.Tensor]) -> dict[str, set[str]]:
    """The layers that a file has weights for, by network.

    Raises:
        UsageError: weights for layers that the model does not have, by their names.
    """
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    unknown = [key for key in state if not key.startswith(tuple(f"{target}." for target in _TARGETS))]
    found: dict[str, set[str]] = {}
    for target in _TARGETS:
        own = {k.removeprefix(f"{target}."): t for k, t in state.items() if k.startswith(f"{target}.")}
        model = parts.get(target)
        if own and model is None:
            unknown += [f"{target}.{key}" for key in own]
            own = {}
        if own and not any("lora_A" in key for key in own):
            own = (
                convert_unet_state_dict_to_peft(own)
                if target == "unet"
                else convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
            )
        if own and target != "unet" and not hasattr(model, "text_model"):
            own = {key.removeprefix("text_model."): tensor for key, tensor in own.items()}
        modules = dict(model.named_modules()) if own and model is not None else {}
        found[target] = set()
        for key in own:
            end = next((end for end in _ENDS if key.endswith(end)), None)
            layer = key.removesuffix(end) if end else None
            if layer is None or not isinstance(modules.get(layer), nn.Module):
                unknown.append(f"{target}.{key}")
            else:
                found[target].add(layer)
    if unknown:
        raise UsageError(
            f"lora: {path} has {len(unknown)} weights for layers that this model does not have: {listed(unknown)}"
        )
    if not any(found.values()):
        raise UsageError(f"lora: expected weights of a LoRA in {path}, found none")
    return found


def _merge(model: Any, names: dict[str, float]) -> None:
    """Fuses what is attached, layer by layer in float32, and puts the plain layers back."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        mine: Any = layer
        base: Any = mine.get_base_layer()
        dtype = base.weight.dtype
        mine.float()
        adapters = [adapter for adapter in names if adapter in mine.lora_A]
        for adapter in adapters:
            mine.set_scale(adapter, names[adapter])
        mine.merge(adapter_names=adapters)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, base.to(dtype))
    # What diffusers and transformers remember of adapters.
    if hasattr(model, "peft_config"):
        del model.peft_config
    model._hf_peft_config_loaded = False
