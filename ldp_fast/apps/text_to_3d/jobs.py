"""The jobs of a sweep: prompts from a file, a job for each combination, and where each job stands."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...errors import UsageError
from .. import files
from ..names import former_slug, name_of
from .configuration import fingerprint

# What is compared, by the terms that stay on.
LOSSES = {"lsd": "LSD", "lsd-fm": "LSD + FM", "lsd-kl": "LSD + KL", "full": "LSD + FM + KL"}
STATUSES = ("waiting", "running", "interrupted", "failed", "finished")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt and where it stands, such as `prompts.txt:3`, for messages."""

    text: str
    place: str


@dataclasses.dataclass(frozen=True)
class Job:
    """One object to be made.

    Attributes:
        prompt, method, losses, seed: what tells it from the others.
        configuration: what text-to-3d runs.
    """

    prompt: str
    method: str
    losses: str
    seed: int
    configuration: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder; depends on nothing but the job, so that prompts may be added to a sweep later."""
        return "-".join([name_of(self.prompt), variant_name(self.method, self.losses), f"seed{self.seed}"])


class FormerJob(Job):
    """A job of a sweep that was begun when a name held six digits of its prompt's digest: it keeps its folder."""

    @property
    def name(self) -> str:
        """Of its folder."""
        short = former_slug(self.prompt)
        if short.replace("-", " ") != self.prompt:
            short += "-" + hashlib.sha256(self.prompt.encode()).hexdigest()[:6]
        return "-".join([short, variant_name(self.method, self.losses), f"seed{self.seed}"])


def variant_name(method: str, losses: str) -> str:
    """Method and losses; `full`, the method as it is, goes without saying."""
    return method if losses == "full" else f"{method}-{losses}"


def read_prompts(path: pathlib.Path, tell: Callable[[str], None]) -> list[Prompt]:
    """One prompt a line; blank lines and lines that begin with # are comments.

    Args:
        path: of the file, UTF-8.
        tell: is told of lines that repeat another one; they are left out.

    Raises:
        UsageError: the file is missing, is no file, is not UTF-8, or holds no prompt.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file (one prompt a line was expected)") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: expected a file with one prompt a line, got a folder") from None
    found: dict[str, Prompt] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = " ".join(line.decode().split())
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}:{number}: expected UTF-8, got byte {line[error.start]:#04x}") from None
        if "\0" in text:
            raise UsageError(f"{path}:{number}: expected text, got a zero byte")
        if not text or text.startswith("#"):
            continue
        if text in found:
            tell(f"{path}:{number}: {text!r} stands at {found[text].place} already; it is made once")
            continue
        found[text] = Prompt(text, f"{path}:{number}")
    if not found:
        raise UsageError(f"{path}: expected one prompt a line, got none")
    return list(found.values())


def check_prompts(prompts: Sequence[Prompt], encode: Callable[[str], Any]) -> None:
    """Tries every prompt.

    Raises:
        UsageError: the first that cannot be encoded, with its place.
    """
    for prompt in prompts:
        try:
            encode(prompt.text)
        except UsageError as error:
            raise UsageError(f"{prompt.place}: {error}") from None


class JobStore:
    """Where each job of a sweep stands, on disk: `DIR/jobs/NAME.json`, and all of them in `DIR/jobs.json`.

    A job's own file is written by the one process that runs it, so that several can work in one folder without asking
    each other; `jobs.json` is made from those files.

    Args:
        folder: of the sweep.
        rank: of this process.
    """

    def __init__(self, folder: pathlib.Path, rank: int = 0):
        self.folder, self.rank = folder, rank

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / "jobs" / f"{name}.json"

    def as_named(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs, those that this folder has under a former name as `FormerJob`."""
        found: list[Job] = []
        for job in jobs:
            former = FormerJob(**vars(job))
            known = not self._path(job.name).exists() and self.read(former.name).get("prompt") == job.prompt
            found.append(former if known else job)
        return found

    def check(self, jobs: Sequence[Job]) -> None:
        """Whether these jobs can be done, or went on with, in this folder.

        Raises:
            UsageError: it holds something else, or one of the jobs with other settings.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out: expected a folder, {self.folder} is a file")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "jobs").is_dir():
            raise UsageError(f"{self.folder} is not empty and holds no sweep: choose another --out")
        for job in jobs:
            # The folder before the record, for another rank writes the record before it makes the folder.
            made = (self.folder / job.name).exists()
            record = self.read(job.name)
            if made and not record:
                raise UsageError(f"{self.folder / job.name} was not made by this sweep: choose another --out")
            if record and fingerprint(record["configuration"]) != fingerprint(job.configuration):
                names = ", ".join(differences(record["configuration"], files.plain(job.configuration)))
                raise UsageError(
                    f"{self.folder / job.name} holds this job with other settings ({names}): choose another --out, or "
                    f"give the same settings"
                )

    def read(self, name: str) -> dict[str, Any]:
        """A job's record; empty before it has one."""
        return files.read_json(self._path(name)) if self._path(name).exists() else {}

    def write(self, job: Job, status: str, **more: Any) -> None:
        """Replaces a job's record, and `jobs.json` with it."""
        self._write(job, status, **more)
        self.write_list()

    def _write(self, job: Job, status: str, **more: Any) -> None:
        record = {**dataclasses.asdict(job), "status": status, "rank": self.rank, **more}
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


def differences(before: Any, after: Any, name: str = "") -> Iterator[str]:
    """Names of the settings that differ between two configurations, such as `settings.lambda_fm`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield name


def run_status(folder: pathlib.Path) -> dict[str, Any]:
    """A run folder's own `run.json`; empty where there is none, or where a killed process left it damaged."""
    try:
        found = files.read_json(folder / "run.json")
    except UsageError:
        return {}
    return found if isinstance(found, dict) else {}
