"""The jobs of a sweep on the machines of a Ray cluster, each taken as soon as a worker is free.

The command leads (`cluster_lead`): it alone writes the records of the jobs. `cluster_worker` is what a worker does.
A job whose worker dies is handed out again, and goes on from its checkpoint: all machines have to share the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import UsageError, reason
from . import files
from .cluster_worker import CONTROL, PATIENCE
from .folder import locked


@dataclasses.dataclass(frozen=True)
class Options:
    """What a sweep asks of a cluster.

    Attributes:
        address: `auto`, the cluster that this machine belongs to; `local`, one made of this machine for the time of
            the sweep; or the head's, HOST:PORT.
        gpus: of one job, 0 to 1; None: 1 where the cluster has GPUs, else 0.
        cpus: of one job; also torch's threads.
        retries: how often a job is handed out again after its worker died.
        patience: seconds that a job waits for a run's folder that another process writes.
    """

    address: str = "auto"
    gpus: float | None = None
    cpus: int = 1
    retries: int = 2
    patience: float = PATIENCE

    def check(self) -> None:
        """Checks address and numbers.

        Raises:
            UsageError: names the flag.
        """
        host, _, port = self.address.rpartition(":")
        known = host and "/" not in host and port.isdecimal() and 0 < int(port) < 2**16
        if self.address not in ("auto", "local") and not known:
            raise UsageError(f"--cluster: expected auto, local or HOST:PORT, got {self.address!r}")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise UsageError(f"--gpus-per-job: expected a number from 0 to 1 (a job uses one GPU), got {self.gpus:g}")
        if self.cpus < 1:
            raise UsageError(f"--cpus-per-job: expected a whole number of at least 1, got {self.cpus}")
        if self.retries < 0:
            raise UsageError(f"--retries: expected a whole number of at least 0, got {self.retries}")


@contextlib.contextmanager
def connected(options: Options) -> Iterator[Options]:
    """Joins the cluster.

    Yields:
        The options, with the GPUs of a job decided.

    Raises:
        UsageError: there is no such cluster, or it has another version of Ray or Python.
    """
    options.check()
    import ray

    joined = not ray.is_initialized()
    if joined:
        reach(options.address)
        if options.address == "local":
            # A cluster for one command does not report to Ray's makers.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(options.address, namespace="ldp-fast", log_to_driver=False, logging_level=logging.CRITICAL)
        except (OSError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            raise UsageError(
                f"--cluster {options.address}: {reason(error)} (start one with `ray start --head`, or take this "
                f"machine alone with --cluster local)"
            ) from None
    try:
        gpus = options.gpus
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        yield dataclasses.replace(options, gpus=gpus)
    finally:
        if joined:
            ray.shutdown()


def reach(address: str) -> None:
    """Tries an address, for Ray would try it for minutes and then end the process.

    Raises:
        UsageError: nobody answers there.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UsageError(f"--cluster {address}: nobody answers there ({reason(error)})") from None


@contextlib.contextmanager
def leading(folder: pathlib.Path) -> Iterator[str]:
    """While entered, this process alone leads a sweep in a folder.

    Yields:
        What now stands in the folder, by which workers know that they see the same.

    Raises:
        UsageError: another process leads one there.
    """
    control = folder / CONTROL
    # What makes it the folder of a sweep, before anything else lies in it.
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    control.mkdir(exist_ok=True)
    with locked(control):
        token = uuid.uuid4().hex
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        files.write_json(control / "run.json", {"status": "running", "token": token, "process": process})
        yield token


def check_nobody_leads(folder: pathlib.Path) -> None:
    """Checks that no other process hands out the jobs of a folder now.

    Raises:
        UsageError: one does; says which.
    """
    if (folder / CONTROL).is_dir():
        with locked(folder / CONTROL):
            pass


def board_class() -> type:
    """The class of the actor that hears reports; made here, so that Ray carries it along and imports nothing."""

    class Board:
        """What the jobs have reported last."""

        def __init__(self) -> None:
            self.reports: dict[str, dict[str, Any]] = {}
            self.stopping = False

        def report(self, name: str, facts: dict[str, Any]) -> bool:
            """Takes a job's report. Returns whether it is to stop: all are, or it was handed out anew since."""
            if self.reports.get(name, facts)["attempt"] > facts["attempt"]:
                return True
            self.reports[name] = facts
            return self.stopping

        def read(self, stopping: bool) -> dict[str, dict[str, Any]]:
            """All reports, by the names of the jobs; the jobs are told to stop from now on, or not."""
            self.stopping = stopping
            return self.reports

    return Board


def task() -> Callable[[bytes, str, Any], dict[str, Any]]:
    """What Ray carries to a worker; made here, so that a worker that lacks this package can say so."""

    def work(order: bytes, directory: str, board: Any) -> dict[str, Any]:
        import pickle
        import socket
        import sys

        import ray

        if directory not in sys.path:
            sys.path.append(directory)  # where the command was typed, for a module there that the order speaks of
        try:
            from ldp_fast.runs import cluster_worker

            return cluster_worker.work(pickle.loads(order), board)
        except ImportError as error:
            node = ray.get_runtime_context().get_node_id()
            said = f"{error} ({sys.executable})"
            return {"outcome": "unfit", "error": said, "host": socket.gethostname(), "node": node, "seconds": 0.0}

    return work
