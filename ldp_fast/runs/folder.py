"""A run's folder: who may write in it, what a run left in it, and where the run stands.

A run is recognised by its `run.json`, which has a status and the version of ldp-fast beside the name of its
application, or, before it has one, by its `config.yaml`. `run.json` lists what the run wrote; nothing else is ever
removed. One process writes at a time: it holds a lock of the operating system on `.lock`,
which ends with the process, on whichever machine that shares the disk.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import UsageError
from . import files
from .configuration import Configuration, differences, read_yaml, write
from .experiment import Application

LOCK = ".lock"
# Written by the loop for every application.
ALWAYS = ("config.yaml", "run.json", "preview.png", "checkpoints/step-*.safetensors", "log/events.out.tfevents.*")
# A temporary file of `files.write_atomically`, of this and of earlier versions; and seconds after which one of another
# machine, whose processes cannot be asked, counts as left behind.
_PART = re.compile(r"\..+?(?:@(?P<host>[^@]*))?\.(?P<pid>\d+)\.part")
FORGOTTEN = 3600.0
# States of a run whose process is at work.
ACTIVE = ("running", "finishing")
# All that a record of ours may say, of this and of earlier versions.
STATES = (*ACTIVE, "interrupted", "diverged", "finished")


def status(folder: pathlib.Path) -> dict[str, Any]:
    """A run folder's own `run.json`; empty if it is missing, or a killed process left it damaged."""
    return _read(folder) or {}


def _read(folder: pathlib.Path) -> dict[str, Any] | None:
    """What run.json says; None if it is missing or damaged, empty if it is something else."""
    try:
        found = files.read_json(folder / "run.json")
    except (UsageError, NotADirectoryError):
        return None
    except IsADirectoryError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_ours(record: dict[str, Any]) -> bool:
    versions = record.get("versions")
    return record.get("status") in STATES and isinstance(versions, dict) and "ldp-fast" in versions


def finished(folder: pathlib.Path) -> bool:
    """Whether the run in a folder has ended."""
    return bool(status(folder).get("status") == "finished")


def application_of(folder: pathlib.Path) -> str | None:
    """The command whose run a folder holds; None where it does not hold a run.

    A run.json that is whole and not ours makes a folder somebody else's, whatever config.yaml says. Runs of earlier
    versions did not name their application: they are known by the parts of their records.
    """
    record = _read(folder)
    if record is not None:
        if not _is_ours(record):
            return None
        if isinstance(record.get("application"), str):
            return str(record["application"])
        if isinstance(record.get("configuration"), dict):
            return "synthesize"
    try:
        plain = read_yaml(folder / "config.yaml")
    except (UsageError, ModuleNotFoundError, OSError):
        return "text-to-3d" if record is not None and (folder / "config.yaml").exists() else None
    if isinstance(plain.get("application"), str):
        return str(plain["application"])
    return "text-to-3d" if {"prompt", "method", "settings"} <= plain.keys() else None


def require(folder: pathlib.Path, application: str, otherwise: str = "") -> None:
    """Checks that a folder holds a run of a command.

    Args:
        folder: where it should be.
        application: the command.
        otherwise: what to say of a run of another one, in place of how to continue that.

    Raises:
        UsageError: it does not hold a run, or holds one of another command.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    found = application_of(folder)
    if found is not None and found != application:
        command = status(folder).get("command", f"ldp-fast {found}")
        otherwise = otherwise or f"continue it with {command} --resume {folder}"
        raise UsageError(f"{folder} holds a run of {found}: {otherwise}")
    if found is None and not (folder / "config.yaml").exists():
        reason = "config.yaml is missing" if folder.exists() else "there is no such folder"
        raise UsageError(f"{folder} does not hold a run of {application}: {reason}")


def check_free(folder: pathlib.Path, overwrite: bool) -> None:
    """Checks that a new run may use a folder.

    Args:
        folder: where to.
        overwrite: whether a run that is there may be replaced.

    Raises:
        UsageError: it holds a run, or files that are not a run's.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: choose another --out")
    held = application_of(folder)
    if held and not overwrite:
        raise UsageError(
            f"{folder} holds a run already: continue it with --resume {folder}, replace it with --overwrite, or "
            f"choose another --out"
        )
    if not held and folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
        raise UsageError(f"{folder} is not empty and does not hold a run: choose another --out")


def _is_inside(name: str) -> bool:
    path = pathlib.PurePath(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and path.name != LOCK


class RunFolder:
    """The folder of one run.

    Args:
        path: where it is.
        application: whose run.
    """

    def __init__(self, path: pathlib.Path, application: Application):
        self.path, self.application = path, application

    @contextlib.contextmanager
    def claimed(self, configuration: Configuration, overwrite: bool = False) -> Iterator[None]:
        """While entered, this process alone writes here.

        What killed processes left half written is removed; a run that is here stays as it is until `begin`. A folder
        that was made here and that nothing was written into is removed at the end.

        Raises:
            UsageError: another process writes here, or another run is here.
        """
        made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path), self._removed_if_empty() if made else contextlib.nullcontext():
            sweep_up(self.path)
            held = application_of(self.path)
            if overwrite or held is None:
                check_free(self.path, overwrite)
            else:
                self._same(held, configuration)
            yield

    @contextlib.contextmanager
    def _removed_if_empty(self) -> Iterator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if [path.name for path in self.path.iterdir()] == [LOCK]:
                    (self.path / LOCK).unlink()
                    self.path.rmdir()

    def begin(self, configuration: Configuration, overwrite: bool = False) -> None:
        """Makes the folder this run's, while `claimed`: removes what a run left that this one replaces."""
        if overwrite:
            self.clear()
        if not (self.path / "config.yaml").exists():
            write(self.path, configuration)

    def _same(self, held: str, configuration: Configuration) -> None:
        if held != self.application.name:
            raise UsageError(f"{self.path} holds a run of {held}: choose another --out")
        found = self.application.read(self.path)
        if found.fingerprint() != configuration.fingerprint():
            names = ", ".join(differences(found.plain(), configuration.plain()))
            raise UsageError(
                f"{self.path} holds another run ({names}): choose another --out, or replace it with --overwrite"
            )

    def files(self) -> list[str]:
        """What the run has written, by names in the folder and by those patterns of names that are ours."""
        record = status(self.path)
        if isinstance(record.get("files"), list):
            # Whoever has edited the list: what lies outside the folder is not the run's.
            return [name for name in record["files"] if isinstance(name, str) and _is_inside(name)]
        # Who wrote no list wrote what is known of that time; a new run has written nothing yet.
        former = self.application.former_files if (self.path / "run.json").exists() else ()
        return [*ALWAYS, *former]

    def _written(self) -> list[pathlib.Path]:
        """The files of `files` that are there, in this folder and not behind a link to another."""
        patterns, root = {*ALWAYS, *self.application.former_files}, self.path.resolve()
        found = [
            path
            for name in self.files()
            # A name of the record is that name, whatever is in it: shot[1].png is not shot1.png.
            for path in (self.path.glob(name) if name in patterns else [self.path / name])
        ]
        return [path for path in found if os.path.isfile(path) and path.resolve().parent.is_relative_to(root)]

    def clear(self) -> None:
        """Removes what the run left: what its record lists, and nothing else."""
        found = self._written()
        # The marks last: what is interrupted here is still a run.
        marks = ("run.json", "config.yaml")
        for path in sorted(found, key=lambda path: path.name in marks):
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in found} - {self.path}:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def record(self, state: str, **facts: Any) -> None:
        """Replaces run.json.

        Args:
            state: one of `STATES`.
            facts: what else it says.
        """
        record = {
            "application": self.application.name,
            "command": self.application.typed,
            "status": state,
            **facts,
            "process": {"pid": os.getpid(), "host": socket.gethostname()} if state in ACTIVE else None,
            "versions": files.versions(),
            "files": self.files(),
        }
        files.write_json(self.path / "run.json", record)

    def add(self, written: Iterable[pathlib.Path]) -> None:
        """Adds files to those that the run has written, while `claimed`; what lies outside its folder is left out."""
        record, names = status(self.path), self._names(written)
        if names and _is_ours(record):
            listed = list(dict.fromkeys([*self.files(), *names]))
            files.write_json(self.path / "run.json", {**record, "files": listed})

    def add_later(self, written: Iterable[pathlib.Path]) -> None:
        """As `add`, for a command that shows the run; says so and leaves the record alone while the run is at work."""
        names = self._names(written)
        if not names:
            return
        try:
            with locked(self.path):
                self.add(self.path / name for name in names)
        except Held as error:
            print(
                f"{error.said}: its record does not list {', '.join(names)}, and --overwrite will not remove that",
                file=sys.stderr,
            )

    def _names(self, written: Iterable[pathlib.Path]) -> list[str]:
        root = self.path.resolve()
        return [path.resolve().relative_to(root).as_posix() for path in written if path.resolve().is_relative_to(root)]


class Held(UsageError):
    """Another process writes in a folder.

    Args:
        said: which, and where.
    """

    def __init__(self, said: str):
        super().__init__(f"{said}: wait for it, or choose another --out")
        self.said = said


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder's lock.

    Raises:
        Held: another process holds it; says which.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise Held(f"{folder} is being written by {_holder(folder)}") from None
    except NotImplementedError:
        # A disk without locks, as some network file systems are mounted: not a reason to refuse the run.
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _holder(folder: pathlib.Path) -> str:
    for _ in range(20):  # it may have the lock for a moment only
        process = status(folder).get("process")
        if isinstance(process, dict):
            with contextlib.suppress(FileNotFoundError):
                since = (folder / "run.json").stat().st_mtime
                when = datetime.datetime.fromtimestamp(since).strftime("%H:%M:%S")
                return f"process {process.get('pid')} on {process.get('host')}, whose record is of {when}"
        time.sleep(0.05)
    return "another process"


def sweep_up(folder: pathlib.Path) -> None:
    """Removes temporary files of processes that are not there any more."""
    for path in folder.rglob(".*.part"):
        match = _PART.fullmatch(path.name)
        if match and not _in_use(path, match["host"], int(match["pid"])):
            path.unlink(missing_ok=True)


def _in_use(path: pathlib.Path, host: str | None, pid: int) -> bool:
    if host not in (None, files.host()):
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < FORGOTTEN
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()
