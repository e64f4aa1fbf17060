"""The relevancy map against attention weights that transformers itself gives, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ldp_fast import ClipGuidance, UsageError
from ldp_fast.clip import Clip
from ldp_fast.clip.relevancy import relevancy_map

from .fake import fake


def test_it_is_the_gradient_of_the_last_attention_times_itself() -> None:
    clip, images = Clip.load("primitives"), torch.rand(2, 3, 128, 128)
    text = clip.text_embeddings(["a red cube"])
    found = relevancy_map(clip, images, text)
    network: Any = Clip.load("primitives").towers.network
    network.set_attn_implementation("eager")
    pixels = (images - clip._mean) / clip._std
    # The input has a graph, so that the weights have one: those of the networks are frozen.
    seen = network.vision_model(pixel_values=pixels.requires_grad_(), output_attentions=True)
    embedding = network.visual_projection(seen.pooler_output)
    (slope,) = torch.autograd.grad(F.cosine_similarity(embedding, text).sum(), seen.attentions[-1])
    for b in range(2):
        total = torch.zeros(8, 8)
        for head in range(slope.shape[1]):
            total += (slope[b, head, 0, 1:] * seen.attentions[-1][b, head, 0, 1:]).clamp(min=0).view(8, 8).detach()
        wanted = F.interpolate(total[None, None], (128, 128), mode="bilinear")[0, 0]
        wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
        assert torch.allclose(found[b, 0], wanted, atol=1e-4)
    assert found.shape == (2, 1, 128, 128) and found.min() == 0 and found.max() == 1 and not found.requires_grad


def test_pictures_are_squashed_and_a_uniform_map_is_zero() -> None:
    clip = Clip.load("primitives")
    text = clip.text_embeddings(["a red cube"])
    assert relevancy_map(clip, torch.rand(1, 3, 40, 72), text).shape == (1, 1, 128, 128)
    found = relevancy_map(clip, torch.rand(1, 3, 40, 72), torch.zeros_like(text))
    assert found.isfinite().all()


def test_text2live_starts_from_it() -> None:
    clip, before = Clip.load("primitives"), torch.rand(1, 3, 48, 48)
    layer = torch.rand(1, 4, 48, 48)
    terms = {"composition": 0, "screen": 0, "structure": 0, "sparsity": 0}
    guidance = ClipGuidance.text2live(clip, "a red cube", "a blue cube", bootstrap_text="a cube", **terms)
    found, statistics = guidance.gradient(layer, source=before)
    assert found[:, 3:].any() and not found[:, :3].any()
    given = relevancy_map(clip, before, clip.text_embeddings(["a cube"]))
    other = guidance(layer, source=before, relevance=given).statistics.terms["bootstrap"]
    assert torch.allclose(statistics.terms["bootstrap"], other)


def test_another_kind_of_clip_is_refused() -> None:
    clip = fake()
    clip.towers = type("Towers", (), {"network": object()})()
    with pytest.raises(UsageError, match=r"^clip: .*fake is not"):
        relevancy_map(clip, torch.rand(1, 3, 8, 8), torch.rand(1, 5))
