"""`ldp-fast evaluate colour`: how saturated pictures are, and how much of them is clipped."""

from __future__ import annotations

from typing import Any

import torch

from ...metrics import clipped_fraction, saturation
from ...metrics import colour as measures
from ...runs.tables import markdown_table
from .features import Keeping, Network, features_of
from .gathered import Gathered
from .kept import source_of
from .results import plus_minus, record, said_of, spread


def _compute(pixels: torch.Tensor) -> torch.Tensor:
    images = pixels.float() / 255
    return torch.stack([saturation(images), clipped_fraction(images)], dim=1)


def evaluate_colour(gathered: Gathered, keeping: Keeping) -> dict[str, Any]:
    """Saturation and clipped share of each picture, with mean and standard deviation over each row's pictures.

    Args:
        gathered: the pictures.
        keeping: where what was measured is kept.

    Returns:
        What `colour.json` holds.
    """
    network = Network("colour", {"source": source_of(measures)}, _compute)
    rows = []
    for group in gathered.groups:
        found = features_of(group.pictures, network, keeping).astype(float)
        each = [
            {"name": picture.name, "saturation": float(values[0]), "clipped": float(values[1])}
            for picture, values in zip(group.pictures, found, strict=True)
        ]
        about = {"label": group.label, "path": group.path, **group.about, "count": len(each)}
        means = {name: spread(found[:, i].tolist()) for i, name in enumerate(("saturation", "clipped"))}
        rows.append({**about, **means, "pictures": each})
    return record("colour", gathered, keeping.background, rows=rows)


def as_markdown(result: dict[str, Any]) -> str:
    """The table, and what its columns are."""
    lines = [
        [row["label"], str(row["count"]), plus_minus(row["saturation"]), plus_minus(row["clipped"])]
        for row in result["rows"]
    ]
    table = markdown_table(["", "pictures", "saturation (HSV)", "clipped share"], lines)
    return (
        f"{table}\n\nMean ± standard deviation over the pictures. Saturation: (max − min) / max of the channels, mean "
        f"over a picture's pixels. Clipped: the share of its channel values within 1/255 of 0 or of 1.{said_of(result)}"
    )
