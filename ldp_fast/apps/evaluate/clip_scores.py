"""`ldp-fast evaluate clip-score`: how near each picture is to its caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...metrics.clip_score import clip_cosines, clip_scores
from ...runs.tables import markdown_table
from .clips import Judge
from .gathered import Gathered
from .results import plus_minus, record, said_of, spread


def evaluate_clip_score(gathered: Gathered, judges: Sequence[Judge]) -> dict[str, Any]:
    """The cosine between each picture and its caption, and 100·max(cosine, 0); by each CLIP.

    Args:
        gathered: pictures with captions.
        judges: one a row.

    Returns:
        What `clip-score.json` holds.
    """
    rows = []
    for group in gathered.groups:
        captions = [str(picture.caption) for picture in group.pictures]
        for judge in judges:
            cosines = clip_cosines(judge, judge.of_pictures(group.pictures), captions)
            each = [
                {"name": picture.name, "caption": picture.caption, "cosine": cosine, "score": score}
                for picture, cosine, score in zip(
                    group.pictures, cosines.tolist(), clip_scores(cosines).tolist(), strict=True
                )
            ]
            head = {"label": group.label, "path": group.path, **group.about, "clip": judge.name, "count": len(each)}
            means = {name: spread([one[name] for one in each]) for name in ("cosine", "score")}
            rows.append({**head, **means, "pictures": each})
    cut = any(judge.truncate for judge in judges)
    return record("clip-score", gathered, judges[0].keeping.background, truncated=cut, rows=rows)


def as_markdown(result: dict[str, Any]) -> str:
    """The table, and what its columns are."""
    lines = [
        [row["label"], row["clip"], str(row["count"]), plus_minus(row["cosine"]), plus_minus(row["score"], form=".2f")]
        for row in result["rows"]
    ]
    table = markdown_table(["", "CLIP", "pictures", "cosine", "CLIP score, 100·max(cosine, 0)"], lines)
    text = "Mean ± standard deviation over the pictures. Numbers of different CLIPs cannot be compared."
    return f"{table}\n\n{text}{said_of(result)}"
