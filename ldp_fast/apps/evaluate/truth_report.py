"""A comparison with the truth as text, and as a picture of the worst objects."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...runs.tables import markdown_table
from .judge import CRITERIA

WORST = 8  # objects in the picture
LINE = 14  # pixels of a line of text


def as_markdown(found: dict[str, Any]) -> str:
    """The table of an evaluation, what `right` asks for, and what was left out."""
    lines = []
    for row in found["rows"]:
        settings = "".join(f", {name} {value}" for name, value in row["settings"].items())
        lines.append([row["method"], row["losses"] + settings, *_cells(row)])
    if found["reachable"]:
        lines.append(["the truth itself, through this VAE", "", *_cells(found["reachable"])])
    head = ["method", "losses", "objects", "right (95 %)", *CRITERIA]
    limits = found["thresholds"]
    text = (
        f"`right`: the volume's IoU with the solid asked for, in its best pose, is at least {limits['least_iou']:g}; "
        f"at least {limits['least_body']:g} of it is one body; rays that miss the solid, and the solid "
        f"{limits['margin']:g} times as large or as small, have a mean opacity of at most {limits['most_fog']:g}; rays "
        f"through its hole, of at most {limits['most_in_hole']:g}; rays that hit it, whichever size it has, of at "
        f"least {limits['least_opacity']:g}; each colour is nearest to the name asked for, and a second one has at "
        f"least {limits['least_share']:g} of the surface; at most {limits['most_stray']:g} of it has neither colour; a "
        f"pattern goes the way that was asked for, and its number of periods is at most {limits['periods_off']:g} of "
        f"that off, or {limits['periods_near']:g} where that is more. The last eight columns: objects that fail, and "
        f"the mean IoU, share of largest bodies, opacity of fog, in the hole and of the solid, ΔE of colours, share "
        f"with neither colour, and of patterned objects the share of the surface with the colour that the solid has "
        f"there."
    )
    if found["skipped"]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found["skipped"].items())
        text += f"\n\nNot measured: {reasons}."
    return f"{markdown_table(head, lines)}\n\n{text}"


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    names = ("iou", "largest_body", "fog", "hole", "opacity", "colour_error", "neither", "agreement")
    means = {criterion: row[name] for criterion, name in zip(CRITERIA, names, strict=True)}
    share = f"{row['right']} = {100 * row['share']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    told = [f"{row['failing'][name]} ({'–' if mean is None else f'{mean:.3g}'})" for name, mean in means.items()]
    return [str(row["objects"]), share, *told]


def said_of(made: dict[str, Any]) -> list[str]:
    """What is to be said of one object: its caption and verdict, and its measures."""
    verdict = "right" if made["right"] else "fails: " + ", ".join(made["failing"])
    parts = []
    for part in made["colour"]["parts"]:
        error = "" if part["error"] is None else f" (dE {part['error']:.0f})"
        parts.append(f"{part['asked']} is {part['name'] or 'absent'}{error}, {100 * part['share']:.0f} %")
    shape, clean = made["shape"], made["cleanliness"]
    numbers = f"IoU {shape['iou']:.2f}, body {shape['largest_body']:.2f}, fog {clean['fog']:.3f}"
    return [f"{made['folder']}: {made['caption']}; {verdict}", f"{numbers}; {'; '.join(parts)}"]


def worst_first(objects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects, those that fail most first, and of these those of the least IoU."""
    return sorted(objects, key=lambda made: (-len(made["failing"]), made["shape"]["iou"], made["folder"]))


def sheet(objects: Sequence[dict[str, Any]], pictures: Mapping[str, np.ndarray]) -> bytes:
    """The worst objects as a PNG: views of each beside those of the solid in the same pose.

    Args:
        objects: with their measures.
        pictures: [2, V, H, W, 3] in [0, 1] by the names of folders: the object's views, the solid's.
    """
    from PIL import Image, ImageDraw

    rows = []
    for made in worst_first(objects)[:WORST]:
        own, true = pictures[made["folder"]]
        strip = np.concatenate([*own, np.ones((own.shape[1], 8, 3), dtype=own.dtype), *true], axis=1)
        words = said_of(made)
        text = Image.new("RGB", (strip.shape[1], LINE * len(words) + 4), "white")
        draw = ImageDraw.Draw(text)
        for i, line in enumerate(words):
            draw.text((4, 2 + LINE * i), line, fill="black")
        rows += [np.asarray(text), (strip * 255 + 0.5).clip(0, 255).astype(np.uint8)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(padded)).save(buffer, format="PNG")
    return buffer.getvalue()
