"""The applications that sweeps and evaluations work on, by the names of their commands; imported when asked for."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UsageError
from ..runs.experiment import Application
from ..runs.folder import application_of
from ..runs.jobs import Job
from ..runs.prompts import Prompt
from ..runs.settings import hyphens

_ROOMS = {"text-to-3d": "text_to_3d", "synthesize": "synthesis"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An application, and what a sweep needs of it.

    Attributes:
        application: what it is to the loop.
        add_arguments: declares the flags of a job.
        plan: makes the jobs of prompts and flags.
        described, elevations, judged: what a metric asks of a run; see `text_to_3d.judged`.
    """

    application: Application
    add_arguments: Callable[[argparse.ArgumentParser], None]
    plan: Callable[[Sequence[Prompt], argparse.Namespace], list[Job]]
    described: Callable[[Any], dict[str, Any]]
    elevations: Callable[[Any], tuple[float, float]]
    judged: Callable[..., Any]


def names() -> tuple[str, ...]:
    """Of all applications."""
    return tuple(_ROOMS)


def find(name: str) -> Entry:
    """The application of that name.

    Raises:
        UsageError: there is none.
    """
    name = hyphens(name)
    if name not in _ROOMS:
        raise UsageError(f"--application: expected one of {', '.join(_ROOMS)}; got {name!r}")
    room = f"ldp_fast.apps.{_ROOMS[name]}"
    run, jobs, judged = (importlib.import_module(f"{room}.{module}") for module in ("run", "jobs", "judged"))
    return Entry(run.APPLICATION, jobs.add_arguments, jobs.plan, judged.described, judged.elevations, judged.pictures)


def of_folder(folder: pathlib.Path) -> Entry | None:
    """The application whose run a folder holds; None where it does not hold one of these."""
    name = application_of(folder)
    return find(name) if name in _ROOMS else None
