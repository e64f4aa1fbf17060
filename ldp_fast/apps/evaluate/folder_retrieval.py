"""R-Precision of folders of pictures with captions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ...runs.tables import markdown_table
from .clips import Judge, count_unknown
from .gathered import SEEDS, Gathered, Picture
from .report import interval, name_of, percent, unknown_words
from .results import counted, record, said_of
from .verdicts import PAPER, Protocol, beaten_by, hits_of, protocol_of, summary, verdict_sheet


def protocol_for(
    gathered: Gathered, *, kind: str, distractors: int, pool: Sequence[str] | None = None, known: bool = False
) -> Protocol:
    """How pictures of folders are judged.

    Args:
        gathered: pictures with captions.
        kind: `paper` or `dreamfields`.
        distractors: how many a picture, for `paper`.
        pool: captions to choose from; None: those of all folders.
        known: whether to choose from DreamFields' list.

    Raises:
        UsageError: too few captions to choose from.
    """
    own = [str(picture.caption) for picture in gathered.pictures()]
    return protocol_of(kind, own if pool is None else pool, own, distractors, known=known)


def evaluate_folders(
    gathered: Gathered,
    judges: Sequence[Judge],
    protocol: Protocol,
    seeds: Sequence[int] = SEEDS,
) -> tuple[dict[str, Any], bytes]:
    """R-Precision of each folder by each CLIP.

    Args:
        gathered: pictures with captions.
        judges: one a row.
        protocol: how a picture is judged, see `protocol_for`.
        seeds: of the distractors, for `paper`; one repetition each.

    Returns:
        What `r-precision.json` holds, and a picture of the worst.
    """
    repetitions = list(seeds) if protocol.kind == PAPER else [0]
    rows = []
    sheets: list[tuple[Picture, dict[str, Any], str]] = []
    for judge in judges:
        for group in gathered.groups:
            captions = [str(picture.caption) for picture in group.pictures]
            features = judge.of_pictures(group.pictures)
            verdicts = [
                hits_of(judge, features, captions, protocol, [_draw(picture, seed) for picture in group.pictures])
                for seed in repetitions
            ]
            hits = list(zip(*verdicts, strict=True))
            about = beaten_by(judge, features, captions, protocol)
            each = [
                {"name": picture.name, "caption": picture.caption, "hits": list(won), **found}
                for picture, won, found in zip(group.pictures, hits, about, strict=True)
            ]
            head = {"label": group.label, "path": group.path, **group.about, "clip": judge.name}
            counts = {"count": len(each), "captions": len(set(captions))}
            rows.append({**head, **counts, **summary([(0, list(won)) for won in hits]), "pictures": each})
            if judge is judges[0]:
                said = [f"hit {sum(won)} of {len(won)}" for won in hits]
                shown = group.pictures
                if len(gathered.groups) > 1:
                    shown = [dataclasses.replace(p, name=f"{group.path}/{p.name}") for p in shown]
                sheets += list(zip(shown, about, said, strict=True))
    background = judges[0].keeping.background
    more = {"truncated": judges[0].truncate, "protocol": _said(protocol, judges, repetitions)}
    result = record("r-precision", gathered, background, **more, rows=rows)
    pictures, abouts, hit = zip(*sheets, strict=True)
    return result, verdict_sheet(pictures, abouts, hit, background)


def _said(protocol: Protocol, judges: Sequence[Judge], seeds: Sequence[int]) -> dict[str, Any]:
    drawn = protocol.kind == PAPER
    return {
        "protocol": protocol.kind,
        "seeds": list(seeds) if drawn else None,
        "distractors": protocol.distractors if drawn else protocol.size() - 1,
        "clips": [judge.name for judge in judges],
        "pool": protocol.size(),
        "unknown": count_unknown([judge.clip for judge in judges], protocol.pool),
    }


def _draw(picture: Picture, seed: int) -> int:
    """A seed of 63 bits: of a picture of one name and caption the same in every folder."""
    words = json.dumps(["distractors", picture.name, picture.caption, seed])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) >> 1


def as_markdown(result: dict[str, Any]) -> str:
    """The table, and how it was measured."""
    protocol = result["protocol"]
    lines = [
        [row["label"], row["clip"], str(row["count"]), str(row["captions"]), percent(row), interval(row)]
        for row in result["rows"]
    ]
    table = markdown_table(["", "CLIP", "pictures", "captions", name_of(protocol), "95 % interval"], lines)
    if protocol["protocol"] == PAPER:
        others = counted(protocol["distractors"], "other")
        how = (
            f"CLIP has to prefer a picture's caption to {others}, drawn for each picture from "
            f"{protocol['pool']}. Mean ± standard deviation over {counted(len(protocol['seeds']), 'draw')}; "
        )
    else:
        how = f"CLIP has to prefer a picture's caption to all others of a list of {protocol['pool']}; "
    how += "interval over pictures (bootstrap). A tie is not a hit."
    return f"{table}\n\n{how}{unknown_words(protocol)}{said_of(result)}"
