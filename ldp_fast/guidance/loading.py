"""Finds and loads the parts of a latent diffusion model: embedded, a folder, one file, or a hub name."""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import UsageError, reason
from .check import check_parts, offloading
from .components import (
    as_path,
    load_network,
    load_tokenizer,
    overflows,
    quietly,
    reading,
    require_vocabularies,
    variant_of,
)
from .lora import Lora, fuse
from .prompts import FORCE_ZEROS
from .single_file import FILES, load_single_file

__all__ = [
    "ZOO",
    "components_of",
    "edition_of",
    "embedded_folder",
    "embedded_models",
    "load_components",
    "locate",
    "notes_of",
    "quietly",
    "usable",
]

# Embedded models are folders of the package; the zoo makes them, this layer only has to find them.
ZOO = pathlib.Path(__file__).parent.parent / "zoo"
# In the order they are loaded in: what is small and can be wrong comes before what takes long.
COMPONENTS = ("scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "vae", "unet")
_FAMILY = "a latent diffusion model with a UNet (Stable Diffusion 1.x, 2.x, SDXL)"


def embedded_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))


def embedded_folder(name: str) -> pathlib.Path | None:
    """The folder of an embedded model, or of a part that is beside its others, `primitives/judge`; else None."""
    whole, _, part = name.partition("/")
    found = ZOO / whole / part
    return found if whole in embedded_models() and ".." not in part and found.is_dir() else None


def edition_of(name: str) -> int:
    """Of which edition the weights of an embedded model are; 1 for every other model, whose files are the user's.

    A run of one edition means nothing to another: its latents are decoded to other pictures.
    """
    notes = ZOO / name / "ldp_fast.json"
    return int(json.loads(notes.read_text()).get("edition", 1)) if name in embedded_models() else 1


def locate(name: str) -> str:
    """The folder of an embedded model or of a path, the path of one file, or the hub name as it is.

    Raises:
        UsageError: a path that is not a model.
    """
    if not name:
        raise UsageError("model: expected a name or a path, got ''")
    if name in embedded_models():
        return str(ZOO / name)
    path = as_path("model", name)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UsageError(f"model: {name} is a folder without model_index.json: not a model in diffusers' format")
        return str(path)
    if path.is_file():
        return str(path)
    if path.suffix in FILES:
        raise UsageError(f"model: there is no file {name}")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UsageError(f"model: there is no folder {name}")
    if "/" not in name:
        raise UsageError(
            f"model: {name!r} is neither an embedded model ({', '.join(embedded_models()) or 'none installed'}), nor a "
            f"folder in diffusers' format, nor one file, nor a hub name (owner/name)"
        )
    return name


def notes_of(name: str) -> dict[str, Any]:
    """The prior's own notes on a model (`ldp_fast.json` beside it); empty where there are none.

    Raises:
        UsageError: they cannot be read, or `locate` refuses the name.
    """
    where = locate(name)
    notes = pathlib.Path(where) / "ldp_fast.json"
    with reading("model", f"{notes.name} of {name!r}", where):
        return dict(json.loads(notes.read_text())) if notes.is_file() else {}


def load_components(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    variant: str | None = None,
    lora: Sequence[Lora] = (),
    config: str | None = None,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """The components named in `model_index.json`, frozen, in evaluation mode, on `device` in `dtype`.

    The prior's own notes on a model (`ldp_fast.json` beside it: recommended guidance scale, known words) come as
    `notes`, an empty dictionary if it lacks them.

    Args:
        name: as `locate` takes it.
        device, dtype: of the networks; a VAE that says `force_upcast` stays in float32 where `dtype` is float16.
        variant: of the weights' files (`fp16`); None takes the plain ones, or the only ones there are.
        lora: LoRA files, or pairs of a file and its weight, that are fused into the weights (`lora.fuse`).
        config, tokenizer: for one file, see `load_single_file`.

    Raises:
        UsageError: the model cannot be found or read, is of another kind or not whole; the reason is in the message.
    """
    where = locate(name)
    local = pathlib.Path(where)
    single = local.is_file()
    for word, value in (("config", config), ("tokenizer", tokenizer)):
        if value is not None and not single:
            raise UsageError(f"{word}: expected only with a path to one file; {name!r} brings its own")
    if variant is not None and single:
        raise UsageError(f"variant: expected only with a folder or a hub name, got {variant!r} with the file {name!r}")
    with reading("model", repr(name), where):
        found = (
            load_single_file(local, dtype, config, tokenizer) if single else _load_folder(name, where, dtype, variant)
        )
        if lora:
            fuse(found, lora)
    for component, part in found.items():
        if isinstance(part, nn.Module):
            found[component] = part.to(device).eval().requires_grad_(False)
    found["notes"] = found.get("notes", {}) | notes_of(name)
    return found


def usable(device: str | torch.device) -> torch.device:
    """A device that tensors can be made on here.

    Raises:
        UsageError: this machine does not have the device, or its tensors lack values (meta).
    """
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except Exception as error:  # of whatever kind the backend that is asked for raises
        raise UsageError(f"device: {str(device)!r} cannot be used here: {reason(error)}") from None
    if where.type == "meta":
        raise UsageError(f"device: {str(device)!r} cannot be used here: its tensors lack values")
    return where


def _load_part(cls: Any, where: str, component: str, what: str, dtype: torch.dtype, variant: str | None) -> Any:
    if component.startswith("tokenizer"):
        return load_tokenizer(cls, where, subfolder=component, what=what)
    if not issubclass(cls, nn.Module):
        return cls.from_pretrained(where, subfolder=component)
    folder = pathlib.Path(where) / component
    chosen = variant_of(folder, variant, what) if folder.is_dir() else variant
    read = functools.partial(load_network, cls, where, what=what, subfolder=component, variant=chosen)
    network = read(dtype=dtype)
    return read(dtype=torch.float32) if component == "vae" and overflows(network, dtype) else network


def _load_folder(name: str, where: str, dtype: torch.dtype, variant: str | None) -> dict[str, Any]:
    from diffusers import DiffusionPipeline

    index = DiffusionPipeline.load_config(where)
    present = {part for part, value in index.items() if isinstance(value, (list, tuple)) and None not in value}
    check_parts("model", repr(name), present, bool(index.get("requires_aesthetics_score")))
    classes = _classes(name, index)
    with reading("model", f"the unet of {name!r}", where):
        settings = classes["unet"].load_config(where, subfolder="unet")
    if settings.get("addition_embed_type") == "text_time" and {"text_encoder", "text_encoder_2"} & set(classes):
        lacks = [c for c in ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2") if c not in classes]
        if lacks:
            raise UsageError(
                f"model: {name!r} has no {', '.join(lacks)} in its model_index.json; its UNet is of SDXL's kind and "
                f"expects both text encoders and their tokenizers"
            )
    found: dict[str, Any] = {}
    for component in COMPONENTS:
        cls, what = classes.get(component), f"the {component} of {name!r}"
        if cls is None:
            continue
        with reading("model", what, where):
            found[component] = _load_part(cls, where, component, what, dtype, variant)
    require_vocabularies(name, found)
    if FORCE_ZEROS in index:
        found["notes"] = {FORCE_ZEROS: index[FORCE_ZEROS]}
    return found


def _classes(name: str, index: dict[str, Any]) -> dict[str, Any]:
    """The classes of `model_index.json`; a model of another kind is refused before anything is loaded."""
    import diffusers

    kind = index.get("_class_name", "a pipeline")
    named = {c: entry for c in COMPONENTS if (entry := index.get(c)) and None not in entry}
    missing = [component for component in ("unet", "vae", "scheduler") if component not in named]
    if missing:
        raise UsageError(
            f"model: {name!r} has no {', '.join(missing)} in its model_index.json: expected {_FAMILY}, got {kind}"
        )
    foreign = [f"{library}.{cls}" for library, cls in named.values() if library not in ("diffusers", "transformers")]
    if foreign:
        raise UsageError(
            f"model: expected components of diffusers and transformers in {name!r}, got {', '.join(foreign)} ({kind})"
        )
    classes = {c: getattr(importlib.import_module(library), cls) for c, (library, cls) in named.items()}
    if not issubclass(classes["unet"], diffusers.UNet2DConditionModel):
        came = classes["unet"].__name__
        raise UsageError(f"model: expected a UNet2DConditionModel in {name!r}, {_FAMILY}; got {came} ({kind})")
    return classes


def components_of(pipe: Any) -> dict[str, Any]:
    """The components of a diffusers pipeline, themselves: nothing is copied, moved or frozen.

    Raises:
        UsageError: a pipeline without a UNet (Stable Diffusion 3, Flux), or one whose weights are offloaded, of which
            a prior, which calls the networks in an order of its own, cannot know where they are.
    """
    kind = type(pipe).__name__
    found = {name: getattr(pipe, name, None) for name in COMPONENTS}
    missing = [name for name in ("unet", "vae", "scheduler") if found[name] is None]
    if missing:
        raise UsageError(f"pipe: expected a pipeline with unet, vae and scheduler; {kind} has no {', '.join(missing)}")
    for name, part in found.items():
        if not isinstance(part, nn.Module):
            continue
        how = offloading(part)
        if how is None and any(p.is_meta for p in part.parameters()):
            how = "(its weights are on meta): load them onto a device"
        if how is not None:
            raise UsageError(f"pipe: expected weights on a device; the {name} of this {kind} is offloaded {how}")
    configuration = getattr(pipe, "config", {})
    found["notes"] = {FORCE_ZEROS: configuration[FORCE_ZEROS]} if FORCE_ZEROS in configuration else {}
    return found
