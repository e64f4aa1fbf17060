"""What the paper's ablations compare (Fig. 7): the prior by the terms that stay on."""

from __future__ import annotations

from typing import Any

VARIANTS = {"lsd": "LSD", "lsd-fm": "LSD + FM", "lsd-kl": "LSD + KL", "full": "LSD + FM + KL"}


def switched_off(variant: str) -> dict[str, Any]:
    """The λ's of the terms that a variant leaves out, which are 0."""
    off: dict[str, Any] = {}
    if variant in ("lsd", "lsd-kl"):
        off["lambda_fm"] = 0.0
    if variant in ("lsd", "lsd-fm"):
        off["lambda_kl"] = 0.0
    return off
