"""Guidance by CLIP on a CUDA device: no mode of any way waits for it, and draws stay there."""

from __future__ import annotations

import pytest
import torch

from ldp_fast import ClipGuidance
from ldp_fast.clip import Clip

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("way", ["cosine", "directional", "text2live"])
def test_no_call_waits_for_the_device(way: str) -> None:
    clip = Clip.load("primitives", "cuda")
    layer, before = torch.rand(1, 4, 40, 48, device="cuda"), torch.rand(1, 3, 40, 48, device="cuda")
    if way == "cosine":
        guidance, inputs = ClipGuidance.cosine(clip, "a red cube", views=2), {}
    elif way == "directional":
        guidance, inputs = ClipGuidance.directional(clip, "a red cube", "a blue cube"), {"source": before}
        layer = before  # a direction of zero
    else:
        guidance = ClipGuidance.text2live(clip, "a red cube", "a blue cube", bootstrap_text="a cube", views=2)
        inputs = {"source": before}
    guidance.gradient(layer, **inputs)  # loads, compiles and chooses algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        g, statistics = guidance.gradient(layer, step=1, **inputs)
        leaf = layer.clone().requires_grad_()
        guidance(leaf, step=1, **inputs).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert leaf.grad is not None and torch.allclose(g, leaf.grad, rtol=1e-3, atol=1e-5)
    assert all(x.device.type == "cuda" for x in statistics.terms.values())
    assert g.isfinite().all() and g.abs().sum() > 0
