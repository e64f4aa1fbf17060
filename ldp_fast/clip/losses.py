"""The formulas of guidance by CLIP, on embeddings [.., E], tokens and opacities, in float32 also under autocast.

Sources: google-research `dreamfields/dreamfields/lib.py`; rinongal/StyleGAN-nada `ZSSGAN/criteria/clip_loss.py`;
omerbt/Text2LIVE `util/losses.py`, `util/util.py`, `CLIP/clip/model.py`. All have gradients for all of their inputs,
which are finite everywhere, also between equal vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Of unit embeddings: rounding of float16 towers makes differences of about this length out of nothing.
NADA_FLOOR = 1e-3
# What torch's cosine similarity has, and Text2LIVE with it.
TEXT2LIVE_FLOOR = 1e-8


def unit(x: Tensor) -> Tensor:
    """x / ‖x‖ along the last dimension, in float32 (float64 for float64)."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of the angle between x and y, which broadcast: [.., E] -> [..]."""
    return (unit(x) * unit(y)).sum(-1)


def spherical_distance(x: Tensor, y: Tensor) -> Tensor:
    """2·asin²(‖x̂ − ŷ‖ / 2) = θ²/2, θ the angle between x and y, which broadcast: [.., E] -> [..].

    Computed as 2·atan2²(‖x̂ − ŷ‖, ‖x̂ + ŷ‖), whose gradient is finite at θ = 0 and at θ = π, where asin's is not.
    """
    x, y = unit(x), unit(y)
    half = torch.atan2(torch.linalg.vector_norm(x - y, dim=-1), torch.linalg.vector_norm(x + y, dim=-1))
    return 2 * half.square()


def directional_distance(edit: Tensor, direction: Tensor, floor: float) -> Tensor:
    """1 − edit·d̂ / max(‖edit‖, floor), d̂ the unit direction: [.., E] -> [..], broadcast.

    That is 1 − cos(edit, direction) for edits longer than `floor`. Of shorter ones rounding leaves no direction: for
    them the cosine fades linearly to 0, so that the gradient at an edit of exactly zero is −d̂ / floor: finite, not
    zero, and towards the text. StyleGAN-NADA looks whether the edit is zero, which waits for the device, and then
    encodes the image once more with 1e-6 added to its pixels; the direction that this gives is chance.

    Args:
        edit: difference of the image embeddings.
        direction: difference of the text embeddings.
        floor: shortest edit that has a direction.
    """
    edit = edit.to(torch.promote_types(edit.dtype, torch.float32))
    length = torch.linalg.vector_norm(edit, dim=-1).clamp(min=floor)
    return 1 - (edit * unit(direction)).sum(-1) / length


def self_similarity(tokens: Tensor) -> Tensor:
    """Cosines between all tokens of an image, the class token too: [B, T, D] -> [B, T, T]."""
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    lengths = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    with torch.autocast(tokens.device.type, enabled=False):
        return tokens @ tokens.mT / (lengths @ lengths.mT).clamp(min=1e-8)


def structure_distance(tokens: Tensor, of: Tensor) -> Tensor:
    """Mean square difference of the self-similarities of two images' tokens, [B, T, D] each -> [B]."""
    return (self_similarity(tokens) - self_similarity(of)).square().mean((1, 2))


def sparsity(opacity: Tensor, l1: float = 0.01, l0: float = 0.01) -> Tensor:
    """l1·mean α + l0·mean(2σ(5α) − 1), of each image: [B, 1, H, W] -> [B]."""
    opacity = opacity.to(torch.promote_types(opacity.dtype, torch.float32)).flatten(1)
    return l1 * opacity.mean(1) + l0 * (2 * torch.sigmoid(5 * opacity) - 1).mean(1)


def subset_weights(count: int, generator: torch.Generator) -> Tensor:
    """Weights of a random subset of `count` things, [count], that sum to 1; on the generator's device.

    As Text2LIVE draws the texts of a step: n of 1 … count, then n of them with replacement, each of weight 1/n.
    """
    device = generator.device
    taken = torch.randint(1, count + 1, (), generator=generator, device=device)
    drawn = torch.randint(count, (count,), generator=generator, device=device)
    places = torch.arange(count, device=device)
    return ((drawn[:, None] == places) & (places[:, None] < taken)).sum(0) / taken
