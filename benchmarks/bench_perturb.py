"""perturb: noising straight into the network's doubled half-precision batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ldp_fast import losses, reference
from tests.support import samples

from .conftest import SIZES


def test_perturb(measure: Callable[..., None], device: str, size: str) -> None:
    def inputs(seed: int) -> dict[str, Any]:
        made = samples.perturb.inputs(shape=SIZES[size], device=device, seed=seed)
        return made | {"copies": 2, "dtype": torch.float16}

    measure("perturb", {"eager": reference.perturb, "ours": losses.perturb}, inputs)
