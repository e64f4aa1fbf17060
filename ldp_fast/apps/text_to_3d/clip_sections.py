"""The sections that only a run guided by CLIP has (dream-fields)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ...runs.settings import setting

GROUP = "guidance by CLIP (dream-fields)"
BACKGROUNDS = ("noise", "checkerboard", "1/f")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """What CLIP sees of a view: crops of it, in front of random backgrounds."""

    crops: int = setting(
        "crops of each view that CLIP sees in a step (default: 8; embedded model: 4)",
        flag="crops",
        metavar="N",
        group=GROUP,
        low=1,
    )
    side: int = setting(
        "pixels per side of a crop, at most --size (default: 154; embedded model: 58)",
        flag="crop-size",
        metavar="N",
        group=GROUP,
        low=1,
    )
    backgrounds: tuple[Literal["noise", "checkerboard", "1/f"], ...] = setting(
        f"what may be behind a crop: some of {', '.join(BACKGROUNDS)} (default: each of them, alike)",
        flag="behind-crops",
        metavar="KIND",
        group=GROUP,
    )
    blur: tuple[float, float] = setting(
        "standard deviations between which backgrounds are blurred, in pixels of CLIP's pictures",
        low=0,
        high=100,
        ordered=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransmittanceOptions:
    """How much of a view has to stay empty."""

    weight: float = setting(
        "weight of the transmittance loss (default: 0.5)", flag="transmittance", metavar="W", group=GROUP, low=0
    )
    opacity: tuple[float, float] = setting(
        "mean opacity that a view may have for nothing, at the start and after `until` of the run, seen from 4 units "
        "with a field of view of 36.4 degrees (default: 0.5 0.1; embedded model: 0.5 0.3)",
        flag="target-opacity",
        metavar="FIRST LAST",
        group=GROUP,
        above=0,
        high=1,
    )
    until: float = setting("fraction of the run over which that opacity falls, exponentially", low=0, high=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipGuided:
    """The CLIP that guides, and how."""

    guide: str = setting(
        "CLIP that guides: an embedded model, a folder, a name on the hub, or open_clip:ARCHITECTURE:WEIGHTS (default: "
        "that of the embedded --model; else openai/clip-vit-base-patch16)",
        flag="guidance-clip",
        metavar="MODEL",
        group=GROUP,
    )
    augmentation: AugmentationOptions
    transmittance: TransmittanceOptions
