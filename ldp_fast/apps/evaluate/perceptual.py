"""`ldp-fast evaluate lpips`: how different pictures look, over all pairs or between two folders."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...metrics.lpips import Lpips, all_pairs, pairwise
from ...metrics.pictures import some
from ...runs.tables import markdown_table
from ..progress import bar
from .features import Keeping, Network, mapped_features_of
from .gathered import Gathered, Group, Picture
from .results import plus_minus, record, said_of, spread
from .sheets import Tile, sheet


def load_lpips(
    backbone: str | None, weights: pathlib.Path | None, side: int | None, model: str | None, device: str | None
) -> Lpips:
    """What --backbone names.

    Args:
        backbone: see `Lpips.load`; `vae` and `clip` alone are the embedded model's. None: `alex` if there are weights,
            else `vae`.
        weights: of alex or vgg.
        side: pixels per side that pictures are resized to; None: what the network is made for.
        model: that made the pictures; None: not known.
        device: of the network; None: a GPU if there is one.

    Raises:
        UsageError: another name, or weights that cannot be loaded.
    """
    import torch

    own = model if model in embedded_models() else embedded_models()[0]
    backbone = backbone or ("alex" if weights is not None else "vae")
    kind = backbone.partition(":")[0]
    if kind not in ("alex", "vgg", "clip", "vae"):
        raise UsageError(f"--backbone: expected alex, vgg, clip:NAME or vae:NAME, got {backbone!r}")
    if weights is not None and kind in ("clip", "vae"):
        raise UsageError(f"--weights: expected only with --backbone alex or vgg, got --backbone {backbone}")
    if backbone in ("clip", "vae"):
        backbone = f"{backbone}:{own}"
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return Lpips.load(backbone, weights=weights, side=side, device=where)
    except UsageError as error:
        words = str(error)
        flags = {"weights:": "--weights:", "side:": "--size:"}
        known = {**flags, **dict.fromkeys(("backbone:", "clip:", "vae:"), "--backbone:")}
        for word, flag in known.items():
            words = flag + words.removeprefix(word) if words.startswith(word) else words
        raise UsageError(words) from None


def evaluate_pairs(gathered: Gathered, lpips: Lpips, keeping: Keeping, *, alike: int = 8) -> dict[str, Any]:
    """The distances of all pairs of each row's pictures.

    Args:
        gathered: the pictures.
        lpips: the network.
        keeping: where its features are kept.
        alike: how many of the most alike pairs are named.

    Returns:
        What `lpips.json` holds.

    Raises:
        UsageError: fewer than two pictures.
    """
    rows = []
    for group in gathered.groups:
        if len(group.pictures) < 2:
            raise UsageError(f"lpips: {group.label}: expected at least 2 pictures, got {len(group.pictures)}")
        features = mapped_features_of(group.pictures, _network(lpips), keeping)
        with bar(1, "all pairs", "", keeping.progress) as advance:
            found = all_pairs(features, alike=alike, progress=lambda share: advance(share))
        names = [picture.name for picture in group.pictures]
        pairs = [{"first": names[i], "second": names[j], "distance": value} for i, j, value in found.alike]
        head = {"label": group.label, "path": group.path, **group.about}
        number = f"{lpips.name}; all {found.pairs} pairs of {found.pictures}"
        distance = {"mean": found.mean, "std": found.std if found.pairs > 1 else None}
        counts = {"count": found.pictures, "pairs": found.pairs}
        rows.append({**head, "number": number, **counts, "distance": distance, "alike": pairs})
    return record("lpips", gathered, keeping.background, features=lpips.name, against=None, rows=rows)


def evaluate_pairwise(gathered: Gathered, against: Gathered, lpips: Lpips, keeping: Keeping) -> dict[str, Any]:
    """The distances of each row's pictures from those of the same names in `against`.

    Args:
        gathered: the pictures of the rows.
        against: their partners.
        lpips: the network.
        keeping: where its features are kept.

    Returns:
        What `lpips.json` holds.

    Raises:
        UsageError: pictures without a partner, or several with the name of one.
    """
    theirs = _by_name(against)
    where = ", ".join(dict.fromkeys(group.path for group in against.groups))
    rows = []
    for group in gathered.groups:
        _require_partners(group, theirs, where)
        ours = mapped_features_of(group.pictures, _network(lpips), keeping)
        partners = mapped_features_of([theirs[picture.name] for picture in group.pictures], _network(lpips), keeping)
        distances = pairwise(ours, partners).tolist()
        each = [{"name": p.name, "distance": value} for p, value in zip(group.pictures, distances, strict=True)]
        head = {"label": group.label, "path": group.path, **group.about}
        number = f"{lpips.name}; {len(each)} pairs of one name"
        found = {"count": len(each), "pairs": len(each), "distance": spread(distances), "pictures": each}
        rows.append({**head, "number": number, **found})
    paths = list(dict.fromkeys(group.path for group in against.groups))
    more = {"features": lpips.name, "against": paths, "left_out_against": against.left_out}
    return record("lpips", gathered, keeping.background, **more, rows=rows)


def _network(lpips: Lpips) -> Network:
    return Network(lpips.name, {"features": lpips.name, "digest": lpips.digest}, lpips)


def _by_name(against: Gathered) -> dict[str, Picture]:
    found: dict[str, Picture] = {}
    for picture in against.pictures():
        if picture.name in found:
            raise UsageError(f"--against: {picture.name} is in several folders, and there is one partner for each name")
        found[picture.name] = picture
    return found


def _require_partners(group: Group, theirs: dict[str, Picture], where: str) -> None:
    ours = {picture.name for picture in group.pictures}
    parts = []
    for names, here, there in ((ours - theirs.keys(), group.label, where), (theirs.keys() - ours, where, group.label)):
        if names:
            count = f"{len(names)} picture{'s' if len(names) > 1 else ''}"
            parts.append(f"{count} of {here} without one of that name in {there} ({some(sorted(names))})")
    if parts:
        raise UsageError(f"lpips: pairs are pictures of one name: {'; '.join(parts)}")


def as_markdown(result: dict[str, Any]) -> str:
    """The table, and what the numbers are."""
    lines = [[row["label"], row["number"], plus_minus(row["distance"])] for row in result["rows"]]
    text = "Mean ± standard deviation over the pairs."
    if result["against"] is None:
        text += " Pairs that share a picture are not independent: the deviation is not the mean's error."
    if "like" in result["features"]:
        text += " This is not LPIPS, whose weights were fitted to people's judgements: compare it with itself only."
    return f"{markdown_table(['', 'number', 'distance'], lines)}\n\n{text}{said_of(result)}"


def pairs_sheet(result: dict[str, Any], gathered: Gathered, background: Sequence[int]) -> bytes | None:
    """The most alike pairs of each row beside each other, as PNG; None where there are none."""
    lines: list[list[Tile]] = []
    for row, group in zip(result["rows"], gathered.groups, strict=True):
        files = {picture.name: picture.file for picture in group.pictures}
        for pair in row["alike"]:
            words = [pair["first"], pair["second"], f"distance {pair['distance']:.4g}"]
            lines.append([Tile(files[pair["first"]]), Tile(files[pair["second"]], [group.label, *words])])
    return sheet(lines, background) if lines else None
