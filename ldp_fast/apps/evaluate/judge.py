"""One object of text-to-3D against the solid of the embedded world that its caption asks for.

What is looked at (`Evidence`) comes from a scene, or from the solid itself put through the same pipeline (`reachable`);
what is measured of it is the same for both.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import UsageError
from ...metrics import truth as measures
from ...zoo import captions, solids, world
from ..text_to_3d.mesh.texture import project
from .evidence import RESOLUTION, Body, Evidence, look_at

# What an object has to reach to be right.
LEAST_IOU = 0.8  # of its volume with the solid's
LEAST_BODY = 0.95  # share of its volume that is one body
MOST_FOG = 0.02  # mean opacity of rays that miss the solid, and the solid made larger or smaller by `MARGIN`
MOST_IN_HOLE = 0.5  # mean opacity of rays through its hole: what closes it is little of all that misses the solid
LEAST_OPACITY = 0.9  # mean opacity of rays that hit it, whether it is made larger or smaller by `MARGIN` or not
LEAST_SHARE = 0.1  # of the surface: a second colour with less counts as absent
MOST_STRAY = 0.1  # of the surface: pixels with neither of the asked colours, nor a mixture of them
CRITERIA = ("shape", "bodies", "fog", "hole", "opacity", "colours", "stray", "pattern")
MARGIN = 1.1
# ΔE from every mixture of the asked colours beyond which a pixel has neither. Of the solids themselves, encoded and
# decoded by the embedded VAE, one pixel in 5000 is as far away at most.
NEITHER = 30.0
SHOWN = (0, 3, 9, 12)  # views that are shown to people
HULL = 48  # points along an axis of the lattice for visual hulls
SAMPLES = 20_000  # points of surfaces, and pixels of patterns


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The verdict on one object.

    Attributes:
        measures: what `judge` returns.
        pictures: [2, V, H, W, 3] in [0, 1]: the object, and the solid in the same pose, for a few cameras.
    """

    measures: dict[str, Any]
    pictures: np.ndarray


def asked_for(caption: str) -> world.Scene:
    """The solid that a caption asks for.

    Raises:
        UsageError: other words than those of the embedded world.
    """
    scene = captions.scene_of(caption)
    if scene is None:
        raise UsageError(f"{caption!r} is not a caption of the embedded model's world: nothing to measure it against")
    return scene


def judge(scene: Any, caption: str, *, size: int | None = None, resolution: int = RESOLUTION) -> dict[str, Any]:
    """Measures one object against what its caption asks for.

    Args:
        scene: a Scene of text-to-3D: field, occupancy, orbit, render, behind, decode.
        caption: of the embedded model's world.
        size: latents (refined: pixels) per side of the views; None: as pictures for people have.
        resolution: points of the density's lattice along an axis.

    Returns:
        Plain numbers, by the names in docs/truth.md; `right`, and `failing`, the criteria that are not met.

    Raises:
        UsageError: other words than those of the embedded world; what `look_at` and `measure` refuse.
    """
    asked = asked_for(caption)
    return measure(look_at(scene, size=size, resolution=resolution), asked).measures


def measure(found: Evidence, asked: world.Scene) -> Judgement:
    """The measures, the verdict, and pictures of what was looked at.

    Raises:
        UsageError: cameras so near that every ray hits the solid.
    """
    if found.body is None or not found.body.solid.any():
        return _nothing(found, asked)
    distance = _distance_of(asked.shape)
    pose = measures.align(found.body.solid, found.bound, distance, solids.symmetry(asked.shape))
    result: dict[str, Any] = {"caption": asked.caption(), "level": found.body.level}
    shape = _shape(found.body, found.bound, asked, pose)
    opacity, rays = found.opacity, _silhouettes(found, asked.shape, pose)
    if not rays.missing.any():
        raise UsageError("its cameras are so near that every ray hits the solid, and none could show fog")
    shape["iou_silhouettes"] = measures.intersection_over_union(opacity > 0.5, rays.hit)
    shape["iou_hull"] = _hulls(found, opacity > 0.5, rays.hit)
    cleanliness = {
        "fog": _mean(opacity[rays.missing]),
        # What sticks out is not haze.
        "haze": _mean(opacity[rays.missing & (opacity < 0.5)]),
        "hole": _mean(opacity[rays.in_hole]) if rays.in_hole.any() else None,
        "opacity": _mean(opacity[rays.inside]),
        **_speckle(found),
    }
    colours, yaw = _colours(found, asked, pose)
    pose = dataclasses.replace(pose, yaw=(pose.yaw + yaw) % (2 * math.pi))
    cleanliness["shows_through"] = colours.pop("shows_through")
    cleanliness["variation"] = colours.pop("variation")
    placed = {"yaw_degrees": math.degrees(pose.yaw), "scale": pose.scale, "shift": list(pose.shift)}
    result |= {"pose": placed, "shape": shape, "colour": colours, "cleanliness": cleanliness}
    return Judgement(_with_verdict(result), _pictures(found, asked, pose))


def _with_verdict(result: dict[str, Any]) -> dict[str, Any]:
    met = {
        "shape": result["shape"]["iou"] >= LEAST_IOU,
        "bodies": result["shape"]["largest_body"] >= LEAST_BODY,
        "fog": result["cleanliness"]["fog"] <= MOST_FOG,
        "hole": (result["cleanliness"]["hole"] or 0.0) <= MOST_IN_HOLE,
        "opacity": result["cleanliness"]["opacity"] >= LEAST_OPACITY,
        "colours": all(part["name"] == part["asked"] for part in result["colour"]["parts"]),
    }
    # Nothing has no pixels either, and fails by its shape.
    met["stray"] = (result["colour"]["neither"] or 0.0) <= MOST_STRAY
    # Where a colour is absent there is no pattern to look at, and the colours say so.
    pattern, parts = result["colour"]["pattern"], result["colour"]["parts"]
    met["pattern"] = pattern is None or pattern["alike"] or any(part["name"] is None for part in parts)
    failing = [name for name in CRITERIA if not met[name]]
    return {**result, "failing": failing, "right": not failing}


def _nothing(found: Evidence, asked: world.Scene) -> Judgement:
    """The verdict on an object without a surface."""
    result = {
        "caption": asked.caption(),
        "level": None,
        "pose": None,
        "shape": {"iou": 0.0, "iou_silhouettes": 0.0, "iou_hull": 0.0, "chamfer": None, "largest_body": 0.0},
        "colour": _no_colours(asked),
        "cleanliness": {
            "fog": float(found.opacity.mean()),
            "haze": float(found.opacity.mean()),
            "hole": None,
            "opacity": 0.0,
            **_speckle(found),
            "shows_through": None,
            "variation": None,
        },
    }
    return Judgement(_with_verdict(result), _pictures(found, asked, measures.Pose()))


def _speckle(found: Evidence) -> dict[str, float | None]:
    noise = found.normal_noise
    return {"outline_fog": found.outline_fog, "normal_noise": None if math.isnan(noise) else noise}


def _no_colours(asked: world.Scene) -> dict[str, Any]:
    """Measures of colour where there is no surface to look at: every colour is absent."""
    names = dict.fromkeys(solids.two_names(asked))
    parts = [{"asked": name, "name": None, "share": 0.0, "error": None} for name in names]
    return {"parts": parts, "neither": None, "pattern": None}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _distance_of(shape: str) -> measures.Distance:
    return lambda points: world.signed_distance(shape, points)


def _shape(body: Body, bound: float, asked: world.Scene, pose: measures.Pose) -> dict[str, float]:
    distance, solid = _distance_of(asked.shape), body.solid
    points = measures.lattice_points(len(solid), bound)
    true = (distance(pose.to_solid(points)) < 0).reshape(solid.shape)
    beyond = measures.fill(distance).beyond(pose, bound) / (2 * bound / (len(solid) - 1)) ** 3
    sampled = pose.to_solid(_on_triangles(body.vertices, body.faces))
    away = pose.scale * measures.chamfer(sampled, solids.surface_points(asked.shape, SAMPLES), distance)
    return {
        "iou": measures.intersection_over_union(solid, true, beyond),
        "chamfer": away,
        "largest_body": measures.largest_body(solid),
        "volume": float(solid.sum()) / max(1.0, float(true.sum()) + beyond),
    }


def _on_triangles(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Points on a mesh, [SAMPLES, 3], evenly by area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(faces), SAMPLES, p=areas / areas.sum())
    u, v = rng.random((2, SAMPLES, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return np.asarray(a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen])


@dataclasses.dataclass(frozen=True)
class _Rays:
    """What the rays of the views would meet of the solid; all [V, h, w] bool.

    Attributes:
        hit: the solid covers most of the ray's pixel.
        missing: none of the pixel, nor does it larger or smaller by `MARGIN`: a torus' hole is then smaller too.
        inside: all of it, and so larger and smaller.
        in_hole: none of the pixel, though pixels around it: through the hole of a torus.
    """

    hit: np.ndarray
    missing: np.ndarray
    inside: np.ndarray
    in_hole: np.ndarray


def _silhouettes(found: Evidence, shape: str, pose: measures.Pose) -> _Rays:
    from scipy import ndimage

    side = found.opacity.shape[-1]
    covered = {}
    # Of an odd number of rays a pixel, there is a majority.
    for factor, rays in ((1.0, 3), (MARGIN, 2), (1 / MARGIN, 2)):
        parts = []
        for camera in found.cameras:
            origins, directions = (x.numpy() for x in camera.rays(rays * side, rays * side))
            hit = solids.covered(shape, origins[0], directions, pose.larger(factor))
            parts.append(hit.reshape(side, rays, side, rays).mean(axis=(1, 3)))
        covered[factor] = np.stack(parts)
    any_of_it = covered[1.0] > 0
    return _Rays(
        hit=covered[1.0] > 0.5,
        missing=np.all([part == 0 for part in covered.values()], axis=0),
        inside=np.all([part == 1 for part in covered.values()], axis=0),
        in_hole=np.stack([ndimage.binary_fill_holes(mask) for mask in any_of_it]) & ~any_of_it,
    )


def _hulls(found: Evidence, own: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of the two visual hulls: what no view sees to be empty."""
    points = torch.from_numpy(measures.lattice_points(HULL, found.bound))
    hulls = [torch.ones(len(points), dtype=torch.bool) for _ in range(2)]
    side = found.opacity.shape[-1]
    for i, camera in enumerate(found.cameras):
        cells = (project(camera, points)[0] * side).floor().long()
        outside = ((cells < 0) | (cells >= side)).any(dim=1)
        cells = cells.clamp(0, side - 1)
        for hull, silhouette in zip(hulls, (own, true), strict=True):
            hull &= torch.from_numpy(silhouette[i])[cells[:, 1], cells[:, 0]] | outside
    return measures.intersection_over_union(hulls[0].numpy(), hulls[1].numpy())


def _look(found: Evidence, asked: world.Scene, pose: measures.Pose, views: range | tuple[int, ...]) -> solids.Seen:
    """What the pictures' pixels would see of the solid, camera after camera."""
    height, width = found.pictures.shape[2:4]
    parts = []
    for camera in (found.cameras[i] for i in views):
        origins, directions = (x.numpy() for x in camera.rays(height, width))
        parts.append(solids.look(asked, origins[0], directions, pose))
    return solids.Seen(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "shade", "points"))
    )


def _colours(found: Evidence, asked: world.Scene, pose: measures.Pose) -> tuple[dict[str, Any], float]:
    """Measures of colour; and by how much the pattern is turned, radians."""
    from scipy import ndimage

    count, views, height, width = found.pictures.shape[:4]
    seen = _look(found, asked, pose, range(views))
    there = seen.label.reshape(views, height, width) > 0
    border = 0.5 * height / found.latents
    within = np.stack([ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] > border for mask in there])
    opaque = F.interpolate(torch.from_numpy(found.opacity)[:, None], size=(height, width), mode="bilinear")[:, 0]
    chosen = (within & (opaque.numpy() > 0.5)).ravel()
    if not chosen.any():
        return {**_no_colours(asked), "shows_through": None, "variation": None}, 0.0
    first, second = (np.array(world.COLOURS[name]) for name in solids.two_names(asked))
    names = list(dict.fromkeys(solids.two_names(asked)))
    pixels = found.pictures.reshape(count, -1, 3)[:, chosen].astype(np.float64)
    albedo = (pixels / seen.shade[chosen, None]).mean(axis=0).clip(0, 1)
    lab = measures.srgb_to_lab(albedo)
    view = np.repeat(np.arange(views), height * width)[chosen]
    share, away = measures.mixtures(albedo, first, second)
    nearer = np.zeros(len(lab), dtype=np.int64)
    if len(names) > 1:
        both = measures.srgb_to_lab(np.stack([first, second]))
        nearer = measures.colour_difference(lab[:, None], both).argmin(axis=1)
    parts, variation = [], 0.0
    for i, name in enumerate(names):
        part, spread = _part(lab[nearer == i], view[nearer == i], len(lab), name)
        parts.append(part)
        variation = max(variation, spread)
    result: dict[str, Any] = {
        "parts": parts,
        "neither": float((away > NEITHER).mean()),
        "pattern": None,
        "shows_through": float(np.abs(pixels[0] - pixels[-1]).mean()),
        "variation": variation,
    }
    if len(names) == 1:
        return result, 0.0
    result["pattern"], yaw = _pattern(asked, seen.points[chosen].astype(np.float64), share)
    return result, yaw


def _part(lab: np.ndarray, view: np.ndarray, total: int, name: str) -> tuple[dict[str, Any], float]:
    """Of the pixels that have a colour: its measures; how much its mean varies from view to view, ΔE."""
    share = len(lab) / total
    if share < LEAST_SHARE:
        return {"asked": name, "name": None, "share": share, "error": None}, 0.0
    mean = lab.mean(axis=0)
    error = float(measures.colour_difference(mean, measures.srgb_to_lab(np.array(world.COLOURS[name]))))
    found = measures.nearest_name(mean, world.COLOURS)
    counts = np.bincount(view)
    sums = np.stack([np.bincount(view, weights=lab[:, i]) for i in range(3)], axis=1)
    means = sums[counts > 0] / counts[counts > 0, None]
    spread = float(np.sqrt(((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()))
    return {"asked": name, "name": found, "share": share, "error": error, "lab": mean.tolist()}, spread


def _pattern(asked: world.Scene, points: np.ndarray, share: np.ndarray) -> tuple[dict[str, Any], float]:
    """The waves of the pattern that is there and of the one that was asked for; by how much it is turned, radians."""
    some = np.random.default_rng(0).permutation(len(points))[:SAMPLES]
    points, share = points[some], share[some]
    yaw, agreement = solids.best_yaw(asked, points, share)
    true = world.is_second_colour(asked, measures.Pose(yaw=yaw).to_solid(points)).astype(np.float64)
    along, around = solids.coordinates(asked.shape, points)
    step = 1.0 if asked.shape == "torus" else 0.0
    waves = [measures.strongest_wave(values, along, around, step) for values in (share, true)]
    told = [{**dataclasses.asdict(wave), "kind": wave.kind()} for wave in waves]
    return {"found": told[0], "asked": told[1], "alike": waves[0].alike(waves[1]), "agreement": agreement}, yaw


def _pictures(found: Evidence, asked: world.Scene, pose: measures.Pose) -> np.ndarray:
    height, width = found.pictures.shape[2:4]
    seen = _look(found, asked, pose, SHOWN)
    true = seen.picture(asked, 0.5).reshape(len(SHOWN), height, width, 3)
    return np.stack([found.pictures[:, list(SHOWN)].mean(axis=0), true])
