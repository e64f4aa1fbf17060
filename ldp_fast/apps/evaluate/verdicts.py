"""R-Precision's two protocols on embeddings that are kept: who is a hit, by which captions the others were beaten."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ...errors import UsageError
from ...metrics.prompts import object_centric_coco
from ...metrics.retrieval import TIE, bootstrap_interval, n_way, r_precision
from ...zoo import captions
from .clips import Judge
from .gathered import Picture
from .sheets import Tile, sheet

PAPER, DREAMFIELDS = "paper", "dreamfields"
# The camera of DreamFields' judgement, azimuth and elevation in degrees: pose_spherical(30, -45, 4) there, whose second
# number is the elevation, downwards, and whose first turns the other way round. It trains from an elevation of 30°.
FIXED = (330.0, 45.0)
ROWS = 1024  # pictures that are compared with all captions at once
BEATERS = 3  # captions that are named
MOST = 120  # pictures in a sheet
COLUMN = 16  # of them below each other, where there are not many


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a picture is judged.

    Attributes:
        kind: `paper`, among captions that are drawn, or `dreamfields`, among all of the pool.
        pool: captions.
        distractors: that are drawn for a picture, by `paper`.
        known: whether the pool is DreamFields' list, whose captions are known however they are punctuated.
    """

    kind: str
    pool: Sequence[str]
    distractors: int
    known: bool = False

    def size(self) -> int:
        """Different captions in the pool."""
        return len({self.identity(caption) for caption in self.pool})

    def identity(self, caption: str) -> Hashable:
        """What a caption shows: those of one identity are never told apart."""
        return captions.identity(_bare(caption) if self.known else caption)

    def check(self) -> None:
        """Raises UsageError where there are too few captions."""
        if self.kind == PAPER and self.size() <= self.distractors:
            raise UsageError(
                f"--distractors: {self.distractors} and the right one were asked for, but there are {self.size()} "
                f"different prompts; give more of them with --prompts FILE, or fewer --distractors"
            )
        if self.kind == DREAMFIELDS and self.size() < 2:
            raise UsageError(f"--prompts: expected at least 2 different captions to choose from, got {self.size()}")


def protocol_of(kind: str, pool: Sequence[str], own: Sequence[str], distractors: int, *, known: bool) -> Protocol:
    """A protocol that is checked.

    Args:
        kind: `paper` or `dreamfields`.
        pool: captions; for `known` they are DreamFields' list.
        own: captions of the pictures, which by `dreamfields` are in the list in any case.
        distractors: see `Protocol`.
        known: see `Protocol`.

    Raises:
        UsageError: too few captions.
    """
    pool = list(object_centric_coco()) if known else list(pool)
    if kind == DREAMFIELDS:
        pool = [*pool, *sorted(set(own))]
    found = Protocol(kind, pool, distractors, known)
    found.check()
    return found


def _bare(caption: str) -> str:
    return caption.lower().strip(" .,")


def hits_of(
    judge: Judge, features: torch.Tensor, said: Sequence[str], protocol: Protocol, draws: Sequence[int]
) -> list[bool]:
    """Whether each picture's caption is the nearest.

    Args:
        judge: the CLIP.
        features: `[N, E]` unit embeddings of the pictures.
        said: their captions.
        protocol: how they are judged.
        draws: seeds of the distractors, one a picture; for `paper`.
    """
    found: list[bool] = []
    for start in range(0, len(said), ROWS):
        part = slice(start, start + ROWS)
        if protocol.kind == DREAMFIELDS:
            right = n_way(judge, features[part], said[part], protocol.pool, identity=protocol.identity)
        else:
            right = r_precision(
                judge,
                features[part],
                said[part],
                protocol.pool,
                distractors=protocol.distractors,
                seed=draws[part],
                identity=protocol.identity,
            )
        found += [bool(hit) for hit in right.tolist()]
    return found


def beaten_by(judge: Judge, features: torch.Tensor, said: Sequence[str], protocol: Protocol) -> list[dict[str, Any]]:
    """For each picture its `cosine`, how many captions of the whole pool are as near or nearer, and the nearest few.

    Arguments are as for `hits_of`. By the paper's protocol a picture with such captions is a hit where none of them was
    drawn.
    """
    names: dict[Hashable, str] = {}
    for name in protocol.pool:
        names.setdefault(protocol.identity(name), name)
    place = {key: i for i, key in enumerate(names)}
    pool, words = judge.text_features(list(names.values())), list(names.values())
    found = []
    for start in range(0, len(said), ROWS):
        part = said[start : start + ROWS]
        seen = features[start : start + ROWS]
        own = (seen * judge.text_features(part)).sum(1)
        near = seen @ pool.T
        for row, caption in enumerate(part):
            if (index := place.get(protocol.identity(caption))) is not None:
                near[row, index] = -2.0  # itself is not among those that beat it
            better = int((near[row] >= own[row] - TIE).sum())
            most = near[row].topk(min(BEATERS, better)) if better else None
            beaters = [] if most is None else zip(most.indices.tolist(), most.values.tolist(), strict=True)
            listed = [{"caption": words[i], "cosine": cosine} for i, cosine in beaters]
            found.append({"cosine": float(own[row]), "beaten_by": better, "beaters": listed})
    return found


def summary(objects: Sequence[tuple[Hashable, Sequence[float]]]) -> dict[str, Any]:
    """Mean and standard deviation (n − 1) over repetitions, and a 95 % interval over objects.

    Args:
        objects: of each, to which repetitions it belongs (such as its run's seed), and its hits, one a repetition, or
            shares of hits.

    Returns:
        `mean`, `std` (None for one repetition), `repetitions`, and `interval` (None for one object).
    """
    groups = collections.defaultdict(list)
    for key, hits in objects:
        groups[key].append(hits)
    repetitions = [statistics.fmean(column) for hits in groups.values() for column in zip(*hits, strict=True)]
    return {
        "mean": statistics.fmean(repetitions),
        "std": statistics.stdev(repetitions) if len(repetitions) > 1 else None,
        "interval": bootstrap_interval([hits for _, hits in objects]),
        "repetitions": repetitions,
    }


def verdict_sheet(
    pictures: Sequence[Picture], about: Sequence[dict[str, Any]], hits: Sequence[str], background: Sequence[int]
) -> bytes:
    """Each picture with its own caption and those that beat it, those first that were beaten by most, as PNG.

    Args:
        pictures: with captions, and the names that are shown.
        about: of each, what `beaten_by` gives.
        hits: of each, its verdict in words.
        background: RGB behind transparent pictures.
    """
    order = sorted(range(len(pictures)), key=lambda i: (-about[i]["beaten_by"], about[i]["cosine"], i))
    tiles = []
    for i in order[:MOST]:
        found = about[i]
        rest = found["beaten_by"] - len(found["beaters"])
        words = [pictures[i].name, f"{hits[i]}: {pictures[i].caption} ({found['cosine']:.3f})"]
        words += [f"   nearer: {one['caption']} ({one['cosine']:.3f})" for one in found["beaters"]]
        tiles.append(Tile(pictures[i].file, [*words, *([f"   and {rest} more"] if rest else [])]))
    columns = min(3, -(-len(tiles) // COLUMN))
    rows = -(-len(tiles) // columns)
    return sheet([tiles[i::rows] for i in range(rows)], background)
