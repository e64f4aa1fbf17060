"""The figures of docs/stylegan_adaptation.md, in the style of benchmarks/plots.py."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ..plots import FAINT, INK, drawn
from .renders import SIDE
from .summary import Row

SOURCE, TRUTH = "source", "true renders"  # beside the ways
COLOURS = ("#1f77b4", "#e08a3c", "#5f9e6e", "#9a5fb5", "#b5482f", "#7d6b54")
MARKERS = "o^sDvPX*"
SHOWN = 12  # pictures of a strip
INCH = 0.56  # a picture's side


def strip(sheet: pathlib.Path, count: int = SHOWN) -> np.ndarray | None:
    """The first pictures of a sheet, as far as its first row has them, side by side; None without the file."""
    from PIL import Image

    if not sheet.exists():
        return None
    with Image.open(sheet) as opened:
        found: np.ndarray = np.asarray(opened.convert("RGB"))[:SIDE, : count * SIDE]
    return found


def pictures(rows: Sequence[tuple[str, pathlib.Path]], file: pathlib.Path) -> bool:
    """Strips of the same z's, one below the other; False where there is not one.

    Args:
        rows: what stands beside a strip, and its sheet. A row without a name is a gap.
        file: of the figure.
    """
    strips = [(name, strip(sheet) if name else None) for name, sheet in rows]
    strips = [(name, found) for name, found in strips if found is not None or not name]
    there = [found for _, found in strips if found is not None]
    if not there:
        return False
    height = INCH * sum(1.0 if found is not None else 0.35 for _, found in strips)
    with drawn(file, size=(1.5 + INCH * max(x.shape[1] for x in there) / SIDE, height)) as ((axes,),):
        top, ticks = 0.0, []
        for name, found in strips:
            if found is None:
                top += 0.35
                continue
            axes.imshow(found, extent=(0, found.shape[1] / SIDE, top + 0.96, top), interpolation="nearest")
            ticks.append((top + 0.48, name))
            top += 1.0
        axes.set(xlim=(0, max(x.shape[1] for x in there) / SIDE), ylim=(top, 0), xticks=[])
        axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return True


def plane(found: Mapping[str, Mapping[str, Row]], file: pathlib.Path) -> bool:
    """Each cell as a point: what was asked for against what was kept, and likeness against the distance of pairs.

    Args:
        found: by way and target; true renders are drawn in ink, the source is left out.
        file: of the figure.
    """
    found = {way: rows for way, rows in found.items() if rows and way != SOURCE}
    if not found.keys() - {TRUTH}:
        return False
    colours = dict(zip((way for way in found if way != TRUTH), COLOURS * 3, strict=False)) | {TRUTH: INK}
    targets = list(dict.fromkeys(target for rows in found.values() for target in rows))
    panels = (
        ("kept", "hit", "identity kept, share of pictures", "R-Precision"),
        ("pairs", "fid", "LPIPS-like distance of all pairs", "FID to renders of the target"),
    )
    with drawn(file, 1, 2, size=(10, 4.2)) as axes:
        for panel, (x, y, across, up) in zip(axes[0], panels, strict=True):
            for way, rows in found.items():
                for target, row in rows.items():
                    marker = MARKERS[targets.index(target) % len(MARKERS)]
                    panel.plot(row.number(x), row.number(y), marker, color=colours[way], markersize=7, alpha=0.85)
                panel.plot([], [], "o", color=colours[way], label=way)
            panel.set(xlabel=across, ylabel=up)
            panel.grid(True, color=FAINT, alpha=0.25)
        for target, marker in zip(targets, MARKERS * 3, strict=False):
            axes[0, 1].plot([], [], marker, color=FAINT, label=target)
        axes[0, 0].set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes[0, 0].legend(frameon=False, fontsize=7)
        handles = axes[0, 1].get_legend_handles_labels()
        few = [(h, name) for h, name in zip(*handles, strict=True) if name in targets]
        axes[0, 1].legend(*zip(*few, strict=True), frameon=False, fontsize=7)
    return True
