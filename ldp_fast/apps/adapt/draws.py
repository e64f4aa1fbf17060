"""What a step draws: of (seed, step, sample, stream) alone, however the samples are divided over batches and ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ...runs.seeds import mixed_generator

# Streams of one sample: what the generator draws, what the guide draws. Those of `generators.sampling` are 1 and 2 of a
# third number 0, and meet none of these that is drawn alike.
LATENT, NOISE, GUIDE = 3, 4, 5
# Added to the sample's index where layers are looked at (`selection`), beside those that are trained with.
LOOKED_AT = 2**16


def carried(x: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """What was drawn on the CPU, on a device, without waiting for it.

    CUDA copies more than 64 KB from memory that is not pinned only once all that was asked for before is done.

    Args:
        x: on the CPU.
        device: where it is wanted.
        dtype: in place of its own.
    """
    x = x.to(dtype or x.dtype)  # before the copy, which would make it in memory that is not pinned
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


@dataclasses.dataclass(frozen=True)
class Draws:
    """The randomness of some samples of a step.

    Attributes:
        seed: of the run.
        step: steps done before this one.
        samples: indices of the samples in the step, one a row of the batch.
        views: words for the side that each sample's z shows, such as "low side"; None: it is not known, or not wanted.
    """

    seed: int
    step: int
    samples: tuple[int, ...]
    views: tuple[str, ...] | None = None

    def generators(self, stream: int = GUIDE) -> list[torch.Generator]:
        """A new generator a sample, on the CPU; the same at every call.

        Args:
            stream: who draws.
        """
        return [mixed_generator(self.seed, self.step, sample, stream) for sample in self.samples]

    def latents(self, size: int) -> Tensor:
        """z [B, size] ~ N(0, 1), float32, on the CPU."""
        return torch.stack([torch.randn(size, generator=generator) for generator in self.generators(LATENT)])

    def noises(self, shapes: Sequence[torch.Size], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Noise for layers, as `StyleGAN2.synthesis` takes it and draws it of generators of its own.

        Args:
            shapes: rows and columns of each layer.
            device: where it is wanted; it is drawn on the CPU, and copied once.
            dtype: of the tensors.

        Returns:
            [B, 1, rows, columns] ~ N(0, 1) for each layer.
        """
        generators = self.generators(NOISE)
        drawn = [torch.stack([torch.randn((1, *shape), generator=g) for g in generators]) for shape in shapes]
        flat = carried(torch.cat([x.flatten() for x in drawn]), device, dtype)
        parts = flat.split([x.numel() for x in drawn])
        return [part.view(x.shape) for part, x in zip(parts, drawn, strict=True)]
