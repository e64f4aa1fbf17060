"""The generators that runs of adapt have made, as whoever takes a generator finds them."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from ..errors import UsageError
from ..generators.files import KEY, find
from ..guidance.loading import embedded_models
from ..runs.folder import application_of, status

# The application, and where in its runs the generator lies.
ADAPT, WITHIN = "adapt", "generator"


def anchored(name: str) -> str:
    """A generator's name as it is the same from any working folder: of a file or a folder that is there its whole path.

    What is not there stays as it was typed, for the message.
    """
    there = name.strip() and name not in embedded_models() and os.path.exists(name)
    return os.path.abspath(name) if there else name


def check_apart(name: str, folder: pathlib.Path) -> None:
    """Checks that a run does not write over the generator that it adapts, whichever links lead there.

    Args:
        name: of the generator.
        folder: of the run.

    Raises:
        UsageError: the run would; or there is no such generator.
    """
    if name in embedded_models():
        return
    path = find(located(name))
    # A run writes and removes within its folder, and, where that is a link, within what it means.
    written = (folder.resolve(), (folder / WITHIN).resolve())
    held = (path.resolve(), path.parent.resolve() / path.name)
    if any(file.is_relative_to(within) for file in held for within in written):
        raise UsageError(
            f"generator: {name} lies in {folder}, where the run itself writes its generator and would destroy the one "
            f"that it begins with: choose another --out"
        )


def root_of(name: str) -> str | None:
    """The embedded generator that a generator is, or that it was adapted from, by any number of runs; None: neither.

    What a z shows has then stayed as far as adaptations keep it. One that is gone ends the search.
    """
    followed: set[str] = set()
    source: Any = name
    while isinstance(source, str) and source not in followed:
        if source in embedded_models():
            return source
        followed.add(source)
        source = _adapted_from(source)
    return None


def _adapted_from(generator: str) -> Any:
    """What a run of adapt made a generator of, its root if it knows it; None of any other, and of one that is gone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(find(located(generator))), framework="pt") as file:
            made = json.loads((file.metadata() or {})[KEY])["about"]["adapted"]
            return made.get("root") or made["from"]
    except (UsageError, SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def located(name: str) -> str:
    """What of a run of adapt is its generator; any other name as it is.

    Raises:
        UsageError: a run that does not have one, or does not have it yet.
    """
    if name in embedded_models():
        return name
    folder = pathlib.Path(name)
    held = application_of(folder) if folder.is_dir() else None
    if held is None:
        return name
    if held != ADAPT:
        raise UsageError(f"generator: {name} holds a run of {held}, which does not have a generator; one of adapt has")
    made = folder / WITHIN
    if not any(made.glob("*.safetensors")):
        raise UsageError(f"generator: {_why_without(folder)}")
    return str(made)


def _why_without(folder: pathlib.Path) -> str:
    """Why a run of adapt does not have a generator, and what helps."""
    state, command = status(folder).get("status"), f"ldp-fast adapt --resume {folder}"
    if state == "finished":
        return f"{folder} is a finished run of adapt whose {WITHIN} is gone: make it again with {command}"
    if state == "diverged":
        return (
            f"{folder} is a run of adapt that diverged before it had a generator: begin anew with another --out and a "
            f"lower --learning-rate"
        )
    return f"{folder} is an unfinished run of adapt, which writes its generator at the end: continue it with {command}"
