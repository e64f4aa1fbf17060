"""Adaptation on a CUDA device: no step waits for it, and what is made can be loaded anywhere."""

from __future__ import annotations

import pathlib

import pytest
import torch

from ldp_fast.apps.adapt.run import begin
from ldp_fast.cli import main
from ldp_fast.generators import load

from . import adapt_stub as stub

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("guidance", ["ldp", "lsd", "clip-directional"])
def test_no_step_waits_for_the_device(guidance: str, tmp_path: pathlib.Path) -> None:
    said = {"guidance": guidance, "device": "cuda", "steps": 3, "noise": "fresh", "ema": 0.9}
    experiment = begin(stub.configuration(stub.saved(tmp_path / "tiny"), **said))
    experiment.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        experiment.advance()
        experiment.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert experiment.latest()["gradient_norm"] > 0 and not experiment.not_finite()


def test_a_run_on_a_gpu_leaves_a_generator_for_any_device(tmp_path: pathlib.Path) -> None:
    generator, out = stub.saved(tmp_path / "tiny"), tmp_path / "run"
    words = ["--device", "cuda", "--steps", "2", "--samples", "2", "--frames", "2", "--out", str(out)]
    assert main(["adapt", stub.PROMPT, "--generator", generator, *words]) == 0
    adapted = load(out / "generator")
    assert next(adapted.parameters()).device.type == "cpu" and (out / "samples" / "000001.png").exists()
