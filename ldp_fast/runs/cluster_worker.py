"""What a worker of a cluster does with one job of a sweep; see `cluster`, which hands them out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..errors import UsageError, shortened
from . import files
from .experiment import Experiment
from .folder import locked
from .interruption import Interruption
from .jobs import Runner, failure_of, release_memory, without_ranks
from .loop import Options, Watch

# Of a sweep's folder: who leads the sweep, and the word by which workers know the folder.
CONTROL = ".cluster"
# Seconds between two reports, and that one of them may take.
REPORT_EVERY, REPORT_WITHIN = 0.5, 10.0
# Seconds that a job waits for a run's folder that another process writes: of a machine that died, a shared disk frees
# the lock later, and a process that lost its cluster first has to hear of it.
PATIENCE = 120.0


@dataclasses.dataclass(frozen=True)
class Order:
    """One attempt at one job.

    Attributes:
        name: the job's.
        attempt: 0 for the first.
        folder: of the sweep.
        token: what stands in the sweep's folder.
        directory: the command's, which names in a configuration may be relative to.
        threads: of torch.
        runner: runs a configuration in a folder; has to be importable here.
        configuration: of the job.
        patience: see `PATIENCE`.
    """

    name: str
    attempt: int
    folder: pathlib.Path
    token: str
    directory: str
    threads: int
    runner: Runner
    configuration: Any
    patience: float = PATIENCE


class _Watch:
    """Stands where a page would look at the experiment; knows how far it is."""

    lock: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def __init__(self) -> None:
        self.step = self.total = 0

    def begin(self, experiment: Experiment, name: str) -> Watch:
        self.step, self.total = experiment.step, experiment.total
        return self

    def update(self, step: int, losses: object) -> None:
        self.step = step

    def close(self) -> None:
        """Nothing to close."""


class _Reporter:
    """Tells the sweep how far a job is, and asks the job to stop when the sweep says so."""

    def __init__(self, order: Order, board: Any, watch: _Watch):
        import ray

        self.order, self.board, self.watch, self.asked = order, board, watch, False
        self._ended = threading.Event()
        self._node = ray.get_runtime_context().get_node_id()
        self._versions = files.versions()

    def report(self) -> bool:
        """Whether the job is to stop; no where the sweep cannot be asked."""
        import ray

        facts = {
            "attempt": self.order.attempt,
            "host": socket.gethostname(),
            "node": self._node,
            "step": self.watch.step,
            "total": self.watch.total,
            "versions": self._versions,
        }
        try:
            return bool(ray.get(self.board.report.remote(self.order.name, facts), timeout=REPORT_WITHIN))
        except ray.exceptions.RayError:
            return False

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """While entered, reports go on beside the run."""
        thread = threading.Thread(target=self._go_on, name="reports", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _go_on(self) -> None:
        import _thread
        import signal

        progress = _Progress(self.order.name)
        while not self._ended.wait(REPORT_EVERY):
            progress.show(self.watch.step, self.watch.total)
            if not self.asked and self.report() and not self._ended.is_set():
                self.asked = True
                # As Ctrl-C would: the loop ends its step and saves. Not SIGINT, whose second is heard at once.
                _thread.interrupt_main(signal.SIGTERM)
        progress.show(self.watch.step, self.watch.total)


class _Progress:
    """A job's share of its steps, as a metric beside Ray's own."""

    def __init__(self, name: str):
        from ray.util.metrics import Gauge

        self._tags = {"job": name}
        self._gauge = Gauge("ldp_fast_job_progress", description="share of a job's steps done", tag_keys=("job",))

    def show(self, step: int, total: int) -> None:
        if total:
            self._gauge.set(step / total, tags=self._tags)


def work(order: Order, board: Any) -> dict[str, Any]:
    """Does a job; runs in the main thread of a worker.

    Args:
        order: what to do.
        board: the actor that hears reports.

    Returns:
        `outcome`: `finished`, `interrupted`, `failed`, or `unfit`, where this machine cannot do jobs; `host`, `node`,
        `seconds`; `error` and `traceback` where there are some.
    """
    import ray

    started = time.perf_counter()
    watch = _Watch()
    reporter = _Reporter(order, board, watch)
    run = order.folder / order.name

    def ended(outcome: str, **more: Any) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "host": socket.gethostname(),
            "node": ray.get_runtime_context().get_node_id(),
            "seconds": time.perf_counter() - started,
            **more,
        }

    if not _seen(order):
        return ended("unfit", error=f"it does not see {order.folder} as the machine of the command does")
    try:
        with Interruption() as interruption, interruption.at_once(), _as_the_command(order):
            reporter.asked = reporter.report()
            if reporter.asked:
                return ended("interrupted")
            with reporter.reporting():
                wait_for(run, order.patience)
                code = order.runner(run, order.configuration, Options(resume="the same command", watch=watch.begin))
    except KeyboardInterrupt:
        # Outside of the steps, perhaps within an import: no process for another job.
        os._exit(1)
    except ModuleNotFoundError as error:
        return ended("unfit", error=f"{error.name} is not installed on it")
    except Exception as error:  # whatever stops one object must not stop the others
        # Before the memory is given back, which the traceback's frames hold.
        return ended("failed", **failure_of(error))
    finally:
        release_memory()
    return ended("interrupted" if code else "finished")


def _seen(order: Order) -> bool:
    """Whether the sweep's folder is the same here; a shared disk may show what is new after some seconds only."""
    for attempt in range(10):
        time.sleep(0.5 if attempt else 0)
        with contextlib.suppress(UsageError, OSError, AttributeError):
            if files.read_json(order.folder / CONTROL / "run.json").get("token") == order.token:
                return True
    return False


@contextlib.contextmanager
def _as_the_command(order: Order) -> Iterator[None]:
    """Where the command was started, without ranks, with as many threads as the job has CPUs."""
    import torch

    here = pathlib.Path.cwd()
    with contextlib.suppress(OSError):
        os.chdir(order.directory)
    torch.set_num_threads(order.threads)
    try:
        with without_ranks():
            yield
    finally:
        os.chdir(here)


def wait_for(run: pathlib.Path, patience: float) -> None:
    """Waits until nobody writes in a run's folder. Who waits in vain hears from the run who it is."""
    until = time.monotonic() + patience
    while run.is_dir() and time.monotonic() < until:
        try:
            with locked(run):
                return
        except UsageError:
            time.sleep(0.5)


def said_of(error: BaseException) -> str:
    """What Ray says of a task that failed, in a few words."""
    names = {
        "WorkerCrashedError": "its process was killed",
        "OutOfMemoryError": "the machine was short of memory",
        "NodeDiedError": "the machine was lost",
        "LocalRayletDiedError": "the machine was lost",
    }
    name = type(error).__name__
    return names.get(name) or shortened(f"{name}: {' '.join(str(error).split())}", 200)
