"""Processes of their own that start at once: forks of one that has imported what they need, and done nothing else.

A process that imports torch, diffusers and transformers by itself takes seconds to begin. Where it is the start that a
test looks at, such as the command in a terminal, it starts one with `subprocess`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, NamedTuple

import pytest

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
IMPORTED = ["tests.support.models", "ldp_fast.apps.text_to_3d.run"]


@functools.cache
def context() -> ForkServerContext | SpawnContext:
    """What starts processes; also by torch.multiprocessing, for which a process has one server."""
    chosen: Any = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        chosen.set_forkserver_preload(IMPORTED)
    return chosen


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: its exit code; of a signal, minus its number.
        out, err: what it wrote.
    """

    code: int
    out: str
    err: str


class Started:
    """A process that calls a function and exits with what it returns.

    Args:
        function: at the top of a module.
        arguments: pickled.
        environment: all variables of the process; None: those of this one.

    Attributes:
        pid: its number.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None):
        self._folder = tempfile.TemporaryDirectory()
        variables = dict(os.environ if environment is None else environment)
        inside = (self._folder.name, variables, function, arguments)
        self._process: Any = context().Process(target=_called, args=inside)
        self._process.start()
        self.pid: int = self._process.pid

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def wait(self, seconds: float = 120.0) -> Ended:
        """Waits for its end; a test fails whose process is still there after some seconds."""
        self._process.join(seconds)
        late = self._process.exitcode is None
        if late:
            self.kill()
            self._process.join()
        files = (pathlib.Path(self._folder.name) / name for name in ("out", "err"))
        out, err = (path.read_text("utf-8", "replace") if path.exists() else "" for path in files)
        self._folder.cleanup()
        if late:
            pytest.fail(f"process {self.pid} was still there after {seconds:g} s:\n{out}{err}")
        return Ended(self._process.exitcode, out, err)


def _called(folder: str, variables: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
