"""perp_neg_residual: two negatives, v-prediction and the difference, from a half-precision network output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ldp_fast import losses, reference
from tests.support import samples

from .conftest import SIZES


def eager(**inputs: Tensor) -> Tensor:
    return reference.perp_neg_residual(**inputs)[0]


def test_perp_neg_residual(measure: Callable[..., None], device: str, size: str) -> None:
    def inputs(seed: int) -> dict[str, Any]:
        made = samples.perp_neg_residual.inputs(shape=SIZES[size], device=device, seed=seed, prediction="v_prediction")
        return made | {name: made[name].half() for name in ("model_output", "noisy_latents")}

    measure("perp_neg_residual", {"eager": eager, "ours": losses.perp_neg_residual}, inputs)
