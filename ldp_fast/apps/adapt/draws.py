"""What a step draws: of (seed, step, sample, stream) alone, however the samples are divided over batches and ranks."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ...runs.seeds import mixed_generator

# Streams of one sample: what the generator draws, what the guide draws. Those of `generators.sampling` are 1 and 2 of a
# third number 0, and meet none of these that is drawn alike.
LATENT, NOISE, GUIDE = 3, 4, 5
# Added to the sample's index where layers are looked at (`selection`), beside those that are trained with.
LOOKED_AT = 2**16


@dataclasses.dataclass(frozen=True)
class Draws:
    """The randomness of some samples of a step.

    Attributes:
        seed: of the run.
        step: steps done before this one.
        samples: indices of the samples in the step, one a row of the batch.
    """

    seed: int
    step: int
    samples: tuple[int, ...]

    def generators(self, stream: int = GUIDE) -> list[torch.Generator]:
        """A new generator a sample, on the CPU; the same at every call.

        Args:
            stream: who draws.
        """
        return [mixed_generator(self.seed, self.step, sample, stream) for sample in self.samples]

    def latents(self, size: int) -> Tensor:
        """z [B, size] ~ N(0, 1), float32, on the CPU."""
        return torch.stack([torch.randn(size, generator=generator) for generator in self.generators(LATENT)])
