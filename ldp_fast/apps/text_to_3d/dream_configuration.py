"""dream-fields' defaults, and what a command line and a file make of them."""

from __future__ import annotations

import copy
from typing import Any

from ...errors import UsageError
from ...guidance.loading import embedded_folder
from ...runs.configuration import merged
from ...runs.settings import Wrong
from ...zoo import world
from ..options import settle
from .clip_sections import BACKGROUNDS
from .grids import EMBEDDED_GRID, FULL_GRID
from .sections import DREAM_FIELDS, EMBEDDED_STEPS

# The CLIP that DreamFields was trained with; B/32 judged it.
CLIP = "openai/clip-vit-base-patch16"
STEPS = 10_000
# NeRF's synthetic scenes have a focal length of 1111 of 800 pixels, here 1.2 times that: 33.4 degrees. Brought to that
# camera's distance, pictures of the embedded world show as much of it as DreamFields' own do.
FULL: dict[str, Any] = {
    "size": 168,
    "supersample": 1,
    "views": 1,
    "cameras": {"elevation": [30.0, 30.0], "radius": [4.0, 4.0], "fov": [33.4, 33.4], "overhead": 0.0},
    "field": FULL_GRID,
    # Between DreamFields' near and far, 4 ∓ √3, lie 192 samples: as long as the box's diagonal.
    "steps_per_ray": 192,
    "occupancy": {"resolution": 128, "every": 16},
    "background": {"kind": "greys", "low": 1.0, "high": 1.0},
    "optimizer": {"kind": "adam", "learning_rate": 1e-3, "final_rate": 1.0, "warm_up": 0.15},
    "regularisers": {},
    "refinement": None,
    "augmentation": {"crops": 8, "side": 154, "backgrounds": list(BACKGROUNDS), "blur": [0.0, 10.0]},
    "transmittance": {"weight": 0.5, "opacity": [0.5, 0.1], "until": 0.05},
}
_DARK, _LIGHT = world.BACKGROUNDS
EMBEDDED: dict[str, Any] = {
    **FULL,
    "size": 64,
    "cameras": {"elevation": [30.0, 30.0], "radius": [3.6, 3.6], "fov": [40.0, 40.0], "overhead": 0.0},
    "field": EMBEDDED_GRID,
    "steps_per_ray": 64,
    "occupancy": {"resolution": 32, "every": 16},
    "background": {"kind": "greys", "low": _DARK, "high": _LIGHT},
    "optimizer": {"kind": "adam", "learning_rate": 3e-3, "final_rate": 0.1, "warm_up": 0.05},
    # 154 of 168 pixels; and of 128 pixels as far as 10 are of 224.
    "augmentation": {"crops": 4, "side": 58, "backgrounds": list(BACKGROUNDS), "blur": [0.0, 5.7]},
    # The world's solids cover 0.3 of a view on average.
    "transmittance": {"weight": 0.5, "opacity": [0.5, 0.3], "until": 0.05},
}


def clip_of(known: dict[str, Any]) -> str:
    """The CLIP that guides, of settings that may name one: else an embedded model's own, else DreamFields'."""
    model = str(known.get("model", "primitives"))
    return str(known.get("guide") or (model if embedded_folder(model) else CLIP))


def defaults(embedded: bool) -> dict[str, Any]:
    """Plain settings without prompt, seed, model and CLIP."""
    return copy.deepcopy(EMBEDDED if embedded else FULL)


def resolve(said: dict[str, Any], words: dict[str, Any], quality: str, checkpoint_every: int) -> dict[str, Any]:
    """All settings of a run, plain, from those that were said.

    Args:
        said: by a file.
        words: by flags, which win.
        quality: anything but normal is refused.
        checkpoint_every: steps, where it is not said.

    Raises:
        Wrong: a refinement.
        UsageError: a quality.
    """
    if quality != "normal":
        raise UsageError(f"--quality: expected normal, as {DREAM_FIELDS} has no other; got {quality!r}")
    for name in words.get("refinement", {}):
        raise UsageError(f"--refinement-{name}: {DREAM_FIELDS} runs without a refinement")
    known = merged(said, words)
    clip = clip_of(known)
    embedded = embedded_folder(clip) is not None
    base = {
        **defaults(embedded),
        "method": DREAM_FIELDS,
        "model": "primitives",
        "guide": clip,
        "steps": EMBEDDED_STEPS[DREAM_FIELDS] if embedded else STEPS,
        "checkpoint_every": checkpoint_every,
    }
    refinement = known.get("refinement")
    if isinstance(refinement, dict) and refinement.get("steps") == 0:
        known["refinement"] = refinement = None
    if refinement is not None:
        raise Wrong("refinement", f"expected nothing, as {DREAM_FIELDS} runs without one")
    held = said.get("field")
    if isinstance(held, dict) and FULL["field"].keys() <= held.keys():
        base["field"] = {}  # a file that says all that has to be said says by its absence that there is nothing else
    size = known.get("size")
    if isinstance(size, int) and size > 0 and "side" not in (known.get("augmentation") or {}):
        # Crops are the same share of a view of any size.
        base["augmentation"]["side"] = max(1, size * base["augmentation"]["side"] // base["size"])
    # A CLIP is small, so that half precision has to be asked for.
    known["dtype"] = known.get("dtype") or "float32"
    settle(known)
    return merged(base, known)
