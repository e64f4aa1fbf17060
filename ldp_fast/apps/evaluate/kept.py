"""What an evaluation keeps of each run, in `DIR/evaluation/`, so that a later call measures only what is new."""

from __future__ import annotations

import functools
import glob
import hashlib
import inspect
import json
import pathlib
from types import ModuleType
from typing import Any

from torch import Tensor

from ...errors import UsageError
from ...runs import files, image_files
from ...runs.folder import status
from .found import Run

PACKAGES = ("scipy", "scikit-image", "pillow")  # beside those that every record names


def kept_as(
    place: pathlib.Path, run: Run, purpose: str, about: object, end: str, within: pathlib.Path | None = None
) -> pathlib.Path:
    """The file of a run for one purpose: of this record of the run, and made as `about` says by these versions.

    Args:
        place: the run's folder.
        run: its configuration; that of another edition of the model's weights is another.
        purpose: a word that may be part of a file's name.
        about: what else the file depends on; its `repr` tells one from another.
        end: of the file's name.
        within: the folder of the file; None: `evaluation/` beside the run's folder.
    """
    name = place.absolute().name
    return (within or place.parent / "evaluation") / f"{name}-{purpose}-{key_of(place, run, about)}.{end}"


def key_of(place: pathlib.Path, run: Run, about: object) -> str:
    """Eight hexadecimal digits for what is made of the run in a folder; arguments as for `kept_as`."""
    # A run that was made anew has another record. What was added to a run later, such as a mesh, is not another run.
    record = {key: value for key, value in status(place).items() if key != "files"}
    record |= {"configuration": run.configuration.fingerprint(), "made by": _versions()}
    return hashlib.sha256(json.dumps([record, repr(about)], sort_keys=True).encode()).hexdigest()[:8]


@functools.cache
def _versions() -> dict[str, str]:
    return files.versions(*PACKAGES)


def remove_others(path: pathlib.Path) -> None:
    """Removes what was kept of the same run for the same purpose and has another record or was made in another way."""
    of, end = path.stem.rpartition("-")[0], path.suffix
    for other in path.parent.glob(f"{glob.escape(of)}-{'[0-9a-f]' * 8}{end}"):
        if other != path:
            other.unlink(missing_ok=True)


def kept_picture(path: pathlib.Path) -> Tensor | None:
    """A picture `[3, H, W]` in [0, 1]; None where it is missing or damaged, and has to be made again."""
    try:
        return image_files.read_images([path])[0]
    except (OSError, ValueError, SyntaxError):
        return None


def kept_record(path: pathlib.Path, *keys: str) -> dict[str, Any] | None:
    """A JSON object with these keys; None where it is missing or damaged, and has to be made again."""
    try:
        found = files.read_json(path)
    except (UsageError, OSError):
        return None
    return found if isinstance(found, dict) and all(key in found for key in keys) else None


def source_of(*modules: ModuleType) -> str:
    """A digest of the modules' source: what they measure, while a version is being worked on, is not the same."""
    found = hashlib.sha256()
    for module in modules:
        try:
            found.update(inspect.getsource(module).encode())
        except OSError:  # an installation without source, of which the version says enough
            found.update(module.__name__.encode())
    return found.hexdigest()
