"""Models as one file: the names that CompVis' code and Stability's gave to the weights of diffusers' modules."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def unet_tensors(unet: Any) -> Tensors:
    """A UNet's weights under `model.diffusion_model.`."""
    step, named = unet.config.layers_per_block + 1, {}
    attends = {int(m[1]) for key in unet.state_dict() if (m := re.match(r"up_blocks\.(\d+)\.attentions", key))}
    for key, tensor in unet.state_dict().items():
        layer, kind = key.rsplit(".", 1)
        if layer in _TOP:
            name = _TOP[layer]
        elif layer.startswith("mid_block"):
            _, what, number, rest = layer.split(".", 3)
            name = f"middle_block.{2 * int(number) if what == 'resnets' else 1}.{_RESNET.get(rest, rest)}"
        else:
            side, block, what, number, rest = layer.split(".", 4)
            down = side == "down_blocks"
            at = int(block) * step + int(number) + down
            name = f"{'input' if down else 'output'}_blocks."
            if what == "resnets":
                name += f"{at}.0.{_RESNET[rest]}"
            elif what == "attentions":
                name += f"{at}.1.{rest}"
            elif down:
                name += f"{at + step - 1}.0.op"
            else:
                name += f"{at + step - 1}.{1 + (int(block) in attends)}.conv"
        named[f"model.diffusion_model.{name}.{kind}"] = tensor
    return named


def vae_tensors(vae: Any) -> Tensors:
    """A VAE's weights under `first_stage_model.`, its attention as 1×1 convolutions."""
    levels, named = len(vae.config.block_out_channels), {}
    for key, tensor in vae.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        if "mid_block.attentions.0." in name:
            side, rest = name.split(".mid_block.attentions.0.")
            layer, kind = rest.rsplit(".", 1)
            name = f"{side}.mid.attn_1.{_ATTENTION[layer]}.{kind}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        named[f"first_stage_model.{name}"] = tensor
    return named


def clip_tensors(encoder: Any, prefix: str) -> Tensors:
    """A text encoder's weights as transformers named them before 5.6, with the buffer that files carry."""
    named = {f"text_model.{k.removeprefix('text_model.')}": t for k, t in encoder.state_dict().items()}
    named["text_model.embeddings.position_ids"] = torch.arange(encoder.config.max_position_embeddings)[None]
    return {prefix + key: tensor for key, tensor in named.items()}


def open_clip_tensors(encoder: Any, prefix: str) -> Tensors:
    """A text encoder's weights as OpenCLIP names them: query, key and value in one matrix."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in encoder.state_dict().items()}
    named = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.ones(()),
    }
    if "text_projection.weight" in state:
        named["text_projection"] = state["text_projection.weight"].T
    for number in range(encoder.config.num_hidden_layers):
        layer, block = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            three = [state[f"{layer}self_attn.{which}_proj.{kind}"] for which in "qkv"]
            named[f"{block}attn.in_proj_{kind}"] = torch.cat(three)
            named[f"{block}attn.out_proj.{kind}"] = state[f"{layer}self_attn.out_proj.{kind}"]
            for ours, theirs in _OPEN_CLIP.items():
                named[f"{block}{theirs}.{kind}"] = state[f"{layer}{ours}.{kind}"]
    return {prefix + key: tensor for key, tensor in named.items()}


def write(path: pathlib.Path, tensors: Tensors, **metadata: str) -> pathlib.Path:
    """The file; tensors that share memory are copied."""
    save_file({k: t.contiguous().clone() for k, t in tensors.items()}, path, metadata={"format": "pt", **metadata})
    return path
