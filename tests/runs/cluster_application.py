"""An application of a few lines, which the workers of a cluster import: a sum that depends on every step."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldp_fast.errors import UsageError
from ldp_fast.runs import cluster, cluster_lead, loop
from ldp_fast.runs.configuration import Configuration
from ldp_fast.runs.experiment import Application, Part, Products, untimed
from ldp_fast.runs.jobs import Job, JobStore
from ldp_fast.runs.settings import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(Configuration):
    """What one run counts, and what happens to it on the way; the latter is not about its result."""

    application = "count"

    seed: int = setting("of the run")
    steps: int = setting("there are", default=30)
    device: str = setting("cpu", default="cpu", about_result=False)
    checkpoint_every: int = setting("steps", default=5, about_result=False)
    keep: int = setting("checkpoints", default=2, about_result=False)
    pause: float = setting("seconds a step", default=0.0, about_result=False)
    fails: bool = setting("with a UsageError", default=False, about_result=False)
    die_at: int | None = setting("step at which the process is killed, every time", default=None, about_result=False)
    missing: bool = setting("a package", default=False, about_result=False)
    trace: str | None = setting("file with a line a step", default=None, about_result=False)


class Count:
    """Adds random numbers; a step draws from the seed and the step alone."""

    device = torch.device("cpu")
    losses = shown = ("loss",)

    def __init__(self, configuration: Counted, **where: object):
        if configuration.fails:
            raise UsageError("--seed: this one does not count")
        if configuration.missing:
            raise ModuleNotFoundError("No module named 'abacus'", name="abacus")
        self.configuration, self.total, self.step = configuration, configuration.steps, 0
        self.sum = torch.zeros(64, dtype=torch.float64)

    def advance(self, part: Part = untimed) -> None:
        generator = torch.Generator().manual_seed(1000 * self.configuration.seed + self.step)
        self.sum = torch.sin(self.sum) + torch.rand(64, generator=generator, dtype=torch.float64)
        self.step += 1
        if self.configuration.trace:
            with open(self.configuration.trace, "a") as file:
                file.write(f"{os.getpid()} {self.step}\n")
        time.sleep(self.configuration.pause)
        if self.step == self.configuration.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def latest(self) -> dict[str, float]:
        return {"loss": float(self.sum.mean())}

    def weights(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"sum": self.sum}

    def facts(self) -> dict[str, str]:
        return {}

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        self.sum, self.step = tensors["sum"], int(facts["step"])

    def about(self) -> dict[str, Any]:
        return {"threads": torch.get_num_threads(), "inherited": os.environ.get("LDP_FAST_TEST_WORD")}

    def not_finite(self) -> list[str]:
        return []

    def preview(self) -> Tensor:
        return torch.zeros(3, 4, 4)

    def products(self, folder: pathlib.Path) -> Products:
        def write() -> list[pathlib.Path]:
            (folder / "sum.bin").write_bytes(self.sum.numpy().tobytes())
            return [folder / "sum.bin"]

        return {"sum": write}


APPLICATION = Application("count", lambda plain: Counted, Count, "sum.bin", {})


def run(folder: pathlib.Path, configuration: Counted, options: loop.Options) -> int:
    """What a worker is told to call."""
    return loop.run(APPLICATION, folder, configuration, options)


def job(seed: int, **more: Any) -> Job:
    """One of a sweep."""
    return Job(f"job{seed}", {"prompt": f"number {seed}"}, Counted(seed=seed, **more))


def sweep(folder: pathlib.Path, jobs: Sequence[Job], options: cluster.Options) -> int:
    """As the command does it."""
    store = JobStore(folder, APPLICATION)
    with cluster.connected(options) as decided:
        store.check(jobs)
        with cluster.leading(folder) as token:
            return cluster_lead.run_jobs(jobs, store, run, decided, token)


def lead(folder: pathlib.Path, address: str) -> int:
    """A sweep as a command of its own; for a process that is killed."""
    return sweep(folder, [job(0, pause=0.05)], cluster.Options(address, gpus=0))
