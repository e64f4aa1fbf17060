"""Hands a sweep's jobs out to a cluster and follows them, in one process: that of the command; see `cluster`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError, reason
from . import files
from .cluster import Options, board_class, task
from .cluster_worker import Order, said_of
from .folder import finished
from .interruption import Interruption
from .jobs import Job, JobStore, Runner

# Seconds between two looks at the workers' reports.
LOOK_EVERY = 0.5
# What of the environment workers inherit: what this package and Triton read.
INHERITED = ("LDP_FAST_", "TRITON_INTERPRET")


def run_jobs(jobs: Sequence[Job], store: JobStore, runner: Runner, options: Options, token: str) -> int:
    """Hands the jobs out; a job that fails is recorded, and the others go on.

    Args:
        jobs: all of them.
        store: their records.
        runner: runs a configuration in a folder; importable on the workers.
        options: as `connected` has decided them.
        token: of `leading`.

    Returns:
        0, or 130 after an interruption.

    Raises:
        UsageError: no machine of the cluster can do them.
    """
    store.enter(jobs)
    left = [job for job in jobs if not store.is_done(job)]
    return _Lead(store, runner, options, token, len(jobs)).go(left)


@dataclasses.dataclass
class _Attempt:
    """One attempt that was handed out, and what is known of it."""

    job: Job
    number: int
    began: float | None = None
    host: str = ""
    share: float = 0.0


class _Lead:
    """Hands out jobs and follows them."""

    def __init__(self, store: JobStore, runner: Runner, options: Options, token: str, count: int):
        import ray

        self.store, self.runner, self.options, self.token, self.count = store, runner, options, token, count
        self.folder = store.folder.absolute()
        here = ray.get_runtime_context().get_node_id()
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=True)
        board: Any = ray.remote(board_class())
        self.board = board.options(num_cpus=0, max_restarts=-1, scheduling_strategy=near).remote()
        inherited = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
        self.task: Any = ray.remote(task())
        self.wanted: dict[str, Any] = {
            "num_cpus": options.cpus,
            "num_gpus": options.gpus,
            # Handed out again here, where the deaths are counted and told.
            "max_retries": 0,
            # The progress bars of single jobs go to the workers' logs.
            "runtime_env": {"env_vars": {"TQDM_MININTERVAL": "30", **inherited}},
        }
        self.attempts: dict[Any, _Attempt] = {}
        self.spent: dict[str, float] = {}
        self.deaths: dict[str, int] = {}
        self.unfit: dict[str, str] = {}
        self.told: set[str] = set()
        self.versions = files.versions()
        self.finished = self.failed = 0
        self.stopping = False
        self.bar: Any = None

    def go(self, jobs: Sequence[Job]) -> int:
        """Hands out all of them, and ends when they have ended."""
        import ray
        from tqdm import tqdm

        self.finished = self.count - len(jobs)
        self.spent = {job.name: self.store.read(job.name).get("seconds", 0.0) for job in jobs}
        self.bar = tqdm(
            total=self.count,
            initial=self.finished,
            desc=self.store.folder.name,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            mininterval=0.5 if sys.stderr.isatty() else 30,
            miniters=0,
        )
        with self.bar, Interruption() as interruption:
            try:
                for job in jobs:
                    self._hand_out(job, 0)
                self._tell_of_machines()
                while self.attempts:
                    for ref in ray.wait(list(self.attempts), num_returns=1, timeout=LOOK_EVERY)[0]:
                        self._end(ref)
                    if interruption.requested and not self.stopping:
                        self._stop()
                    self._look()
            except KeyboardInterrupt:
                self.stopping = True
                self._abandon()
            except BaseException:
                self._abandon()
                raise
        if self.stopping:
            done = f"{self.finished} of {self.count} jobs are finished"
            print(f"interrupted; {done}; continue with the same command", file=sys.stderr)
        return 130 if self.stopping else 0

    def _say(self, line: str) -> None:
        self.bar.write(line, file=sys.stderr)

    def _hand_out(self, job: Job, number: int) -> None:
        from ray import cloudpickle

        order = Order(
            job.name,
            number,
            self.folder,
            self.token,
            os.getcwd(),
            self.options.cpus,
            self.runner,
            job.configuration,
            self.options.patience,
        )
        where = {"label_selector": {"ray.io/node-id": f"!in({','.join(self.unfit)})"}} if self.unfit else {}
        # By its name Ray's dashboard shows how each job stands.
        work = self.task.options(name=job.name, **self.wanted, **where)
        self.attempts[work.remote(cloudpickle.dumps(order), order.directory, self.board)] = _Attempt(job, number)

    def _fit(self) -> list[dict[str, Any]]:
        """The machines that could do a job."""
        import ray

        wanted = {"CPU": float(self.options.cpus), "GPU": float(self.options.gpus or 0)}
        return [
            node
            for node in ray.nodes()
            if node["Alive"]
            and node["NodeID"] not in self.unfit
            and all(node["Resources"].get(name, 0.0) >= number for name, number in wanted.items())
        ]

    def _tell_of_machines(self) -> None:
        found = self._fit()
        if not found:
            self._say(
                f"note: no machine of the cluster has {self.options.cpus} CPUs and {self.options.gpus:g} GPUs for a "
                f"job; waiting for one that has (--cpus-per-job, --gpus-per-job)"
            )

    def _look(self) -> None:
        """Reads the workers' reports: what runs where, and how far it is."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            reports = ray.get(self.board.read.remote(self.stopping), timeout=5)
            for facts in reports.values():
                self._tell_of_versions(facts)
            for attempt in self.attempts.values():
                facts = reports.get(attempt.job.name)
                if facts is None or facts["attempt"] != attempt.number:
                    continue
                if attempt.began is None:
                    attempt.began, attempt.host = time.perf_counter(), facts["host"]
                    self._write(attempt, "running", 0.0)
                attempt.share = facts["step"] / facts["total"] if facts["total"] else 0.0
        self._show()

    def _show(self) -> None:
        running = sum(attempt.began is not None for attempt in self.attempts.values())
        done = self.finished + self.failed + sum(attempt.share for attempt in self.attempts.values())
        failed = f", {self.failed} failed" if self.failed else ""
        self.bar.set_postfix_str(f"{self.finished}/{self.count} jobs, {running} running{failed}", refresh=False)
        self.bar.update(done - self.bar.n)

    def _tell_of_versions(self, facts: dict[str, Any]) -> None:
        other = {name: v for name, v in facts["versions"].items() if self.versions.get(name) != v}
        if other and facts["node"] not in self.told:
            self.told.add(facts["node"])
            said = ", ".join(f"{name} {v} (here {self.versions.get(name, 'absent')})" for name, v in other.items())
            self._say(f"note: {facts['host']} has {said}: its results may differ")

    def _write(self, attempt: _Attempt, status: str, seconds: float, **more: Any) -> None:
        name = attempt.job.name
        if status != "running":
            self.spent[name] += seconds
        more = {"host": attempt.host, **more} if attempt.host else more
        self.store.write(attempt.job, status, seconds=round(self.spent[name], 2), **more)

    def _end(self, ref: Any) -> None:
        """An attempt has ended, one way or another."""
        import ray

        attempt = self.attempts.pop(ref)
        try:
            found: dict[str, Any] = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            said = f"{type(error.cause).__name__}: {reason(error.cause)}"
            found = {"outcome": "failed", "error": said, "traceback": str(error).splitlines()}
        except ray.exceptions.TaskCancelledError:
            found = {"outcome": "interrupted"}
        except ray.exceptions.RayError as error:
            found = {"outcome": "lost", "error": said_of(error)}
        attempt.host = found.get("host", attempt.host)
        seconds = time.perf_counter() - attempt.began if attempt.began is not None else 0.0
        seconds, outcome = found.get("seconds", seconds), found["outcome"]
        if outcome == "interrupted" and not self.stopping:
            # Somebody else has asked it to stop, as `ray stop` does on a machine that is to be switched off.
            outcome, found["error"] = "lost", "it was told to stop"
        if outcome == "lost" and finished(self.store.folder / attempt.job.name):
            outcome = "finished"
        if outcome == "finished":
            self.finished += 1
            self._write(attempt, "finished", seconds)
        elif outcome == "failed":
            self._fail(attempt, seconds, found["error"], found.get("traceback"))
        elif self.stopping:
            self._write(attempt, "waiting" if attempt.began is None else "interrupted", seconds)
        elif outcome == "unfit":
            self._write(attempt, "waiting", seconds)
            self._leave_out(attempt, found)
        else:
            self._again(attempt, seconds, found["error"])

    def _fail(self, attempt: _Attempt, seconds: float, error: str, trace: list[str] | None = None) -> None:
        self.failed += 1
        self._write(attempt, "failed", seconds, error=error, traceback=trace)
        self._say(f"failed: {attempt.job.name}: {error}")

    def _again(self, attempt: _Attempt, seconds: float, error: str) -> None:
        name = attempt.job.name
        deaths = self.deaths[name] = self.deaths.get(name, 0) + 1
        where = f" on {attempt.host}" if attempt.host else ""
        if deaths > self.options.retries:
            times = "once" if deaths == 1 else f"{deaths} times"
            self._fail(attempt, seconds, f"its worker died {times}, last{where}: {error} (--retries)")
            return
        self._write(attempt, "waiting", seconds)
        self._say(f"{name}: its worker{where} died ({error}); handed out again, {deaths} of {self.options.retries}")
        self._hand_out(attempt.job, attempt.number + 1)

    def _leave_out(self, attempt: _Attempt, found: dict[str, Any]) -> None:
        """A machine cannot do jobs: its share goes to the others, if there are any."""
        said = f"{found['host']} cannot do jobs: {found['error']}"
        if found["node"] not in self.unfit:
            self.unfit[found["node"]] = said
            if not self._fit():
                raise UsageError(f"--cluster: {'; '.join(self.unfit.values())}")
            self._say(f"note: {said}; the other machines do them")
        self._hand_out(attempt.job, attempt.number + 1)

    def _stop(self) -> None:
        """Asks every job to stop at its step's end; the workers hear of it with their next reports."""
        import ray

        self.stopping = True
        self._say("stopping after the steps that are under way; Ctrl-C once more stops at once")
        self._look()
        for ref, attempt in self.attempts.items():
            if attempt.began is None:
                # By force, for a process that was interrupted within an import is of no use afterwards.
                ray.cancel(ref, force=True)

    def _abandon(self) -> None:
        """Ends all workers at once: what their jobs have kept is in their folders."""
        import ray

        for ref, attempt in self.attempts.items():
            ray.cancel(ref, force=True)
            if attempt.began is not None:
                self._write(attempt, "interrupted", time.perf_counter() - attempt.began)
        self.attempts.clear()
