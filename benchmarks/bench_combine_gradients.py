"""combine_gradients: the last step of gradient mode, with all its statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ldp_fast import losses, reference
from tests.support import samples

from .conftest import SIZES


def test_combine_gradients(measure: Callable[..., None], device: str, size: str) -> None:
    def inputs(seed: int) -> dict[str, Any]:
        return samples.combine_gradients.inputs(shape=SIZES[size], dtype=torch.float32, device=device, seed=seed)

    measure("combine_gradients", {"eager": reference.combine_gradients, "ours": losses.combine_gradients}, inputs)
