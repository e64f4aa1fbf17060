"""The generators that runs of adapt have made, as whoever takes a generator finds them."""

from __future__ import annotations

import pathlib

from ..errors import UsageError
from ..runs.folder import application_of

# The application, and where in its runs the generator lies.
ADAPT, WITHIN = "adapt", "generator"


def located(name: str) -> str:
    """What of a run of adapt is its generator; any other name as it is.

    Raises:
        UsageError: a run that does not have one, or does not have it yet.
    """
    folder = pathlib.Path(name)
    held = application_of(folder) if folder.is_dir() else None
    if held is None:
        return name
    if held != ADAPT:
        raise UsageError(f"generator: {name} holds a run of {held}, which does not have a generator; one of adapt has")
    if not (folder / WITHIN).is_dir():
        raise UsageError(
            f"generator: {name} is an unfinished run of adapt, which writes its generator at the end: continue it with "
            f"ldp-fast adapt --resume {name}"
        )
    return str(folder / WITHIN)
