"""A solid from chosen cameras, as layers: any colours and any grey can be put into them, and they are rendered once."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldp_fast.zoo import solids, world
from ldp_fast.zoo.generator import painted

from ..terms.runs import load, save
from . import made_by
from .plan import Shown

SIDE = 64  # pixels, those of the embedded generator's pictures
RAYS = 2  # a pixel and axis, as in `world.render`


def layers(scene: world.Scene, views: Sequence[world.View], stop: Callable[[], bool] = lambda: False) -> np.ndarray:
    """What is in each pixel: the brightness of the solid's colours, and the share of the grey.

    Args:
        scene: the solid; its colours do not matter.
        views: V cameras; their greys do not matter.
        stop: asked before each; what is there is returned then.

    Returns:
        `[V, K, SIDE²]` float32 to float16's precision; K is 2 for a plain solid (brightness, grey) and 3 for others
        (of its first colour, of its second, grey).
    """
    found = []
    for view in views:
        if stop():
            break
        seen = solids.look(scene, *world.rays(view, SIDE * RAYS))
        kinds = (1,) if scene.pattern == "plain" else (1, 2)
        parts = [np.where(seen.label == kind, seen.shade, 0) for kind in kinds] + [seen.label == 0]
        blocks = np.stack(parts).astype(np.float32).reshape(-1, SIDE, RAYS, SIDE, RAYS)
        found.append(blocks.mean(axis=(2, 4)).reshape(len(parts), -1))
    # As they are kept, so that kept ones and new ones are equal.
    return np.array(found, dtype=np.float16).astype(np.float32)


def pictures(parts: np.ndarray, scene: world.Scene, greys: np.ndarray) -> Tensor:
    """Renders `[V, 3, SIDE, SIDE]` in [0, 1], in 256 steps, of `layers` before greys `[V]`."""
    colours = [world.COLOURS[name] for name in solids.two_names(scene)][: parts.shape[1] - 1]
    palette = np.array([*colours, (1.0, 1.0, 1.0)], dtype=np.float32)
    whole = np.repeat(palette[None], len(parts), axis=0)
    whole[:, -1] *= greys[:, None]
    mixed = painted(parts, whole).reshape(-1, 3, SIDE, SIDE)
    return torch.from_numpy(np.floor(mixed.clip(0, 1) * 255 + 0.5) / 255).float()


@dataclasses.dataclass(frozen=True)
class Renders:
    """A solid as each sample shows it where it is perfect, and from other views.

    Attributes:
        own: layers of the samples' own views, `[N, K, P]`.
        others: of the others, `[V, K, P]`.
    """

    own: np.ndarray
    others: np.ndarray


def kept(
    folder: pathlib.Path, scene: world.Scene, shown: Shown, stop: Callable[[], bool] = lambda: False
) -> Renders | None:
    """The renders of a solid, from a folder that keeps them, or made and kept. None: it was stopped.

    Those of other cameras, or by other code, are made anew.
    """
    kind = f"{scene.shape}-{scene.pattern}"
    views = [(view.azimuth, view.elevation, view.radius) for view in (*shown.views, *shown.others)]
    key = hashlib.sha256(repr((kind, SIDE, RAYS, views, made_by.renders())).encode()).hexdigest()[:16]
    file = folder / f"{kind}.safetensors"
    if file.exists():
        tensors, facts = load(file)
        if facts.get("key") == key:
            return Renders(*(tensors[name].float().numpy() for name in ("own", "others")))
    own, others = layers(scene, shown.views, stop), layers(scene, shown.others, stop)
    if len(own) < len(shown.views) or len(others) < len(shown.others):
        return None
    save(file, {"own": torch.from_numpy(own).half(), "others": torch.from_numpy(others).half()}, {"key": key})
    return Renders(own, others)
