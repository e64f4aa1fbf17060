"""Settings that would do nothing beside the others: who says them is told, in place of being left to wonder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...runs.settings import Wrong
from .configuration import Adaptation, PriorGuided

_LAMBDAS = ("lambda_fm", "lambda_kl", "lambda_lsd")
_REGULARISERS = ("directional", "reconstruction", "lpips")


def check_idle(words: Mapping[str, Any], configuration: Adaptation) -> None:
    """Checks that what was said of a run has a meaning in it.

    Args:
        words: settings that were said by flags, or in Python; what a file says beside them may be meant for others.
        configuration: what they have become.

    Raises:
        Wrong: names one that has none.
    """
    c = configuration
    for name in ("select_every", "select_samples"):
        if name in words and c.select_layers is None:
            raise Wrong(name, f"expected only with --select-layers, got {words[name]} without it")
    if not isinstance(c, PriorGuided):
        return
    for name in ("lpips_network", "lpips_weights"):
        if not c.regularisers.lpips and (words.get("regularisers") or {}).get(name) is not None:
            raise Wrong(f"regularisers.{name}", "expected only with --lpips, the weight of that distance")
    weights = [getattr(c.settings, name) for name in _LAMBDAS] + [getattr(c.regularisers, x) for x in _REGULARISERS]
    if not any(weights):
        raise Wrong(
            "settings.lambda_lsd",
            "expected a weight above 0, of score distillation, of another term or of a regulariser; all of them are 0, "
            "and nothing would guide",
        )
