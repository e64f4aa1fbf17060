"""Lists of captions that protocols are defined by, kept as data files that say where they come from."""

from __future__ import annotations

import functools
import pathlib

from ..clip.templates import read_lines

FOLDER = pathlib.Path(__file__).parent / "prompts"


@functools.cache
def object_centric_coco() -> tuple[str, ...]:
    """The 153 captions by which DreamFields is judged, in its order and as it reads them (lower case, a full stop)."""
    return read_lines(FOLDER / "object_centric_coco.txt")
