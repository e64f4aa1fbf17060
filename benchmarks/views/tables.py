"""What was measured as numbers and Markdown tables, and the sheets of what went wrong."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ldp_fast.runs import files, image_files
from ldp_fast.runs.tables import markdown_table
from ldp_fast.zoo import captions, world

from ..terms.measures import CRITERIA, thresholds
from ..terms.page import right
from ..terms.summary import share_of, shares
from .batches import Batches
from .plan import SETS, Plan

SHOWN = 60  # pictures of a sheet at most
PAIRS = 6  # in a row of it
HEAD = ["", "right (95 %)", "fails: " + ", ".join(CRITERIA), "height as named", "outside of it, °"]
HEAD += ["front, side, back as named"]
Image = Mapping[str, Any]


def summary(images: Sequence[Image]) -> dict[str, Any]:
    """Of some pictures: `shares`, and how their cameras stand beside the words.

    Returns:
        Beside what `shares` has, of pictures that show their camera: `height`, whether it is as high as asked for, as
        `shares` has `right`; `outside`, degrees out of the words' range in the mean of all, `outside_of_others` of
        those that are out of it; `side`, whether it is the front, the side or the back; of true renders
        `elevation_error`, in the mean, and `largest_error`.
    """
    placed = [image for image in images if image["outside"] is not None]
    out = [image["outside"] for image in placed if image["outside"] > 0]
    errors = [image["elevation_error"] for image in placed if "elevation_error" in image]
    found = {
        **shares(images),
        "height": share_of([image["height"] for image in placed]),
        "outside": sum(out) / max(1, len(placed)),
        "outside_of_others": sum(out) / max(1, len(out)),
        "side": share_of([image["side"] for image in placed if image["side"] is not None]),
    }
    if errors:
        found |= {"elevation_error": sum(errors) / len(errors), "largest_error": max(errors)}
    return found


def groups(plan: Plan, images: Sequence[Image]) -> dict[str, dict[str, dict[str, Any]]]:
    """Summaries by set (`all` among them) and by what they are of: all of it, a view, a pattern, a shape."""

    def scene_has(name: str, value: str) -> Callable[[Image], bool]:
        return lambda image: getattr(captions.scene_of(image["caption"]), name) == value

    def asked(view: str) -> Callable[[Image], bool]:
        return lambda image: bool(image["asked"] == view)

    parts: dict[str, Callable[[Image], bool]] = {"all": lambda image: True}
    parts |= {f"{view} view": asked(view) for view in plan.views}
    parts |= {name: scene_has("pattern", name) for name in world.PATTERNS}
    parts |= {name: scene_has("shape", name) for name in world.SHAPES}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for group in ("all", *SETS):
        mine = [image for image in images if group in ("all", image["group"])]
        rows = {name: [image for image in mine if belongs(image)] for name, belongs in parts.items()}
        if mine:
            found[group] = {name: summary(there) for name, there in rows.items() if there}
    return found


def cells_of(found: Mapping[str, Any]) -> list[str]:
    """The columns of `HEAD` but the first."""
    fails = ", ".join(str(found["failing"][name]) for name in CRITERIA)
    height, side = (right(found[name]) if found[name]["images"] else "–" for name in ("height", "side"))
    outside = f"{found['outside']:.1f} ({found['outside_of_others']:.1f})" if found["height"]["images"] else "–"
    return [right(found), fails, height, outside, side]


def document(plan: Plan, images: Sequence[Image]) -> str:
    """The tables, and what they are of."""
    total = len(plan.tasks())
    of = "True renders"
    if plan.source == "samples":
        of = f"Samples of {plan.steps} DDIM steps, guidance {plan.guidance:g}, weights `{plan.weights}`"
    parts = [
        f"{of}: {len(images)} of {total} pictures, {len(plan.seen)} captions that training saw and "
        f"{len(plan.held_out)} that it did not, each at {plan.each} of {len(plan.views)} views, {plan.samples} × each. "
        f"Outside: of the elevations that the words name, in the mean of all (of those that are outside). A plain "
        f"sphere does not show its camera, and counts as right or wrong alone."
    ]
    found = groups(plan, images)
    whole = {group: rows["all"] for group, rows in found.items()}
    named = {
        "": whole,
        **{group: {n: row for n, row in found[group].items() if n != "all"} for group in SETS if group in found},
    }
    for group, rows in named.items():
        title = f"**{group[0].upper()}{group[1:]}, by view, pattern and shape**\n\n" if group else ""
        parts.append(title + markdown_table(HEAD, [[name, *cells_of(row)] for name, row in rows.items()]))
    error = whole.get("all", {})
    if "elevation_error" in error:
        parts.append(
            f"The elevation found is {error['elevation_error']:.1f}° from the camera's in the mean, "
            f"{error['largest_error']:.1f}° at most."
        )
    return "\n\n".join(parts)


def write(out: pathlib.Path, plan: Plan, batches: Batches, model: str) -> str:
    """Writes results.json, results.md and the sheets into a folder; returns the tables."""
    images = batches.images()
    made = document(plan, images)
    _sheet(out / "failures", batches, [image for image in images if not image["right"]])
    _sheet(out / "heights", batches, [image for image in images if image["right"] and image["height"] is False])
    result = {"model": model, "thresholds": thresholds(), "pictures": len(images), "of": len(plan.tasks())}
    files.write_json(out / "results.json", {**result, "groups": groups(plan, images)})
    files.write_atomically(out / "results.md", f"{made}\n".encode())
    return made


def _sheet(path: pathlib.Path, batches: Batches, images: Sequence[Image]) -> None:
    """Pictures beside their nearest true renders, and a line each; no file for none."""
    sheet, text = path.with_suffix(".png"), path.with_suffix(".txt")
    if not images:
        for file in (sheet, text):
            file.unlink(missing_ok=True)
        return
    shown = images[:SHOWN]
    pairs = [picture for image in shown for picture in batches.pair(image["number"])]
    image_files.save_png(sheet, image_files.contact_sheet(torch.stack(pairs), 2 * min(PAIRS, len(shown))))
    lines = [
        f"{image['number']}: {image['caption']}, {image['asked']} view ({image['group']}): "
        f"{', '.join(image['failing']) or 'right'}; shows {image['shown']}, {image['view']['elevation']:.0f}° high"
        for image in images
    ]
    files.write_atomically(text, ("\n".join(lines) + "\n").encode())
