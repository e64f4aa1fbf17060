"""text-to-3D on a CUDA device: no step waits for it, and what was made is measured there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldp_fast.apps.evaluate.judge import judge
from ldp_fast.apps.options import load_prior
from ldp_fast.apps.text_to_3d.configuration import resolve
from ldp_fast.apps.text_to_3d.run import begin
from ldp_fast.apps.text_to_3d.scene import Scene
from ldp_fast.apps.text_to_3d.sections import class_of
from ldp_fast.apps.text_to_3d.trainer import Trainer

from . import text_to_3d_runs as runs

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", ["latent-nerf", "jacobian-nerf"])
def test_no_step_waits_for_the_device(method: str) -> None:
    said: dict[str, Any] = {"prompt": "a red cube", "method": method, "device": "cuda", "steps": 3, "size": 8}
    said |= {"settings": {"noises": 2}, "steps_per_ray": 32}
    if method == "latent-nerf":
        said["refinement"] = {"steps": 1, "size": 64}
    plain = resolve({}, said)
    configuration = class_of(plain).from_plain(plain)
    prior = load_prior(configuration)
    trainer = Trainer(Scene(configuration, prior), prior)
    trainer.advance()  # compiles, allocates and updates the occupancy grid
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.advance()
        trainer.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    while trainer.step < trainer.total:
        trainer.advance()
    assert trainer.latest()["gradient_norm"] > 0
    found = judge(trainer.scene.eval(), "a red cube", size=8 if method == "jacobian-nerf" else 64, resolution=24)
    assert not found["right"] and 0 <= found["shape"]["iou"] < 0.8


def test_no_step_of_dream_fields_waits_either() -> None:
    trainer: Any = begin(runs.dream_fields(device="cuda", views=2))
    trainer.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.advance()
        trainer.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.latest()["gradient_norm"] > 0
