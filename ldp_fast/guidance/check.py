"""One check of a model when a prior is made: what a network needs and a prior has not is found here, and named.

Only what can be known is looked at: configurations as diffusers and transformers write them, and the hooks that
diffusers and accelerate hang on modules. A network without them (a module of the host's own) passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import UsageError

if TYPE_CHECKING:
    from .models import LatentDiffusionModel

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What reads the features of another step in the place of computing its own: wrong where every step has another t.
REUSING = ("faster_cache", "fbc_", "mag_cache", "pyramid_attention_broadcast", "sea_cache", "taylorseer_cache")
# Parts of a pipeline that change what its UNet is given.
EXTRAS = ("controlnet", "adapter", "motion_adapter")
# Channels beside the latents' own four, as released networks have them.
BESIDES = {1: "a depth map", 3: "a small picture, for upscaling", 5: "a mask and masked latents, for inpainting"}


def bare(network: Any) -> Any:
    """The network inside the wrappers of torch.compile, of data parallelism and of peft."""
    while True:
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            network = network.module
        elif getattr(network, "_orig_mod", None) is not None:
            network = network._orig_mod
        elif type(network).__module__.startswith("peft.") and hasattr(network, "get_base_model"):
            network = network.get_base_model()
        else:
            return network


def configured(network: Any, name: str) -> Any:
    """An entry of a network's configuration; None if it is not there."""
    config = getattr(network, "config", None)
    if hasattr(config, name):
        return getattr(config, name)
    return config.get(name) if isinstance(config, dict) else None


def precision_of(network: nn.Module) -> torch.dtype:
    """The precision a network computes in: its first parameter's, or the one that layerwise casting casts it to."""
    for module in network.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                casts = [hook.compute_dtype for _, hook in _hooks(module) if hasattr(hook, "compute_dtype")]
                return casts[0] if casts else parameter.dtype
    return torch.get_default_dtype()


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a UNet wants of its text.

    Attributes:
        width: D of the embeddings; None where that is not known.
        pooled: whether it wants pooled embeddings, sizes and crops too (SDXL).
        pooled_width: E of the pooled embeddings; None where that is not known.
        time_width: what one of the six numbers of size and crop is embedded to.
    """

    width: int | None = None
    pooled: bool = False
    pooled_width: int | None = None
    time_width: int = 0


def wanted_by(unet: nn.Module) -> Wanted:
    """What the configuration of a UNet says of its text."""
    net = bare(unet)
    projected = configured(net, "encoder_hid_dim_type") == "text_proj"
    width = configured(net, "encoder_hid_dim" if projected else "cross_attention_dim")
    if not isinstance(width, int):
        width = None  # one a block, or unknown
    if configured(net, "addition_embed_type") != "text_time":
        return Wanted(width)
    inputs, time = (configured(net, n) for n in ("projection_class_embeddings_input_dim", "addition_time_embed_dim"))
    if not isinstance(inputs, int) or not isinstance(time, int):
        return Wanted(width, True)
    return Wanted(width, True, inputs - 6 * time, time)


def check_model(model: LatentDiffusionModel) -> None:
    """Checks every network of a model, and that they fit each other.

    Raises:
        UsageError: a network that a prior cannot serve; names it, what was expected and what came.
    """
    if not isinstance(model.unet, nn.Module):
        raise UsageError(f"unet: expected an nn.Module, got {type(model.unet).__name__}")
    check_unet(model.unet)
    check_hooks("unet", model.unet, casting=True)
    if isinstance(model.vae, nn.Module):
        check_hooks("vae", model.vae, casting=False)
        latents, channels = configured(model.vae, "latent_channels"), configured(bare(model.unet), "in_channels")
        if isinstance(latents, int) and isinstance(channels, int) and latents != channels:
            raise UsageError(
                f"vae: expected the UNet's {channels} channels, got {latents} of this {type(model.vae).__name__}"
            )
    _check_text_encoders(model)


def check_unet(unet: nn.Module) -> None:
    """Checks that a UNet is told no more than noisy latents, t and text.

    Raises:
        UsageError: it is told more; says what.
    """
    net = bare(unet)
    kinds = [k.__name__ for k in type(net).__mro__ if k.__module__.startswith("diffusers.")]
    kinds = [k for k in kinds if not k.endswith("Mixin")]
    if kinds and "UNet2DConditionModel" not in kinds:
        raise UsageError(
            f"unet: expected diffusers' UNet2DConditionModel, or a module of your own with its call; got {kinds[0]}"
        )
    channels, out = configured(net, "in_channels"), configured(net, "out_channels")
    if isinstance(channels, int) and isinstance(out, int) and channels != out:
        besides = BESIDES.get(channels - out, "another picture's latents" if channels == 2 * out else "other channels")
        reason = "a network that learns its variance" if out == 2 * channels else f"it is given {besides} as well"
        raise UsageError(f"unet: expected as many channels out as in, got {channels} in and {out} out: {reason}")
    _check_told(net)
    if precision_of(unet) not in FLOATS:
        raise UsageError(f"unet: expected weights in float16, bfloat16, float32 or float64, got {precision_of(unet)}")


def _check_told(net: Any) -> None:
    classes = [(n, configured(net, n)) for n in ("class_embed_type", "num_class_embeds")]
    guidance = configured(net, "time_cond_proj_dim")
    added = configured(net, "addition_embed_type")
    what = ""
    if any(value is not None for _, value in classes) or getattr(net, "class_embedding", None) is not None:
        said = ", ".join(f"{name}={value!r}" for name, value in classes if value is not None)
        what = f"class labels ({said or 'class_embedding'})"
    elif guidance is not None:
        what = f"an embedding of its guidance scale (time_cond_proj_dim={guidance}: a latent consistency model)"
    elif added not in (None, "text", "text_time"):
        what = f"image embeddings (addition_embed_type={added!r})"
    if what:
        raise UsageError(f"unet: expected a network that is told latents, t and text; this one wants {what}")
    check_hidden(net)


def check_hidden(net: Any) -> None:
    """Checks that no image prompt is wanted beside the text: an IP-Adapter may be loaded at any time.

    Raises:
        UsageError: one is wanted.
    """
    kind = getattr(getattr(net, "config", None), "encoder_hid_dim_type", None)
    if kind not in (None, "text_proj"):
        hint = "; unload_ip_adapter() takes an IP-Adapter out" if kind == "ip_image_proj" else ""
        raise UsageError(
            f"unet: expected a network that is told latents, t and text; this one wants image embeddings "
            f"(encoder_hid_dim_type={kind!r}){hint}"
        )


def check_pipe(pipe: Any) -> None:
    """Checks that a pipeline does not have parts that a prior would leave out silently.

    Raises:
        UsageError: it has such a part; says which.
    """
    score = getattr(getattr(pipe, "config", None), "requires_aesthetics_score", False)
    parts = [name for name in EXTRAS if getattr(pipe, name, None) is not None]
    check_parts("pipe", f"this {type(pipe).__name__}", parts, bool(score))


def check_parts(argument: str, what: str, parts: Collection[str], aesthetics_score: bool) -> None:
    """Checks what a pipeline is made of, whether it is there or in a folder.

    Args:
        argument: of the message.
        what: the pipeline's name in it.
        parts: their names.
        aesthetics_score: whether its network is told one.

    Raises:
        UsageError: a part that a prior would not use, or SDXL's refiner.
    """
    extras = [name for name in EXTRAS if name in parts]
    if extras:
        raise UsageError(
            f"{argument}: expected a pipeline that is its UNet, VAE and text encoders; the {extras[0]} of {what} "
            f"would not be used: hand its parts to LatentDiffusionPrior(unet, vae, scheduler, …)"
        )
    if aesthetics_score:
        raise UsageError(
            f"{argument}: expected a network that is told six numbers of size and crop; {what} wants five and an "
            f"aesthetic score among them (SDXL's refiner)"
        )


def _check_text_encoders(model: LatentDiffusionModel) -> None:
    first, second = model.text_encoder, model.text_encoder_2
    if first is None and second is None:
        return
    wanted = wanted_by(model.unet)
    if wanted.pooled and second is None:
        raise UsageError("text_encoder_2: this UNet (SDXL's) wants a second text encoder's embeddings too, got None")
    check_vocabularies(model)
    widths = [configured(bare(encoder), "hidden_size") for encoder in (first, second) if encoder is not None]
    known = all(isinstance(w, int) for w in widths)
    if wanted.pooled_width is not None:
        _check_projection(wanted, configured(bare(second), "projection_dim"))
    if known and wanted.width is not None and sum(widths) != wanted.width:
        raise UsageError(
            f"text_encoder: expected embeddings of the UNet's width {wanted.width}, got {' + '.join(map(str, widths))}"
        )


def check_vocabularies(model: LatentDiffusionModel) -> None:
    """Checks that tokenizers have words, and no more than their text encoders.

    Raises:
        UsageError: names the tokenizer.
    """
    for number in ("", "_2"):
        encoder = getattr(model, f"text_encoder{number}")
        if encoder is not None:
            _check_tokenizer(f"tokenizer{number}", getattr(model, f"tokenizer{number}"), encoder)


def _check_tokenizer(name: str, tokenizer: Any, encoder: nn.Module) -> None:
    """A vocabulary of special tokens alone gives every prompt the same embedding; one too long has no embeddings."""
    try:
        count, special = len(tokenizer), len(set(tokenizer.all_special_ids))
    except (TypeError, AttributeError):
        return
    rows = configured(bare(encoder), "vocab_size")
    if count <= special:
        raise UsageError(f"{name}: expected a vocabulary, got one of {count} tokens, all of them special")
    if isinstance(rows, int) and count > rows:
        raise UsageError(f"{name}: expected at most the text encoder's {rows} tokens, got {count}")


def _check_projection(wanted: Wanted, projection: Any) -> None:
    width = wanted.pooled_width
    if not isinstance(projection, int) or width == projection:
        return
    refiner = ": it wants five numbers of size, crop and aesthetic score (SDXL's refiner)"
    raise UsageError(
        f"unet: expected pooled embeddings of the second text encoder's width {projection}, got a network for {width} "
        f"beside six numbers of size and crop{refiner if width == projection - wanted.time_width else ''}"
    )


def _hooks(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Hooks of diffusers and of accelerate on one module, with their names."""
    registry = module.__dict__.get("_diffusers_hook")
    if registry is not None:
        yield from registry.hooks.items()
    hook = module.__dict__.get("_hf_hook")
    if hook is not None:
        yield from ((type(h).__name__, h) for h in getattr(hook, "hooks", (hook,)))


def offloading(network: nn.Module) -> str | None:
    """What moves a network's weights to their device and back, and how to load without; None if nothing does."""
    for module in network.modules():
        for name, hook in _hooks(module):
            if name == "CpuOffload":
                return "(enable_model_cpu_offload): use pipe.to(device)"
            if name == "AlignDevicesHook" and getattr(hook, "offload", False):
                return "(enable_sequential_cpu_offload): use pipe.to(device)"
            if "group_offloading" in name:
                return "(enable_group_offload): load without it"
    return None


def check_hooks(part: str, network: nn.Module, *, casting: bool) -> None:
    """Checks that a network's weights stay where and what they are.

    Args:
        part: what the network is called.
        network: with the hooks of accelerate and diffusers.
        casting: whether layerwise casting is served, which needs the network to be called.

    Raises:
        UsageError: they do not; says how to load without.
    """
    how = offloading(network)
    if how is not None:
        raise UsageError(f"{part}: expected weights that stay on their device; they are offloaded {how}")
    for module in network.modules():
        for name, hook in _hooks(module):
            if name.startswith(REUSING):
                raise UsageError(f"{part}: expected every step computed; a cache reuses another step's ({name})")
            if hasattr(hook, "compute_dtype") and not casting:
                raise UsageError(
                    f"{part}: expected weights in the precision they are used in; they are cast layer by layer "
                    f"(enable_layerwise_casting), from {hook.storage_dtype} to {hook.compute_dtype}"
                )
