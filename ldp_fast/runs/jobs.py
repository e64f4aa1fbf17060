"""The jobs of a sweep: where each of them stands, on disk, and how they are done one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import UsageError
from . import files
from .configuration import Configuration, differences
from .experiment import Application
from .flags import from_file
from .folder import finished
from .loop import Options
from .ranks import how_to_be_alone

STATUSES = ("waiting", "running", "interrupted", "failed", "finished")
Runner = Callable[[pathlib.Path, Any, Options], int]


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: of its folder; depends on nothing but the job, so that jobs may be added to a sweep later.
        labels: what tells it from the others, such as prompt, method, losses and seed.
        configuration: what is run.
        former: its name in sweeps of earlier versions, which keep their folders; empty if it had none.
    """

    name: str
    labels: dict[str, Any]
    configuration: Configuration
    former: str = ""


class JobStore:
    """Where each job of a sweep stands, on disk: `DIR/jobs/NAME.json`, and all of them in `DIR/jobs.json`.

    A job's own file is written by the one process that runs it, so that several can work in one folder without asking
    each other; `jobs.json` is made from those files.

    Args:
        folder: of the sweep.
        application: whose runs its jobs are.
        rank: of this process.
    """

    def __init__(self, folder: pathlib.Path, application: Application, rank: int = 0):
        self.folder, self.application, self.rank = folder, application, rank

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / "jobs" / f"{name}.json"

    def as_named(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs, each under its former name where this folder has it under that."""
        found: list[Job] = []
        for job in jobs:
            known = job.former and not self._path(job.name).exists()
            known = known and self.read(job.former).get("prompt") == job.labels.get("prompt")
            found.append(dataclasses.replace(job, name=job.former) if known else job)
        return found

    def check(self, jobs: Sequence[Job]) -> None:
        """Whether these jobs can be done, or went on with, in this folder.

        Raises:
            UsageError: it holds something else, or one of the jobs with other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out: expected a folder, {self.folder} is a file")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "jobs").is_dir():
            raise UsageError(f"{self.folder} is not empty and does not hold a sweep: choose another --out")
        for job in jobs:
            # The folder before the record, for another rank writes the record before it makes the folder.
            made = (self.folder / job.name).exists()
            record = self.read(job.name)
            if made and not record:
                raise UsageError(f"{self.folder / job.name} was not made by this sweep: choose another --out")
            if record and self._fingerprint(job.name, record) != job.configuration.fingerprint():
                names = ", ".join(differences(record.get("configuration"), job.configuration.plain()))
                raise UsageError(
                    f"{self.folder / job.name} holds this job with other settings ({names}): choose another --out, or "
                    f"give the same settings"
                )

    def _fingerprint(self, name: str, record: dict[str, Any]) -> str:
        plain = record.get("configuration")
        held = from_file(self.application.class_of(plain or {}), plain or {}, self._path(name))
        return str(held.fingerprint())

    def read(self, name: str) -> dict[str, Any]:
        """A job's record; empty before it has one."""
        return files.read_json(self._path(name)) if self._path(name).exists() else {}

    def is_done(self, job: Job) -> bool:
        """Whether a job has finished; one that was killed between its run's record and its own is recorded now."""
        record = self.read(job.name)
        if record.get("status") != "finished" and finished(self.folder / job.name):
            self.write(job, "finished", seconds=record.get("seconds", 0.0))
            return True
        return bool(record.get("status") == "finished")

    def write(self, job: Job, status: str, **more: Any) -> None:
        """Replaces a job's record, and `jobs.json` with it."""
        self._write(job, status, **more)
        self.write_list()

    def _write(self, job: Job, status: str, **more: Any) -> None:
        plain = job.configuration.plain()
        record = {**job.labels, "configuration": plain, "status": status, "rank": self.rank, **more}
        files.write_json(self._path(job.name), record)

    def enter(self, jobs: Sequence[Job]) -> None:
        """Gives every job of this rank a record; what is not finished is waiting again."""
        for job in jobs:
            record = self.read(job.name)
            if record.get("status") != "finished":
                self._write(job, "waiting", seconds=record.get("seconds", 0.0))
        self.write_list()

    def records(self) -> dict[str, dict[str, Any]]:
        """Every job that this folder has seen, by name."""
        return {path.stem: files.read_json(path) for path in sorted((self.folder / "jobs").glob("*.json"))}

    def write_list(self) -> None:
        """Writes `jobs.json`: every job with its status, without its configuration."""
        hidden = ("configuration", "traceback")
        entries = [
            {"folder": name, **{key: value for key, value in record.items() if key not in hidden}}
            for name, record in self.records().items()
        ]
        self.replace(self.folder / "jobs.json", lambda path: files.write_json(path, {"jobs": entries}))

    def replace(self, path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
        """Writes a file that every rank may write: each under a name of its own first."""
        own = path.with_name(f".rank{self.rank}-{path.name}")
        try:
            write(own)
            os.replace(own, path)
        except BaseException:
            own.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def without_ranks() -> Iterator[None]:
    """Hides the ranks from the runs, which would share the views of one object among them."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def run_jobs(jobs: Sequence[Job], store: JobStore, runner: Runner, rank: int = 0, world: int = 1) -> int:
    """Runs this rank's share, job i on rank i mod world; a job that fails is recorded, and the others go on.

    Args:
        jobs: all of them, of all ranks.
        store: their records.
        runner: runs a configuration in a folder.
        rank, world: of this process.

    Returns:
        0, or 130 after an interruption.
    """
    store.enter(jobs[rank::world])
    for index, job in enumerate(jobs):
        if index % world != rank:
            continue
        if store.is_done(job):
            continue
        spent, folder = store.read(job.name).get("seconds", 0.0), store.folder / job.name
        print(f"[{index + 1}/{len(jobs)}] {job.name}", file=sys.stderr)
        store.write(job, "running", seconds=spent)
        started = time.perf_counter()

        def seconds(spent: float = spent, started: float = started) -> float:
            return round(spent + time.perf_counter() - started, 2)

        try:
            code = runner(folder, job.configuration, Options(resume="the same command"))
        except KeyboardInterrupt:
            store.write(job, "interrupted", seconds=seconds())
            raise
        except Exception as error:  # whatever stops one object must not stop the others
            failure = failure_of(error)
            store.write(job, "failed", seconds=seconds(), **failure)
            print(f"failed: {job.name}: {failure['error']}", file=sys.stderr)
            release_memory()
            continue
        if code:
            store.write(job, "interrupted", seconds=seconds())
            return code
        store.write(job, "finished", seconds=seconds())
        release_memory()
    return 0


def failure_of(error: Exception) -> dict[str, Any]:
    """What a job's record says of the error that is being handled: one line, and the traceback of a fault of ours."""
    message = " ".join(str(error).split())
    if isinstance(error, UsageError):
        return {"error": message, "traceback": None}
    return {"error": f"{type(error).__name__}: {message}", "traceback": traceback.format_exc().splitlines()}


def finish(jobs: Sequence[Job], store: JobStore, make_table: Callable[[], None], rank: int = 0, world: int = 1) -> int:
    """The rank that ends last makes the table.

    Under torchrun a rank that ends earlier returns 0 even if a job of its own failed, for torchrun would end the others
    at once; the last one tells of all failures.

    Returns:
        0, or 1 if a job failed.
    """
    store.write_list()
    if not _with_status(jobs, store, "waiting", "running", "interrupted"):
        make_table()
        # Once more, for a rank that started late may have taken up a job that an earlier sweep had left as failed.
        if not _with_status(jobs, store, "waiting", "running", "interrupted"):
            failed = _with_status(jobs, store, "failed")
            if failed:
                print(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}", file=sys.stderr)
            return 1 if failed else 0
    print(f"other ranks have jobs left; the last rank makes the table ({how_to_be_alone()})", file=sys.stderr)
    alone = "TORCHELASTIC_RUN_ID" not in os.environ
    return 1 if alone and _with_status(jobs[rank::world], store, "failed") else 0


def _with_status(jobs: Sequence[Job], store: JobStore, *statuses: str) -> list[str]:
    return [job.name for job in jobs if store.read(job.name).get("status", "waiting") in statuses]


def release_memory() -> None:
    """Gives back what the last job held on the GPU, which errors keep in cycles."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
