"""Loads a model from the one file that people have of it: the CompVis layout of Stable Diffusion 1.x, 2.x and SDXL.

Such a file holds the networks' weights under names of its own and no configuration. diffusers translates the names
(`diffusers.loaders.single_file_utils`), `families` has the configurations, and nothing is asked of the hub.
"""

from __future__ import annotations

import importlib
import json
import pathlib
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from .components import as_path, listed, load_tokenizer, overflows, quietly, require_vocabularies, require_whole
from .families import FAMILIES, Family
from .vocabulary import clip_tokenizer

FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
Tensors = dict[str, torch.Tensor]
_UNET = "model.diffusion_model."
# Text encoders of transformers' CLIP; the others are OpenCLIP's.
_CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_PREFIXES = {
    "unet": (_UNET,),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (*_CLIP, "cond_stage_model.model."),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}
# Of a whole CLIP, the parts that its text encoder does not have; files of merged models carry them along.
_OF_CLIP = ("logit_scale", "text_projection.weight")
_KINDS = {"v1": ("sd1", "sd1-v"), "v2": ("sd2-base", "sd2-v"), "xl_base": ("sdxl", "sdxl-v")}


def load_single_file(path: pathlib.Path, dtype: torch.dtype, config: str | None, tokenizer: Any) -> dict[str, Any]:
    """The parts of a model in one `.safetensors`, on the CPU.

    Where a file holds weights and their moving averages (`model_ema.…`), the weights are taken, as diffusers does.

    Args:
        path: of the file.
        dtype: of the networks; a VAE that says `force_upcast` is in float32 where this is float16.
        config: the model's family (`families.FAMILIES`), or a folder in diffusers' format whose configurations are
            taken; None finds the family by the weights.
        tokenizer: a folder with a vocabulary, or a tokenizer; None is that of `config`, else CLIP's own.

    Raises:
        UsageError: a pickle; a model of another kind; weights of another family; a vocabulary of another size.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise UsageError(
            f"model: expected a .safetensors file, got {path.name}: other files are pickles, which run what is in them "
            f"when they are opened; convert it (torch.load(…, weights_only=True), safetensors.torch.save_file)"
        )
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    tensors = load_file(str(path))
    name = str(path)
    family = family_of(name, tensors, metadata, config)
    parts = networks(name, tensors, family, dtype)
    parts["scheduler"] = _class(family, "scheduler").from_config(family.configs["scheduler"])
    for component in ("tokenizer", "tokenizer_2"):
        if component in family.classes:
            parts[component] = _tokenizer(family, component, config, tokenizer, parts)
    require_vocabularies(name, parts)
    return parts


def family_of(name: str, tensors: Tensors, metadata: dict[str, str], config: str | None) -> Family:
    """What kind of model a file holds, by its weights as diffusers tells kinds apart, or as `config` says.

    What the network predicts is in no weight. It is taken from the file where the file says so (`modelspec` in its
    metadata, a tensor `v_pred`); the two kinds of Stable Diffusion 2 have to be told apart by `config` otherwise.

    Args:
        name: of the file, for messages.
        tensors, metadata: what the file holds.
        config: as for `load_single_file`.

    Raises:
        UsageError: another kind of model; a family that is not the file's; Stable Diffusion 2 without a hint.
    """
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    if not any(key.startswith(_UNET) for key in tensors):
        raise UsageError(f"model: expected a whole model in {name}, with weights under {_UNET}…; got {listed(tensors)}")
    try:
        kind = infer_diffusers_model_type(tensors)
    except (KeyError, IndexError, AttributeError, UnboundLocalError) as error:
        raise UsageError(
            f"model: expected Stable Diffusion 1.x, 2.x or SDXL in {name}; it is not one of these"
        ) from error
    if kind == "v1" and f"{_UNET}input_blocks.0.0.weight" not in tensors:
        # What diffusers calls a file that it does not know.
        raise UsageError(f"model: expected Stable Diffusion 1.x, 2.x or SDXL in {name}; it is not one of these")
    if kind not in _KINDS:
        raise UsageError(f"model: expected Stable Diffusion 1.x, 2.x or SDXL in {name}; diffusers says it is {kind!r}")
    if config is not None and config not in FAMILIES:
        return _family_in(config)
    allowed = _KINDS[kind]
    if config is not None:
        if config not in allowed:
            raise UsageError(f"config: expected {' or '.join(allowed)} for {name}, which is {kind!r}; got {config!r}")
        return FAMILIES[config]
    said = metadata.get("modelspec.prediction_type", "v" if "v_pred" in tensors else "")
    if kind == "v2" and not said:
        raise UsageError(
            f"config: expected sd2-base (512 px, predicts the noise) or sd2-v (768 px, predicts v) for {name}: both "
            f"kinds of Stable Diffusion 2 have the same weights' names and shapes, and this file does not say which"
        )
    family = FAMILIES[allowed[said.startswith("v")]]
    return family.with_schedule(rescale_betas_zero_snr=True) if "ztsnr" in tensors else family


def _family_in(config: str) -> Family:
    folder = as_path("config", config)
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"config: expected one of {', '.join(FAMILIES)}, or a folder with model_index.json; got {config!r}"
        )
    index = json.loads((folder / "model_index.json").read_text())
    parts = ("scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "vae", "unet")
    classes = {part: tuple(index[part]) for part in parts if index.get(part) and None not in index[part]}
    lacks = [part for part in ("scheduler", "vae", "unet") if part not in classes]
    if lacks:
        raise UsageError(f"config: expected {', '.join(lacks)} in model_index.json of {config!r}")
    files = {part: "scheduler_config.json" if part == "scheduler" else "config.json" for part in classes}
    configs = {
        part: {} if part.startswith("tokenizer") else json.loads((folder / part / file).read_text())
        for part, file in files.items()
    }
    return Family(config, classes, configs)


def networks(name: str, tensors: Tensors, family: Family, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The networks of a family, with the weights of a file.

    Raises:
        UsageError: weights that are missing, left over or of another shape; the part and the weights are named.
    """
    made: dict[str, nn.Module] = {}
    for part in ("text_encoder", "text_encoder_2", "vae", "unet"):
        if part in family.classes:
            what, model = f"the {part} of {name!r} ({family.title})", empty(family, part)
            made[part] = _filled(model, translated(what, part, model, tensors), dtype)
    return made


def translated(what: str, part: str, model: Any, tensors: Tensors) -> Tensors:
    """The weights of one network under the names of its class, and no others.

    Args:
        what: of the messages.
        part: unet, vae, text_encoder or text_encoder_2.
        model: the network, whose weights may be on meta.
        tensors: what the file holds.

    Raises:
        UsageError: as for `networks`.
    """
    from diffusers.loaders import single_file_utils as ldm

    # With the defaults of its class, which the translation looks up.
    config = dict(model.config) if part in ("unet", "vae") else {}
    prefix = next((p for p in _PREFIXES[part] if any(key.startswith(p) for key in tensors)), None)
    if prefix is None:
        raise UsageError(
            f"model: expected weights under {' or '.join(_PREFIXES[part])} for {what}: the file lacks them"
        )
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    try:
        if part == "unet":
            state = ldm.convert_ldm_unet_checkpoint(own, config)
        elif part == "vae":
            state = ldm.convert_ldm_vae_checkpoint(own, config)
        elif prefix in _CLIP:
            # Files of early merged models lack the name of transformers' inner module.
            bare = {key.removeprefix(prefix): tensor for key, tensor in own.items()}
            named = ("text_model.", *_OF_CLIP)
            state = {key if key.startswith(named) else f"text_model.{key}": tensor for key, tensor in bare.items()}
        else:
            state = ldm.convert_open_clip_checkpoint(model, own, prefix=prefix)
    except KeyError as error:
        raise UsageError(f"model: expected the weight {error} for {what}: it is not in the file") from error
    if part in ("unet", "vae"):
        _require_used(what, own, state)
    elif not hasattr(model, "text_model"):
        state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    wanted = model.state_dict()
    state = {key: tensor for key, tensor in state.items() if key in wanted or key not in _OF_CLIP}
    shapes = [(k, t.shape, wanted[k].shape) for k, t in state.items() if k in wanted and t.shape != wanted[k].shape]
    require_whole(what, model, wanted.keys() - state.keys(), state.keys() - wanted.keys(), shapes)
    return {key: state[key] for key in wanted}


def _class(family: Family, part: str) -> Any:
    library, cls = family.classes[part]
    return getattr(importlib.import_module(library), cls)


def empty(family: Family, part: str) -> Any:
    """The network without weights; buffers that it makes itself are there."""
    from accelerate import init_empty_weights

    cls, config = _class(family, part), family.configs[part]
    with quietly(), init_empty_weights(include_buffers=False):
        return cls.from_config(config) if hasattr(cls, "from_config") else cls(cls.config_class(**config))


def _filled(model: Any, state: Tensors, dtype: torch.dtype) -> nn.Module:
    # Copies: the tensors of the file are views of it, and another program may replace the file.
    precision = torch.float32 if overflows(model, dtype) else dtype
    model.load_state_dict({key: t.to(precision, copy=True).contiguous() for key, t in state.items()}, assign=True)
    return model.eval()


def _require_used(what: str, tensors: Tensors, state: Tensors) -> None:
    """diffusers' translation passes over names it does not know: every weight has to be somewhere in its result."""
    used = {(tensor.data_ptr(), tensor.numel()) for tensor in state.values()}
    unused = [key for key, tensor in tensors.items() if (tensor.data_ptr(), tensor.numel()) not in used]
    if unused:
        raise UsageError(f"model: expected only the weights of {what}: {len(unused)} unexpected ({listed(unused)})")


def _tokenizer(family: Family, part: str, config: str | None, given: Any, parts: dict[str, Any]) -> Any:
    folder = as_path("config", config) / part if config is not None and config not in FAMILIES else None
    if given is None and folder is not None and folder.is_dir():
        return load_tokenizer(_class(family, part), str(folder), what=f"the {part} of {config!r}")
    if given is not None and not isinstance(given, (str, pathlib.Path)):
        return given
    limit = parts[part.replace("tokenizer", "text_encoder")].config.max_position_embeddings
    return clip_tokenizer(given, family.configs[part].get("pad_token", "<|endoftext|>"), limit)
