"""What an evaluation keeps of each run, in `DIR/evaluation/`, so that a later call measures only what is new."""

from __future__ import annotations

import glob
import hashlib
import pathlib


def kept_as(folder: pathlib.Path, run: str, purpose: str, about: object, end: str) -> pathlib.Path:
    """The file of a run for one purpose: of this record of the run, and made as `about` says.

    Args:
        folder: that is evaluated.
        run: name of the run's folder in it.
        purpose: a word that may be part of a file's name.
        about: what else the file depends on; its `repr` tells one from another.
        end: of the file's name.
    """
    # A run that was made anew has another record, and what was kept of the old one another name.
    record = [(folder / run / file).read_bytes() for file in ("config.yaml", "run.json")]
    key = hashlib.sha256(b"\0".join([*record, repr(about).encode()])).hexdigest()[:8]
    return folder / "evaluation" / f"{run}-{purpose}-{key}.{end}"


def remove_others(path: pathlib.Path) -> None:
    """Removes what was kept of the same run for the same purpose and has another record or was made in another way."""
    of, end = path.stem.rpartition("-")[0], path.suffix
    for other in path.parent.glob(f"{glob.escape(of)}-{'[0-9a-f]' * 8}{end}"):
        if other != path:
            other.unlink(missing_ok=True)
