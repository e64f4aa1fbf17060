"""Where in a picture CLIP sees a text: the map that Text2LIVE starts its opacity from.

Source: omerbt/Text2LIVE `models/clip_relevancy.py`, after Chefer et al. 2021, Generic Attention-model Explainability.
There, of ViT-B/32's twelve blocks those after the eleventh count, which is the last one; here it is the last block of
any vision transformer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .augment import resized
from .losses import cosine
from .model import Clip
from .scaling import GradientScale


def relevancy_map(clip: Clip, images: Tensor, text: Tensor) -> Tensor:
    """How much each place of a picture counts for its cosine with a text: [B, 1, S, S] in [0, 1], S CLIP's size.

    The class token's attention in the last block times its gradient, what is positive of it, mean over heads, resized
    bilinearly from patches to pixels and stretched to [0, 1] for each picture.

    Args:
        clip: of transformers, with a vision transformer.
        images: [B, 3, H, W] in [0, 1]; squashed to S × S, nothing is cut off. Off their graph.
        text: embedding of the text, [E] or [1, E].

    Raises:
        UsageError: a CLIP whose last block cannot be looked into.
    """
    vision = getattr(clip.towers.network, "vision_model", None)
    if vision is None or not clip.patch_size:
        raise UsageError(f"clip: a relevancy map needs a CLIP of transformers, {clip.name} is not; give the map itself")
    side = clip.image_size
    with torch.no_grad():
        tokens = clip.patch_tokens(resized(images.detach(), side))
    # A clone is a tensor of which gradients can be taken, also where an enclosing inference mode made the other.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(tokens.device.type, enabled=False):
        weights, embedding = _last_block(clip, vision, tokens.clone())
        (slope,) = torch.autograd.grad(cosine(embedding, text.to(embedding.device).clone()).sum(), weights)
    seen = (weights.detach() * slope)[:, :, 0, 1:].clamp(min=0).mean(1)
    patches = side // clip.patch_size
    flat = F.interpolate(seen.view(-1, 1, patches, patches), (side, side), mode="bilinear", align_corners=False)
    low, high = flat.amin((1, 2, 3), keepdim=True), flat.amax((1, 2, 3), keepdim=True)
    return (flat - low) / (high - low).clamp(min=torch.finfo(flat.dtype).tiny)


def _last_block(clip: Clip, vision: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The last block and what comes after it, written out: fused attention has no weights to look at.

    Returns:
        The attention weights [B, heads, T, T], float32 and the start of the graph, and the image embeddings [B, E].
    """
    layer, x = vision.encoder.layers[-1], tokens.to(clip.dtype)
    attention = layer.self_attn
    normed = layer.layer_norm1(x)
    heads = int(vision.config.num_attention_heads)

    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (each(normed).unflatten(-1, (heads, -1)).transpose(1, 2) for each in projections)
    scores = (query.float() @ key.float().mT) / query.shape[-1] ** 0.5
    weights = scores.softmax(-1).detach().requires_grad_()
    scale = GradientScale()
    mixed = (scale.enter(weights).to(value.dtype) @ value).transpose(1, 2).flatten(2)
    x = x + attention.out_proj(mixed)
    x = x + layer.mlp(layer.layer_norm2(x))
    network: Any = clip.towers.network
    return weights, scale.leave(network.visual_projection(vision.post_layernorm(x[:, 0])).float())
