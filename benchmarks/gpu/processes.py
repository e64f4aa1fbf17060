"""One command with a limit in seconds, told by its output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# pytest writes what it has when it is interrupted; a process that compiles or sits in the driver may not listen, and
# pytest-xdist waits ten seconds for such a worker before it writes.
GRACE = 13.0
TAIL = 40
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; negative is the signal that ended it.
        seconds: that it took.
        stopped: whether it was stopped at its limit.
        tail: its last lines.
    """

    code: int
    seconds: float
    stopped: bool
    tail: tuple[str, ...]


def run(
    command: Sequence[str],
    seconds: float,
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    grace: float = GRACE,
) -> Ended:
    """Runs a command, its output going to the screen and to the end of a log.

    Args:
        command: and its arguments.
        seconds: after which it is interrupted, and `grace` later killed, with every process that it has started.
        log: a file.
        environment: what is set beside this process' own environment.
        folder: in which it runs.
        grace: seconds between the interruption and the end.
    """
    begun = time.monotonic()
    tail: list[str] = []
    with _kept(log) as file:
        try:
            process = subprocess.Popen(
                list(command),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                cwd=folder,
                start_new_session=True,
                preexec_fn=listens,
            )
        except OSError as error:
            _say(f"{command[0]}: {error}", file, tail)
            return Ended(127, time.monotonic() - begun, False, tuple(tail))
        reader = threading.Thread(target=_copy, args=(process.stdout, file, tail), daemon=True)
        reader.start()
        try:
            stopped = _wait(process, seconds, grace)
        except BaseException:  # Ctrl-C among them: nothing that was started outlives this
            _end(process, grace)
            raise
        finally:
            # What the command has left behind may hold the pipe open.
            _signal(process, signal.SIGKILL)
            reader.join(timeout=5)
        return Ended(process.returncode, time.monotonic() - begun, stopped, tuple(tail))


@contextlib.contextmanager
def _kept(log: Path) -> Iterator[IO[str]]:
    """A log at whose end is written, as far as the disk takes it."""
    file = log.open("a", encoding="utf-8", errors="replace")
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


def _prctl() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    except (OSError, AttributeError):
        return None


_PRCTL = _prctl()  # looked up before a fork


def listens() -> None:
    """What a shell starts in the background ignores interruptions, and hands that on; a stage has to hear its end.

    And it ends with what started it, also where that is killed: it would keep the GPU, and write to the folder.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _PRCTL is not None:
        _PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(process: subprocess.Popen[str], seconds: float, grace: float) -> bool:
    try:
        process.wait(timeout=max(0.0, seconds))
        return False
    except subprocess.TimeoutExpired:
        _end(process, grace)
        return True


def _end(process: subprocess.Popen[str], grace: float) -> None:
    _signal(process, signal.SIGINT)
    try:
        process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _copy(stream: IO[str] | None, file: IO[str], tail: list[str]) -> None:
    for line in stream or ():
        if file.closed:  # something that was started in a session of its own still writes
            return
        _say(line.rstrip("\n"), file, tail)


def _say(line: str, file: IO[str], tail: list[str]) -> None:
    tail.append(line)
    del tail[:-TAIL]
    # A full disk or a closed pipe must not stop the reading: the command would wait for it until its limit.
    for where in (None, file):
        try:
            print(line, file=where, flush=True)
        except (OSError, ValueError):
            continue
