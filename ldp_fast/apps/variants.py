"""What the paper's ablations compare (Fig. 7): the prior by the terms that stay on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import UsageError

C = TypeVar("C")
VARIANTS = {"lsd": "LSD", "lsd-fm": "LSD + FM", "lsd-kl": "LSD + KL", "full": "LSD + FM + KL"}
# What stands in their place where CLIP guides, and how tables call each.
CLIP = "clip"
# Guidances that adaptation compares; LSD alone is a variant already.
TITLES = {**VARIANTS, CLIP: "CLIP", "ldp": "LDP", "clip-directional": "CLIP, directional"}


def guided_by_clip() -> dict[str, Any]:
    """What a run's plain settings say of the losses where CLIP guides: the prior's terms are all absent."""
    return {"settings": {f"lambda_{name}": 0.0 for name in ("lsd", "fm", "kl")}, "guided_by": TITLES[CLIP]}


def switched_off(variant: str) -> dict[str, Any]:
    """The λ's of the terms that a variant leaves out, which are 0."""
    off: dict[str, Any] = {}
    if variant in ("lsd", "lsd-kl"):
        off["lambda_fm"] = 0.0
    if variant in ("lsd", "lsd-fm"):
        off["lambda_kl"] = 0.0
    return off


def configured(variants: Sequence[str], configure: Callable[[dict[str, Any]], C]) -> dict[str, C]:
    """The configurations of a job, by the variants that are to be compared.

    Args:
        variants: some of VARIANTS; one that is repeated counts once.
        configure: makes a configuration with some λ's set to 0.

    Raises:
        UsageError: two of them are the same, because of weights that are 0 already.
    """
    made: dict[str, C] = {}
    for variant in dict.fromkeys(variants):
        found = configure(switched_off(variant))
        for other, before in made.items():
            if before == found:
                raise UsageError(f"--losses: {other} and {variant} are the same with these weights")
        made[variant] = found
    return made


def variant_name(method: str, variant: str) -> str:
    """Method and variant as part of a name; `full`, the method as it is, goes without saying."""
    return method if variant == "full" else f"{method}-{variant}"
