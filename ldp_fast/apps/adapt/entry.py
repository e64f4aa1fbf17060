"""Adaptation, as sweeps and evaluations know it."""

from __future__ import annotations

from typing import Any

from ..entry import Entry
from ..variants import guided_by_clip
from . import jobs
from .configuration import GUIDANCES, NAME, Adaptation, PriorGuided
from .guides import load_guide
from .products import SAMPLES
from .run import APPLICATION, PRODUCTS, naming_flags


def described(configuration: Adaptation) -> dict[str, Any]:
    """A run's plain settings; with the prior's terms, by which tables tell runs apart, all absent where CLIP guides."""
    plain = {**configuration.plain(), "method": NAME}
    return plain if isinstance(configuration, PriorGuided) else {**plain, **guided_by_clip()}


def load(configuration: Adaptation, device: str | None = None) -> Any:
    """What refuses prompts that it does not know."""
    with naming_flags():
        return load_guide(configuration, device).model


ENTRY = Entry(
    APPLICATION,
    jobs.add_arguments,
    jobs.plan,
    described,
    samples=SAMPLES,
    products=PRODUCTS,
    load=load,
    compared=f"--guidance {' '.join(GUIDANCES)}",
)
