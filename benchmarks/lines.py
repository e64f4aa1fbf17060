"""Files of JSON, an object a line, which are whole whenever a run is cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, none where there is no file; a line that was cut off is left out."""
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            yield found


def add(file: Path, line: dict[str, Any]) -> None:
    """Adds an object at the end of a file, on a line of its own where the last one was cut off."""
    with file.open("a+b") as lines:
        size = lines.seek(0, os.SEEK_END)
        if size:
            lines.seek(size - 1)
        cut = bool(size) and lines.read(1) != b"\n"
        lines.write(b"\n" * cut + json.dumps(line).encode() + b"\n")
