"""Keeps every benchmark as a row of its own: timed, skipped with its reason, failed, or left out because time ran out.

A row is written the moment its benchmark ends, so that a run that is stopped keeps what it has measured.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from . import REHEARSING, lines

LEFT_OUT = "left out: "
# Parameters that tell rows of a group apart, beside the backend.
VARIED = ("rays", "samples", "log2_table_size", "deterministic")


class _Plain:
    params: ClassVar[dict[str, Any]] = {}


class Recorder:
    """A plugin of pytest.

    Args:
        file: where the rows go, one JSON object a line.
        seconds: no benchmark is started later than this after the first; None: without a limit.
    """

    def __init__(self, file: Path, seconds: float | None = None):
        self.file, self.seconds = file, seconds
        self.start: float | None = None

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """The operators' smallest size is for the tests; the embedded model, also called small, is a result.

        A rehearsal is a test, and takes the smallest of everything; of the networks also what only a GPU is asked for.
        """
        networks = ("bench_checks", "bench_contention", "bench_decoder", "bench_step")
        small = [i for i in items if "small" in i.name and not i.path.name.startswith(networks)]
        if REHEARSING:
            wanted = [i for i in items if i in small or (i.path.name.startswith(networks) and "64x64" in i.name)]
            # What plain PyTorch computes on the stand-in is what it computes on a CPU, slowly.
            wanted = [i for i in wanted if "reference" not in getattr(i, "callspec", _Plain).params.values()]
        else:
            wanted = [item for item in items if item not in small]
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.start = self.start or time.monotonic()
        if self.seconds is not None and time.monotonic() - self.start > self.seconds:
            pytest.skip(f"{LEFT_OUT}the {self.seconds:g} seconds of the run were over")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or (report.when == "setup" and not report.passed):
            lines.add(self.file, row(item, report))
        return report


def row(item: pytest.Item, report: pytest.TestReport) -> dict[str, Any]:
    """What is kept of one benchmark."""
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    parameters = dict(getattr(getattr(item, "callspec", None), "params", {}))
    extra = dict(benchmark.extra_info) if benchmark is not None else {}
    extra |= {name: parameters[name] for name in VARIED if name in parameters}
    backend = extra.pop("backend", None) or parameters.get("backend") or parameters.get("side")
    # A benchmark that was skipped before it named itself is found by its name alone.
    group = benchmark.group if benchmark is not None else None
    found: dict[str, Any] = {"file": item.path.name, "test": item.name, "group": group}
    found["backend"] = backend if isinstance(backend, str) else "ours"
    if report.skipped:
        found["skipped"] = _reason(report)
    elif report.passed and benchmark is not None and benchmark.disabled:
        found["skipped"] = "rehearsed: it ran to its end, and nothing was timed"
    elif report.failed or benchmark is None or benchmark.stats is None:
        crash = getattr(report.longrepr, "reprcrash", None)
        found["failed"] = str(getattr(crash, "message", report.longrepr)).strip().splitlines()[0][:300]
    else:
        stats = benchmark.stats.stats
        found |= {"min_s": stats.min, "median_s": stats.median, "rounds": stats.rounds}
    return found | {"extra": {k: v for k, v in sorted(extra.items()) if isinstance(v, bool | int | float | str | list)}}


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
