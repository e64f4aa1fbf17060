"""One command with a limit in seconds, told by its output."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# pytest writes what it has when it is interrupted; a process that compiles or sits in the driver may not listen.
GRACE = 8.0
TAIL = 40


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
    with log.open("a", encoding="utf-8", errors="replace") as file:
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
                preexec_fn=_listens,
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


def _listens() -> None:
    """What a shell starts in the background ignores interruptions, and hands that on; a stage has to hear its end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
    print(line, flush=True)
    print(line, file=file, flush=True)
    tail.append(line)
    del tail[:-TAIL]
