"""Finds and loads the parts of a latent diffusion model: embedded, a folder in diffusers' format, or a hub name."""

from __future__ import annotations

import contextlib
import importlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import UsageError
from .prompts import FORCE_ZEROS

# Embedded models are folders of the package; the zoo makes them, this layer only has to find them.
ZOO = pathlib.Path(__file__).parent.parent / "zoo"
COMPONENTS = ("unet", "vae", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")


def embedded_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))


def locate(name: str) -> str:
    """The folder of an embedded model or of a path, or the hub name as it is.

    Raises:
        UsageError: a path that is no model folder.
    """
    if name in embedded_models():
        return str(ZOO / name)
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UsageError(f"model: {name} is a folder without model_index.json: not a model in diffusers' format")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UsageError(f"model: there is no folder {name}")
    if "/" not in name:
        raise UsageError(
            f"model: {name!r} is neither an embedded model ({', '.join(embedded_models()) or 'none installed'}), nor a "
            f"folder in diffusers' format, nor a hub name (owner/name)"
        )
    return name


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bar for every small file it reads."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_components(name: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The components named in `model_index.json`, frozen, in evaluation mode, on `device` in `dtype`.

    The prior's own notes on a model (`ldp_fast.json` beside it: recommended guidance scale, known words) come as
    `notes`, an empty dictionary where there are none.

    Raises:
        UsageError: the model cannot be found or read; the reason is in the message.
    """
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    where = locate(name)
    try:
        index = DiffusionPipeline.load_config(where)
        found: dict[str, Any] = {}
        for component in COMPONENTS:
            library, kind = index.get(component) or (None, None)
            if library is None or kind is None:
                continue
            cls = getattr(importlib.import_module(library), kind)
            kwargs = {"torch_dtype": dtype} if issubclass(cls, torch.nn.Module) else {}
            with quietly():
                part = cls.from_pretrained(where, subfolder=component, **kwargs)
                if component == "vae" and dtype == torch.float16 and getattr(part.config, "force_upcast", False):
                    # A VAE that says so overflows in float16, in the decoder's features and in the picture.
                    part = cls.from_pretrained(where, subfolder=component, torch_dtype=torch.float32)
            if isinstance(part, torch.nn.Module):
                part = part.to(device).eval().requires_grad_(False)
            found[component] = part
    except (OSError, ValueError, AttributeError, ImportError, RuntimeError, AssertionError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hub = "" if pathlib.Path(where).is_dir() else " (from the hub; without a network, give a folder)"
        raise UsageError(f"model: could not load {name!r}{hub}: {reason}") from error
    missing = [c for c in ("unet", "vae", "scheduler") if c not in found]
    if missing:
        raise UsageError(f"model: {name!r} has no {', '.join(missing)} in its model_index.json")
    notes = pathlib.Path(where) / "ldp_fast.json"
    found["notes"] = json.loads(notes.read_text()) if notes.is_file() else {}
    if FORCE_ZEROS in index:
        found["notes"][FORCE_ZEROS] = index[FORCE_ZEROS]
    return found


def components_of(pipe: Any) -> dict[str, Any]:
    """The components of a diffusers pipeline, themselves: nothing is copied, moved or frozen.

    Raises:
        UsageError: a pipeline without a UNet (Stable Diffusion 3, Flux), or one whose weights are offloaded.
    """
    kind = type(pipe).__name__
    found = {name: getattr(pipe, name, None) for name in COMPONENTS}
    missing = [name for name in ("unet", "vae", "scheduler") if found[name] is None]
    if missing:
        raise UsageError(f"pipe: expected a pipeline with unet, vae and scheduler; {kind} has no {', '.join(missing)}")
    for name, part in found.items():
        if isinstance(part, torch.nn.Module) and any(p.device.type == "meta" for p in part.parameters()):
            raise UsageError(
                f"pipe: expected weights on a device; the {name} of this {kind} is offloaded "
                f"(enable_sequential_cpu_offload): use pipe.to(device)"
            )
    configuration = getattr(pipe, "config", {})
    found["notes"] = {FORCE_ZEROS: configuration[FORCE_ZEROS]} if FORCE_ZEROS in configuration else {}
    return found
