"""Compositing's CUDA kernels, run on the CPU, keep the rule for tolerances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ..cuda_on_cpu import harness
from ..support import naive_composite as naive
from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close

DRIVER = harness.ROOT / "tests" / "csrc" / "composite_rule_driver.cpp"
SOURCES = ["composite/composite_fwd.cu", "composite/composite_bwd.cu"]
ALL = 63  # every output has a gradient


def run(programme: Path, inputs: dict[str, Any], folder: Path) -> list[Tensor]:
    """The outputs, and the gradients to density, values and background where the outputs have `factors`."""
    (size, channels), rays = inputs["values"].shape, len(inputs["ray_offsets"]) - 1
    outputs: list[tuple[int, ...]] = [(rays, channels), (rays,), (rays,), (size,), (rays,), (rays,)]
    factors = [torch.linspace(-1, 1, torch.Size(s).numel(), dtype=torch.float64) for s in outputs]
    numbers = [size, rays, channels, inputs["early_stop"], inputs["emptiness_scale"]]
    names = ("density", "values", "distances", "steps", "ray_offsets", "background")
    tensors = [*(inputs[name].flatten().double() for name in names), *factors]
    torch.cat([torch.tensor(numbers, dtype=torch.float64), *tensors]).numpy().tofile(folder / "in")
    harness.succeed(programme, str(folder / "in"), str(folder / "out"))
    flat = torch.frombuffer(bytearray((folder / "out").read_bytes()), dtype=torch.float32)
    shapes = [*outputs, (size,), (size, channels), (rays, channels)]
    parts = flat.split([torch.Size(shape).numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def judge(programme: Path, channels: int, early_stop: float, folder: Path) -> None:
    """Holds what the driver computes to the rule.

    Args:
        programme: the driver.
        channels: C.
        early_stop: 0 for rays that never stop.
        folder: for the driver's files.
    """
    inputs = samples.composite.inputs(
        channels=channels, density=4.0 if early_stop == 0.0 else 30.0, early_stop=early_stop
    )
    found = run(programme, inputs, folder)
    plain, truth = naive.textbook(**inputs), naive.textbook(**samples.widen(inputs))
    for x, e, t, what in zip(found[:6], plain, truth, naive.NAMES, strict=True):
        assert_close(x, e, t, factor=OUTPUT, what=what)
    plain, truth = (naive.gradients(naive.textbook, made, ALL) for made in (inputs, samples.widen(inputs)))
    for x, e, t, what in zip(found[6:], plain, truth, ("density", "values", "background"), strict=True):
        # A weight's gradient times what is behind it, minus a sum over all weights behind: they may cancel.
        assert_close(x, e, t, factor=GRADIENT, what=f"grad_{what}", condition=8.0)


@pytest.mark.parametrize("early_stop", [0.0, 1e-3])
@pytest.mark.parametrize("channels", [3, 4, 33])
def test_the_kernels_keep_the_rule(channels: int, early_stop: float, tmp_path: Path) -> None:
    judge(harness.build(DRIVER, SOURCES), channels, early_stop, tmp_path)
