"""A CLIP in float64 that is a few products: differentiable, of any size of picture, and quick."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class FakeClip:
    """The interface of `ldp_fast.clip.Clip`; embeddings of texts are drawn from their letters."""

    name, image_size, patch_size, context_length, embedding_size = "fake", 8, 4, 10, 5

    def __init__(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float64):
        self.device, self.dtype = torch.device(device), dtype
        generator = torch.Generator().manual_seed(5)
        self.mixing, self.tokens = (
            torch.randn(*shape, generator=generator, dtype=torch.float64).to(self.device, dtype)
            for shape in ((3 * 64, 5), (3 * 16, 6))
        )
        self.seen: list[Tensor] = []

    def image_embeddings(self, images: Tensor, *, whole: bool = False) -> Tensor:
        self.seen.append(images.detach())
        pixels = F.adaptive_avg_pool2d(images.to(self.dtype), 8)
        return torch.tanh(pixels.flatten(1) @ self.mixing) * 3

    def patch_tokens(self, images: Tensor, *, short_side: int | None = None, longest: int | None = None) -> Tensor:
        patches = F.unfold(images.to(self.dtype), 4, stride=4).mT @ self.tokens
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)

    def text_embeddings(self, captions: list[str], *, truncate: bool = False) -> Tensor:
        rows = []
        for caption in captions:
            seed = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big")
            rows.append(torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        return torch.stack(rows).to(self.device, self.dtype)


def fake(*args: Any) -> Any:
    return FakeClip(*args)
