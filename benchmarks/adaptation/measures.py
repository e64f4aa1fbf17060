"""What pictures of an adapted generator are worth: do they show what was asked for, are they unlike, are they the same.

Nothing that judges has guided or conditioned: the CLIP is the embedded model's judge. The distance between pictures is
of LPIPS' form, by the embedded VAE's encoder (`ldp_fast.metrics.lpips`). The truth is that of docs/truth.md, by the
measures of benchmarks/terms.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.clip import Clip
from ldp_fast.metrics import ClipFeatures, ClipScorer, Lpips, all_pairs, clip_cosines, fid, r_precision
from ldp_fast.zoo import captions, world

from ..terms.measures import measure as judged_by_truth
from ..terms.measures import thresholds
from ..terms.runs import load, save
from . import identity, made_by
from .plan import Plan, Shown
from .renders import Renders, pictures

NETWORK = "vae:primitives"
TRUTH_SIDE = 128  # pixels of what the truth judges
SEED = 4  # of the captions that others are told from


class Judges:
    """The networks that judge, loaded once.

    Args:
        judge: name of the CLIP.
        network: of the distance between pictures.
    """

    def __init__(self, judge: str, network: str = NETWORK):
        clip = Clip.load(judge)
        self.judge, self.lpips = judge, Lpips.load(network)
        self.scorer, self.features = ClipScorer(clip), ClipFeatures(clip)
        self.code = made_by.measures()
        self.pool = [scene.caption() for scene in world.all_scenes()]

    def key(self) -> dict[str, Any]:
        """What a record has to have been made with."""
        kept = {"view": identity.LEAST_VIEW, "grey": identity.MOST_GREY, "apart": identity.APART}
        about = {"judge": self.judge, "lpips": self.lpips.name, "kept": kept, "truth": thresholds()}
        return {**about, "code": self.code}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What of N pictures does not depend on what was asked for.

    Attributes:
        features: of the CLIP, `[N, D]`.
        kept: of the source's views.
        pairs: mean distance of all pairs.
        solids: the same before one grey, which is most of what the distance looks at.
    """

    features: Tensor
    kept: identity.Kept
    pairs: float
    solids: float


def look(images: Tensor, solid: Renders, shown: Shown, judges: Judges) -> Seen:
    """See `Seen`.

    Args:
        images: `[N, 3, SIDE, SIDE]` in [0, 1], of the samples that are shown.
        solid: renders of what the pictures show, for the views: of the target, or of the source before.
        shown: views and greys.
        judges: the networks.
    """
    pairs, solids = (all_pairs(judges.lpips(x), alike=0).mean for x in (images, before_one_grey(images)))
    return Seen(judges.features(images), identity.kept(images, solid, shown.greys), pairs, solids)


def before_one_grey(images: Tensor) -> Tensor:
    """Pictures `[N, 3, SIDE, SIDE]` in [0, 1], of which all that is like their border has become one grey."""
    seen = images.double().numpy().reshape(len(images), 3, -1)
    solid = torch.from_numpy(identity.silhouettes(seen, identity.ring(seen))).view(-1, 1, *images.shape[2:])
    return torch.where(solid, images, torch.full_like(images, statistics.fmean(world.BACKGROUNDS)))


def kept(file: pathlib.Path, plan: Plan, judges: Judges, make: Callable[[], Seen]) -> Seen:
    """What was seen, from a file that keeps it, or made and kept; that of another plan or judge is made anew."""
    about = json.dumps([dataclasses.asdict(plan), judges.key(), made_by.renders()], sort_keys=True)
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    if file.exists():
        tensors, facts = load(file)
        if facts.get("key") == key:
            features, *means = (tensors.pop(name) for name in ("features", "pairs", "solids"))
            return Seen(features, identity.Kept(**{name: x.numpy() for name, x in tensors.items()}), *map(float, means))
    found = make()
    parts = {field.name: torch.from_numpy(getattr(found.kept, field.name)) for field in dataclasses.fields(found.kept)}
    means = {name: torch.tensor(getattr(found, name), dtype=torch.float64) for name in ("pairs", "solids")}
    save(file, {**parts, "features": found.features.cpu(), **means}, {"key": key})
    return found


def measure(
    images: Tensor,
    target: str,
    domain: Tensor,
    seen: Seen,
    plan: Plan,
    judges: Judges,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Every measure of N pictures, as plain numbers.

    Args:
        images: `[N, 3, SIDE, SIDE]` in [0, 1], of the samples that are shown.
        target: what was asked for.
        domain: features `[V, D]` of renders of it from the other views, which FID compares with.
        seen: what of the pictures is the same for every target.
        plan: how many the truth judges.
        judges: the networks.
        stop: asked between the measures of pictures one by one.

    Returns:
        `cosine`, `hit` (R-Precision), `view`, `grey` and `kept` of each picture; `failing`, what the truth misses of
        each judged one; `size`, the correlation of the solid's size with that of its render; `fid`; `pairs`, the mean
        distance of all pairs, and `solids`, that before one grey. None: it was stopped.
    """
    unit = F.normalize(seen.features, dim=1)
    names = [target] * len(images)
    found = seen.kept
    failing = []
    for picture in F.interpolate(images[: plan.judged], (TRUTH_SIDE, TRUTH_SIDE), mode="bicubic").clamp(0, 1):
        if stop():
            return None
        row, _ = judged_by_truth(picture.permute(1, 2, 0).double().numpy(), target)
        failing.append(row["failing"])
    hits = r_precision(judges.scorer, unit, names, judges.pool, seed=SEED, identity=captions.identity)
    return {
        "cosine": _rounded(clip_cosines(judges.scorer, unit, names).numpy()),
        "hit": hits.tolist(),
        "view": _rounded(found.view),
        "grey": _rounded(found.grey),
        "kept": found.all.tolist(),
        "size": identity.correlation(found.side, found.true_side),
        "fid": fid(seen.features, domain),
        "pairs": seen.pairs,
        "solids": seen.solids,
        "failing": failing,
    }


def domain_of(scene: world.Scene, renders: Renders, shown: Shown) -> Tensor:
    """Renders of a target from the other views."""
    return pictures(renders.others, scene, np.array([view.background for view in shown.others]))


def truth_of(scene: world.Scene, renders: Renders, shown: Shown) -> Tensor:
    """What a perfect adaptation shows."""
    return pictures(renders.own, scene, shown.greys)


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(x), 6) for x in values]


def quantised(images: Tensor) -> Tensor:
    """In 256 steps, as files of pictures are."""
    return torch.round(images.clamp(0, 1) * 255) / 255
