"""What one picture of the embedded world is worth, measured against the nearest true render of its caption.

The thresholds of `right` are those of objects (ldp_fast/apps/evaluate/judge.py, docs/truth.md) where a picture has the
same thing to measure; the two that it does not share are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ldp_fast.apps.evaluate.judge import LEAST_BODY, LEAST_IOU, LEAST_SHARE, MOST_STRAY, NEITHER
from ldp_fast.metrics import ClipScorer, clipped_fraction, saturation, truth
from ldp_fast.zoo import captions, solids, world

from . import nearest

CRITERIA = ("shape", "bodies", "ground", "colours", "stray")
MOST_GROUND = 8.0  # mean ΔE of the pixels around the solid from the nearest grey
# A colour is absent below `LEAST_SHARE`, or where the nearest true render shows little of it below this part of that;
# one with less than `HIDDEN` of the render (stripes from overhead) is not asked for.
LEAST_PART, HIDDEN = 0.5, 0.05
APART = 15.0  # ΔE from the grey beyond which a pixel is of the solid, whatever its colour
SHADES = np.linspace(world.AMBIENT, world.AMBIENT + world.DIFFUSE, 5)
LATENT = 8  # pixels of a latent


def measure(picture: np.ndarray, caption: str) -> tuple[dict[str, Any], np.ndarray]:
    """Measures one picture against the nearest true render of its caption.

    Args:
        picture: [H, H, 3] sRGB in [0, 1].
        caption: of the embedded model's world.

    Returns:
        Plain numbers by the names in docs/what_the_terms_do.md, with `right` and `failing`; the render, [H, H, 3].

    Raises:
        ValueError: other words than those of the embedded world.
    """
    scene = captions.scene_of(caption)
    if scene is None:
        raise ValueError(f"measure: caption: expected one of the embedded world, got {caption!r}")
    placed = nearest.find(picture, scene)
    side = len(picture)
    fine = placed.seen(scene, 2 * side)
    blocks = (side, 2, side, 2)
    render = fine.picture(scene, placed.view.background).reshape(*blocks, 3).mean(axis=(1, 3))
    cover = (fine.label > 0).reshape(blocks).mean(axis=(1, 3))
    shade = np.where(fine.label > 0, fine.shade, 0).reshape(blocks).mean(axis=(1, 3)) / np.maximum(cover, 1e-6)
    second = (fine.label == 2).reshape(blocks).mean(axis=(1, 3))
    lab = truth.srgb_to_lab(picture)
    found = _silhouette(picture, lab, scene, placed.view.background)
    result = {
        "iou": truth.intersection_over_union(found, cover > 0.5),
        "largest_body": _largest(found),
        "ground": _ground(lab, cover, placed.view.background),
        "difference": placed.difference,
        "laplacian": laplacian_energy(picture) / laplacian_energy(render),
        "laplacian_half": laplacian_energy(halved(picture)) / laplacian_energy(halved(render)),
        **_colours(picture, scene, cover, shade, second),
        "view": {
            "azimuth": float(np.degrees(placed.view.azimuth)),
            "elevation": float(np.degrees(placed.view.elevation)),
            "distance": placed.view.radius / world.CAMERA_RADIUS,
            "shift": list(placed.shift),
            "grey": placed.view.background,
        },
    }
    return _with_verdict(result), render.astype(np.float32)


def _with_verdict(result: dict[str, Any]) -> dict[str, Any]:
    met = {
        "shape": result["iou"] >= LEAST_IOU,
        "bodies": result["largest_body"] >= LEAST_BODY,
        "ground": result["ground"] <= MOST_GROUND,
        "colours": all(part["name"] == part["asked"] for part in result["parts"]),
        "stray": result["stray"] <= MOST_STRAY,
    }
    failing = [name for name in CRITERIA if not met[name]]
    return {**result, "failing": failing, "right": not failing}


def thresholds() -> dict[str, float]:
    """What `right` asks for."""
    return {
        "least_iou": LEAST_IOU,
        "least_body": LEAST_BODY,
        "most_ground": MOST_GROUND,
        "least_share": LEAST_SHARE,
        "most_stray": MOST_STRAY,
        "neither": NEITHER,
    }


def _silhouette(picture: np.ndarray, lab: np.ndarray, scene: world.Scene, grey: float) -> np.ndarray:
    """Pixels that are nearer to the solid's colours, in any light, than to the grey; or far from the grey: [H, W]."""
    from scipy import ndimage

    asked = np.array([world.COLOURS[name] for name in dict.fromkeys(solids.two_names(scene))])
    lit = truth.srgb_to_lab((asked[:, None] * SHADES[:, None]).reshape(-1, 3).clip(0, 1))
    ground = truth.colour_difference(lab, truth.srgb_to_lab(np.full(3, grey)))
    solid = truth.colour_difference(lab[:, :, None], lit).min(axis=-1)
    # The border between two colours may be as grey as what is behind: it is no wider than a few pixels.
    return np.asarray(ndimage.median_filter((ground > np.minimum(solid, APART)).astype(np.uint8), 5) > 0)


def _largest(found: np.ndarray) -> float:
    from scipy import ndimage

    labels, count = ndimage.label(found)
    return float(np.bincount(labels.ravel())[1:].max() / found.sum()) if count else 0.0


def _ground(lab: np.ndarray, cover: np.ndarray, grey: float) -> float:
    """Mean ΔE from the grey of pixels that are a latent or more away from the solid."""
    from scipy import ndimage

    away = ndimage.distance_transform_edt(cover == 0) > LATENT
    if not away.any():
        return 0.0
    return float(truth.colour_difference(lab[away], truth.srgb_to_lab(np.full(3, grey))).mean())


def _colours(
    picture: np.ndarray, scene: world.Scene, cover: np.ndarray, shade: np.ndarray, second: np.ndarray
) -> dict[str, Any]:
    """Colours where the solid is half a latent away from its outline, as they would be in even light."""
    from scipy import ndimage

    names = list(dict.fromkeys(solids.two_names(scene)))
    within = ndimage.distance_transform_edt(np.pad(cover > 0.5, 1))[1:-1, 1:-1] > LATENT / 2
    if not within.any():
        absent = [{"asked": name, "name": None, "share": 0.0, "error": None} for name in names]
        return {"parts": absent, "colour_error": None, "hidden": 0, "stray": 1.0, "agreement": 0.0}
    albedo = (picture[within] / shade[within][:, None]).clip(0, 1)
    lab = truth.srgb_to_lab(albedo)
    ends = np.array([world.COLOURS[name] for name in solids.two_names(scene)])
    share, away = truth.mixtures(albedo, *ends)
    nearer = np.zeros(len(lab), dtype=np.int64)
    if len(names) > 1:
        nearer = truth.colour_difference(lab[:, None], truth.srgb_to_lab(ends)).argmin(axis=1)
    true = [1.0 - second[within].mean(), second[within].mean()]
    parts: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        if true[i] < HIDDEN and len(names) > 1:
            continue
        mine = lab[nearer == i]
        part = {"asked": name, "name": None, "share": len(mine) / len(lab), "error": None}
        if part["share"] >= min(LEAST_SHARE, LEAST_PART * true[i]) and len(mine):
            mean = mine.mean(axis=0)
            part["name"] = truth.nearest_name(mean, world.COLOURS)
            part["error"] = float(truth.colour_difference(mean, truth.srgb_to_lab(ends[i])))
        parts.append(part)
    errors = [float(part["error"]) for part in parts if part["error"] is not None]
    return {
        "parts": parts,
        "colour_error": float(np.mean(errors)) if errors else None,
        "hidden": len(names) - len(parts),
        "stray": float((away > NEITHER).mean()),
        "agreement": float(1 - np.abs(share - second[within]).mean()),
    }


def laplacian_energy(picture: np.ndarray) -> float:
    """Mean square of the discrete Laplacian (five points) of a picture [H, W, 3], over channels and inner pixels."""
    x = picture.astype(np.float64)
    inner = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:] - 4 * x[1:-1, 1:-1]
    return float((inner**2).mean())


def halved(picture: np.ndarray) -> np.ndarray:
    """A picture [H, H, 3] at half its size, by means of squares."""
    side = len(picture) // 2
    return picture.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))


class Perception:
    """A distance between pictures by the features of a CLIP's image tower.

    Of every layer the tokens (the class and the patches) are brought to length 1; the distance is the mean over tokens
    and layers of the squared difference. The form is LPIPS'; its weights, which people's judgements were fitted to,
    are not there, and this CLIP has seen the embedded world and nothing else.

    Args:
        scorer: the CLIP.
    """

    def __init__(self, scorer: ClipScorer):
        self.scorer = scorer

    @torch.no_grad()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """`[B, layers, tokens, W]` of pictures `[B, 3, H, W]` in [0, 1]."""
        kept: list[torch.Tensor] = []
        layers = self.scorer.clip.towers.network.vision_model.encoder.layers

        def keep(layer: Any, inputs: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layer.register_forward_hook(keep) for layer in layers]
        try:
            self.scorer.image_features(pictures)
        finally:
            for hook in hooks:
                hook.remove()
        return F.normalize(torch.stack(kept, dim=1), dim=-1)

    def distance(self, pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """`[B]`, 0 for the same pictures, 2 between features that are at right angles everywhere."""
        difference = self.features(pictures) - self.features(others)
        return difference.square().sum(-1).mean((1, 2)).cpu()


def measure_all(pictures: torch.Tensor, prompts: Sequence[str], perception: Perception) -> list[dict[str, Any]]:
    """Every measure of pictures `[B, 3, H, H]` in [0, 1], one a prompt, as plain numbers."""
    rows, renders = [], []
    for picture, prompt in zip(pictures.permute(0, 2, 3, 1).double().numpy(), prompts, strict=True):
        row, render = measure(picture, prompt)
        rows.append(row)
        renders.append(torch.from_numpy(render).permute(2, 0, 1))
    true = torch.stack(renders)
    more = {
        "perceptual": perception.distance(pictures.float(), true),
        "saturation": saturation(pictures),
        "saturation_true": saturation(true),
        "clipped": clipped_fraction(pictures),
    }
    return [{**row, **{name: float(x[i]) for name, x in more.items()}} for i, row in enumerate(rows)]
