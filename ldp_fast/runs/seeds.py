"""Generators from numbers: what a step draws comes from its numbers alone, so that a resumed run goes on unchanged."""

from __future__ import annotations

import numpy as np
import torch


def mixed_generator(*numbers: int) -> torch.Generator:
    """A generator from several numbers, such as seed and step, each at least 0: the same on every machine."""
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0]
    return torch.Generator().manual_seed(int(mixed))
