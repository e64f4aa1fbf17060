"""From the tensors of another repository's StyleGAN2, by their names there, to ours."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from .layers import FIR
from .stylegan2 import Settings, StyleGAN2

LISTED = 6  # of what does not fit
Theirs = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Found:
    """A generator as it was found in a file.

    Attributes:
        origin: what has written such files.
        settings: its sizes, as a few of its tensors say them (`settings_of`).
        tensors: by their names there.
        theirs: the name there of one of ours.
        notes: what is to be said.
    """

    origin: str
    settings: Settings
    tensors: Mapping[str, Tensor]
    theirs: Theirs
    notes: list[str] = dataclasses.field(default_factory=list)


def settings_of(
    tensors: Mapping[str, Tensor], theirs: Theirs, multiplier: float = 0.01, clamp: float | None = None
) -> Settings:
    """The sizes of a generator, from the shapes of its tensors.

    Args:
        tensors: by their names there.
        theirs: the name there of one of ours.
        multiplier, clamp: what shapes do not say.

    Raises:
        UsageError: a tensor that says a size is missing, or they do not make a generator.
    """

    def size(own: str, axis: int) -> int:
        name = theirs(own)
        if name not in tensors:
            raise UsageError(f"is not a StyleGAN2 that is known: {name} is missing")
        if tensors[name].ndim < -axis:
            raise UsageError(f"has {name} {list(tensors[name].shape)}: expected {-axis} dimensions")
        return tensors[name].shape[axis]

    def count(pattern: str) -> int:
        number = 0
        while theirs(pattern.format(number)) in tensors:
            number += 1
        return number

    stages = (count("convs.{}.weight") + 1) // 2
    channels = [size("constant", -3), *(size(f"convs.{2 * stage}.weight", -4) for stage in range(stages))]
    try:
        return Settings(
            resolution=4 << stages,
            channels=tuple(channels),
            z_dim=size("style.fc.0.weight", -1),
            w_dim=size("conv1.modulation.weight", -1),
            mapping_layers=count("style.fc.{}.weight"),
            mapping_multiplier=multiplier,
            clamp=clamp,
        )
    except UsageError as error:
        raise UsageError(f"has sizes that do not make a generator: {error}") from None


def shapes_of(s: Settings) -> dict[str, list[int]]:
    """The shapes of a generator's state, by name, without making it, for it may not fit into memory.

    On torch's meta device it would be made in a line, after ten seconds in which torch imports its compiler.
    """
    shapes: dict[str, list[int]] = {"w_mean": [s.w_dim], "constant": [s.channels[0], 4, 4]}
    for layer in range(s.mapping_layers):
        shapes[f"style.fc.{layer}.weight"] = [s.w_dim, s.w_dim if layer else s.z_dim]
        shapes[f"style.fc.{layer}.bias"] = [s.w_dim]

    def modulated(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = [outputs, inputs, kernel, kernel]
        shapes[f"{name}.bias"] = [outputs]
        shapes[f"{name}.modulation.weight"] = [inputs, s.w_dim]
        shapes[f"{name}.modulation.bias"] = [inputs]

    def styled(name: str, inputs: int, outputs: int, side: int) -> None:
        modulated(name, inputs, outputs, 3)
        shapes[f"{name}.noise_strength"], shapes[f"{name}.noise"] = [], [side, side]

    styled("conv1", s.channels[0], s.channels[0], 4)
    modulated("to_rgb1", s.channels[0], 3, 1)
    for stage, (inputs, outputs) in enumerate(itertools.pairwise(s.channels)):
        styled(f"convs.{2 * stage}", inputs, outputs, 8 << stage)
        styled(f"convs.{2 * stage + 1}", outputs, outputs, 8 << stage)
        modulated(f"to_rgbs.{stage}", outputs, 3, 1)
    return shapes


def build(found: Found) -> StyleGAN2:
    """Makes the generator, in float32, in evaluation mode and without gradients of its parameters.

    Fixed noise that is missing is drawn, with a seed of 0, and a w̄ that is missing is computed; a note says so.

    Raises:
        UsageError: shapes that do not fit together, missing or unknown tensors: they are listed; NaN or infinity.
    """
    sizes = shapes_of(found.settings)
    names = {own: found.theirs(own) for own in sizes}
    wrong = _misfits(found, names, sizes)
    if wrong:
        more = [f"and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        s = found.settings
        raise UsageError(
            f"does not hold together as a generator of {s.resolution} pixels, channels {list(s.channels)}, w of "
            f"{s.w_dim} and {s.mapping_layers} mapping layers: {'; '.join([*wrong[:LISTED], *more])}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(found.settings)
    state = generator.state_dict()
    for own, name in names.items():
        if name in found.tensors:
            state[own] = found.tensors[name].to(torch.float32).reshape(sizes[own])
            if not bool(state[own].isfinite().all()):
                raise UsageError(f"has NaN or infinity in {name}")
    generator.load_state_dict(state)
    if any(own.endswith(".noise") and name not in found.tensors for own, name in names.items()):
        found.notes.append("its fixed noise is missing: it was drawn anew")
    if names["w_mean"] not in found.tensors:
        generator.average()
        found.notes.append("its mean w is missing: it was computed from 4096 z")
    return generator.eval().requires_grad_(False)


def check_size(tensors: Mapping[str, Tensor], most: int) -> None:
    """Checks that tensors are not much larger than what they were read from, which overlapping ones may claim to be.

    Args:
        tensors: those that repeat numbers, as an expanded tensor does, and others; each group may be as large.
        most: bytes of the file.

    Raises:
        UsageError: they are.
    """
    sizes = {True: 0, False: 0}
    for x in tensors.values():
        sizes[any(length > 1 and step == 0 for length, step in zip(x.shape, x.stride(), strict=True))] += x.nbytes
    if max(sizes.values()) > most:
        raise UsageError(f"is damaged: {most} bytes claim to be tensors of {sum(sizes.values())}")


def check_filter(name: str, kernel: Tensor, gain: float) -> None:
    """Checks that a filter is [1, 3, 3, 1] along both axes, and its sum a gain.

    Raises:
        UsageError: it is another.
    """
    line = torch.tensor(FIR)
    expected = torch.outer(line, line) / line.sum() ** 2
    total = kernel.sum() if kernel.shape == expected.shape else torch.zeros(())
    if not bool(total > 0) or not torch.allclose(kernel.float() / total, expected, atol=1e-6):
        raise UsageError(f"has another filter, {name} {list(kernel.shape)}: expected [1, 3, 3, 1] along both axes")
    if not math.isclose(float(total), gain, rel_tol=1e-3):
        raise UsageError(f"has another filter, {name} of sum {float(total):.4g}: expected {gain:g}")


def _replaceable(own: str) -> bool:
    return own == "w_mean" or own.endswith(".noise")


def _misfits(found: Found, names: Mapping[str, str], sizes: Mapping[str, list[int]]) -> list[str]:
    """What is missing, of another shape (but for axes of length 1), or not known."""
    wrong = []
    for own, name in names.items():
        expected = sizes[own]
        if name not in found.tensors:
            if not _replaceable(own):
                wrong.append(f"{name} {expected} is missing")
        elif _lengths(found.tensors[name].shape) != _lengths(expected):
            wrong.append(f"{name} is {list(found.tensors[name].shape)}, expected {expected}")
    known = {*names.values()}
    return wrong + [f"{name} {list(x.shape)} is not known" for name, x in found.tensors.items() if name not in known]


def _lengths(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]
