"""Where a command will write: tried before the minutes that come first."""

from __future__ import annotations

import pathlib
import tempfile

from ..errors import UsageError, reason
from ..runs.folder import LOCK


def check_writable(folder: pathlib.Path) -> None:
    """Checks that files can be written into a folder, which may have to be made first; leaves nothing there.

    Raises:
        UsageError: they cannot.
    """
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if not place.is_dir():
        raise UsageError(f"--out: expected a folder, got {folder}; {place} is a file")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UsageError(f"--out: {folder} cannot be written to ({reason(error)}): choose another") from None


def occupied(folder: pathlib.Path) -> bool:
    """Whether a folder that exists holds anything but a lock, and what `write_atomically` was interrupted in."""
    return any(
        path.name != LOCK and not (path.name.startswith(".") and path.name.endswith(".part"))
        for path in folder.iterdir()
    )
