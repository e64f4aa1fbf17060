"""`ldp-fast evaluate fid` and `kid`: how far the pictures of a row are from those of --against, as distributions."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import UsageError
from ...metrics import frechet
from ...metrics.features import ClipFeatures, Features, InceptionFeatures
from ...runs.tables import markdown_table
from .arguments import INCEPTION
from .clips import load_clip
from .features import Keeping, Network, features_of
from .gathered import Gathered, Picture
from .results import record, said_of


def load_features(
    name: str, weights: pathlib.Path | None, resizer: str, model: str | None, device: str | None
) -> Features:
    """What --features names.

    Args:
        name: `inception`, `clip` or `clip:NAME`.
        weights: of Inception.
        resizer: of Inception, see `InceptionFeatures.load`.
        model: that made the pictures, from which `clip` chooses one; None: not known.
        device: of the network; None: a GPU if there is one.

    Raises:
        UsageError: another name, or weights that cannot be loaded.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, which = name.partition(":")
    if kind == "clip":
        if weights is not None:
            raise UsageError(f"--weights: expected only with --features {INCEPTION}, got --features {name}")
        return ClipFeatures(load_clip(which or None, model, device, "--features", "clip:primitives/judge"))
    if name != INCEPTION:
        raise UsageError(f"--features: expected {INCEPTION}, clip or clip:NAME, got {name!r}")
    try:
        return InceptionFeatures.load(weights, device, resizer=resizer)  # type: ignore[arg-type]
    except UsageError as error:
        hint = "" if weights is not None else "; or compare features of a CLIP that is here: --features clip:NAME"
        raise UsageError(f"--{error}{hint}") from None


def evaluate_distance(
    metric: str,
    gathered: Gathered,
    against: Gathered,
    features: Features,
    keeping: Keeping,
    *,
    subsets: int = frechet.SUBSETS,
    subset_size: int | None = None,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The distance of each row's pictures from all those of `against`.

    Args:
        metric: `fid` or `kid`.
        gathered: the pictures of the rows.
        against: the pictures that they are compared with.
        features: that are compared.
        keeping: where they are kept.
        subsets: of kid.
        subset_size: of kid; None: 1000, or the smaller set where that has fewer.
        seed: of kid's subsets.
        told: is given warnings.

    Returns:
        What `fid.json` or `kid.json` holds.

    Raises:
        UsageError: fewer than two pictures.
    """
    network = Network(features.name, {"features": features.name, "digest": features.digest}, features)
    others = against.pictures()
    _require_two(metric, ", ".join(group.path for group in against.groups), others)
    for group in gathered.groups:
        _require_two(metric, group.label, group.pictures)
    theirs = features_of(others, network, keeping)
    rows, warnings = [], []
    for group in gathered.groups:
        ours = features_of(group.pictures, network, keeping)
        warnings.append(frechet.few(metric, min(len(ours), len(theirs)), features.dimension))
        head = {"label": group.label, "path": group.path, **group.about}
        counts = {"count": len(ours), "against": len(theirs)}
        if metric == "fid":
            found: dict[str, Any] = {"value": frechet.fid(ours, theirs)}
        else:
            found = _kid(ours, theirs, subsets, subset_size, seed)
        rows.append({**head, "number": name_of(metric, features, counts, found), **counts, **found})
    for warning in dict.fromkeys(filter(None, warnings)):
        told(warning)
    more: dict[str, Any] = {"against": [group.path for group in against.groups], "left_out_against": against.left_out}
    more |= {"features": features.name, "dimension": features.dimension}
    return record(metric, gathered, keeping.background, **more, rows=rows)


def _require_two(metric: str, path: str, pictures: list[Picture]) -> None:
    if len(pictures) < 2:
        raise UsageError(f"{metric}: {path}: expected at least 2 pictures, got {len(pictures)}")


def _kid(ours: np.ndarray, theirs: np.ndarray, subsets: int, size: int | None, seed: int) -> dict[str, Any]:
    try:
        found = frechet.kid(ours, theirs, subsets=subsets, subset_size=size, seed=seed)
    except UsageError as error:
        words = str(error).replace("kid: subset_size:", "--subset-size:").replace("kid: subsets:", "--subsets:")
        raise UsageError(words) from None
    # An unbiased estimate of what cannot be below zero is below it now and then.
    known = {"std": found.std, "subsets": found.subsets, "subset_size": found.subset_size}
    return {"value": max(found.value, 0.0), "estimate": found.value, **known, "seed": seed}


def name_of(metric: str, features: Features, counts: dict[str, int], found: dict[str, Any]) -> str:
    """The number's whole name: numbers of different names cannot be compared."""
    subsets = ""
    if metric == "kid":
        subsets = f", {found['subsets']} subset{'s' if found['subsets'] > 1 else ''} of {found['subset_size']}"
    return f"{metric.upper()} ({features.name}; N = {counts['count']} and {counts['against']}{subsets})"


def as_markdown(result: dict[str, Any]) -> str:
    """The table, and what the numbers are."""
    lines = []
    for row in result["rows"]:
        value = f"{row['value']:.4f}" if result["metric"] == "fid" else f"{row['value']:.6f} ± {row['std']:.6f}"
        if row.get("estimate", 0) < 0:
            value += f" (estimate {row['estimate']:.6f})"
        lines.append([row["label"], row["number"], value])
    text = f"Against {', '.join(result['against'])}. "
    if result["metric"] == "fid":
        text += "FID is biased: with fewer pictures it is larger, so compare numbers of the same name only."
    else:
        text += "Mean ± standard deviation over the subsets. Compare numbers of the same name only."
    return f"{markdown_table(['', 'number', 'value'], lines)}\n\n{text}{said_of(result)}"
