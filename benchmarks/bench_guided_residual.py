"""guided_residual: guidance, v-prediction and the difference, from a half-precision network output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldp_fast import losses, reference
from tests.support import samples

from .conftest import SIZES


def test_guided_residual(measure: Callable[..., None], device: str, size: str) -> None:
    def inputs(seed: int) -> dict[str, Any]:
        made = samples.guided_residual.inputs(shape=SIZES[size], device=device, seed=seed, prediction="v_prediction")
        return made | {name: made[name].half() for name in ("model_output", "noisy_latents")}

    measure("guided_residual", {"eager": reference.guided_residual, "ours": losses.guided_residual}, inputs)
