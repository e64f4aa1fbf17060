"""The field's CUDA kernels keep the rule for tolerances, on tensor cores that cut off where others round.

The harness's mma adds as the hardware does (cuda_on_cpu/tensor_core.h), so that what a float32 accumulator inside of a
tensor core loses is lost here too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import reference
from ldp_fast.reference.latent_field import split_weights, to_unit

from ..cuda_on_cpu import harness
from ..ops.test_latent_field import network
from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .test_latent_field import SOURCES

DRIVER = harness.ROOT / "tests" / "csrc" / "latent_field_rule_driver.cpp"
SIZE = 256
NAMES = ("density", "latents", "grad_encoding", "grad_weights", "grad_positions")

FIELDS = {
    "two-layers-of-64": samples.latent_field.Field(samples.hash_grid.Grid(n_levels=16, growth=1.2)),
    "two-layers-of-128": samples.latent_field.Field(samples.hash_grid.Grid(n_levels=16, growth=1.2), hidden=128),
    "four-layers-with-biases": samples.latent_field.Field(
        samples.hash_grid.Grid(n_levels=8, growth=1.3), hidden=32, layers=4, bias=True
    ),
}


def run(
    programme: Path, made_of: samples.latent_field.Field, made: dict[str, Any], half: bool, folder: Path
) -> list[Tensor]:
    """Density, latents, encoding, and the gradients to the encoding, the weights and the positions."""
    size = len(made["positions"])
    offsets, resolutions, scales, *_ = made["layout"]
    levels = [n for i, r in enumerate(resolutions) for n in (offsets[i + 1] - offsets[i], r, scales[i])]
    numbers = [size, made_of.hidden, made_of.layers, made_of.channels, made_of.bias, half, made_of.bound]
    numbers += [made_of.blob_strength, made_of.blob_std, len(resolutions), made_of.grid.n_features, *levels]
    tensors = [made[name].flatten() for name in ("positions", "table", "weights", "grad_density", "grad_latents")]
    torch.cat([torch.tensor(numbers, dtype=torch.float64), *tensors]).numpy().tofile(folder / "in")
    harness.succeed(programme, str(folder / "in"), str(folder / "out"))
    shapes = [(size,), (size, made_of.channels), (size, made_of.encoding), (size, made_of.encoding)]
    shapes += [(made_of.n_weights,), (size, 3)]
    flat = torch.frombuffer(bytearray((folder / "out").read_bytes()), dtype=torch.float32)
    parts = flat.split([torch.Size(shape).numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def inputs(made_of: samples.latent_field.Field, one_sign: bool, size: int) -> dict[str, Any]:
    """Samples, with weights that add terms of both signs, or of one: what is always cut off then adds up."""
    made = samples.latent_field.off_faces(samples.latent_field.inputs(made_of, size))
    if one_sign:
        # Averages, so that the density's exponent stays what it is in use.
        made |= {"weights": made["weights"].abs() * 2 * made_of.hidden**-0.5}
        made |= {name: made[name].abs() for name in ("table", "grad_density", "grad_latents")}
    kept = off_rectifiers(made_of, samples.widen(made))
    assert kept.sum() > 0.8 * size
    return made | {name: made[name][kept] for name in ("positions", "grad_density", "grad_latents")}


def off_rectifiers(made_of: samples.latent_field.Field, made: dict[str, Any]) -> Tensor:
    """[S], which samples have no rectifier whose argument is so near 0 that float16 factors may give it another sign.

    Behind such a one a gradient is wrong by all that passes it, however right the products are.
    """
    x = reference.hash_grid(to_unit(made["positions"], made_of.bound), made["table"], None, None, *made["layout"])
    hidden, layers, channels, bias, *_ = made["network"]
    off = torch.ones(len(x), dtype=torch.bool)
    for matrix, offset in split_weights(made["weights"], x.shape[1], hidden, layers, channels, bias)[:-1]:
        offset = torch.zeros(len(matrix), dtype=x.dtype) if offset is None else offset
        argument, terms = x @ matrix.T + offset, x.abs() @ matrix.T.abs() + offset.abs()
        off &= (argument.abs() > 2**-13 * terms).all(1)
        x = argument.relu()
    return off


def textbook(made: dict[str, Any], encoding: Tensor, half: bool = False) -> tuple[Tensor, ...]:
    """Outputs and gradients of the network as one writes it, from the encodings that the kernels had."""
    made = made | {name: made[name].clone().requires_grad_() for name in ("weights", "positions")}
    encoding = encoding.to(made["weights"].dtype).requires_grad_()
    with torch.autocast("cpu", torch.float16, enabled=half):
        density, latents = network(made, encoding)
    inputs = encoding, made["weights"], made["positions"]
    return (
        density,
        latents,
        *torch.autograd.grad((density, latents), inputs, (made["grad_density"], made["grad_latents"])),
    )


def judge(
    programme: Path, made_of: samples.latent_field.Field, half: bool, one_sign: bool, folder: Path, size: int = SIZE
) -> None:
    """Holds what the driver computes to the rule.

    Args:
        programme: the driver.
        made_of: the field.
        half: whether products take float16 numbers.
        one_sign: see `inputs`.
        folder: for the driver's files.
        size: number of samples, of which a few are left out (`off_rectifiers`).
    """
    made = inputs(made_of, one_sign, size)
    density, latents, encoding, *grads = run(programme, made_of, made, half, folder)
    eager, truth = textbook(made, encoding, half), textbook(samples.widen(made), encoding)
    for x, e, t, what in zip((density, latents, *grads), eager, truth, NAMES, strict=True):
        assert_close(x, e, t, factor=GRADIENT if what.startswith("grad") else OUTPUT, what=what)


@pytest.mark.parametrize("one_sign", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_the_kernels_keep_the_rule(name: str, half: bool, one_sign: bool, tmp_path: Path) -> None:
    judge(harness.build(DRIVER, SOURCES), FIELDS[name], half, one_sign, tmp_path)
