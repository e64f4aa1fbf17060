"""Pictures of results: thumbnails with words beside them."""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from ...metrics.pictures import read_picture
from ...runs.tables import in_one_line

SIDE = 128  # pixels of a thumbnail
GAP = 6
TEXT = 14  # pixels of letters
WIDTH = 460  # pixels of the words beside a thumbnail


@dataclasses.dataclass(frozen=True)
class Tile:
    """A thumbnail, and lines of words to its right."""

    file: pathlib.Path
    words: Sequence[str] = ()


def sheet(lines: Sequence[Sequence[Tile]], background: Sequence[int]) -> bytes:
    """Lines of tiles, as PNG.

    Args:
        lines: of as many tiles each.
        background: RGB behind transparent pictures.
    """
    from PIL import Image, ImageDraw

    wide = GAP + max(sum(SIDE + GAP + WIDTH * bool(tile.words) for tile in line) for line in lines)
    image = Image.new("RGB", (wide, (SIDE + GAP) * len(lines) + GAP), "white")
    draw = ImageDraw.Draw(image)
    font = _font()
    for row, line in enumerate(lines):
        x, y = GAP, GAP + row * (SIDE + GAP)
        for tile in line:
            made = _thumbnail(tile.file, background)
            image.paste(made, (x + (SIDE - made.width) // 2, y + (SIDE - made.height) // 2))
            x += SIDE + GAP
            for i, words in enumerate(tile.words):
                draw.text((x, y + i * (TEXT + 4)), _cut(words, draw, font), fill="black", font=font)
            x += WIDTH * bool(tile.words)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _thumbnail(file: pathlib.Path, background: Sequence[int]) -> Any:
    from PIL import Image

    made = Image.fromarray(read_picture(file, background).permute(1, 2, 0).numpy())
    made.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return made


@functools.cache
def _font() -> Any:
    from PIL import ImageFont

    # matplotlib brings one that has the letters of most languages.
    try:
        from matplotlib import font_manager

        return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), TEXT)
    except (ImportError, OSError):
        return ImageFont.load_default(TEXT)


def _cut(words: str, draw: Any, font: Any) -> str:
    """The beginning of some words that fits into the width, in one line."""
    words = in_one_line(words)
    if draw.textlength(words, font=font) <= WIDTH - GAP:
        return words
    while words and draw.textlength(words + "…", font=font) > WIDTH - GAP:
        words = words[:-1]
    return words + "…"
