"""A plugin of pytest: keeps the outcome of every test as it comes, and leaves out what has passed before.

    python -m pytest -p benchmarks.gpu.passed --outcomes FILE --stage NAME [--leave-out FILE] …

A line of the outcomes is {"stage", "sources", "machine", "test", "outcome", "seconds"}; of a failed test
also "why", which is the end of its report. A run that is killed keeps what it has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import lines

REPORTED = 3000  # characters
NAMES = ("stage", "sources", "machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("outcomes")
    group.addoption("--outcomes", type=Path, help="file that gets a line of JSON for every test that has ended")
    for name in NAMES:
        group.addoption(f"--{name}", default="", help="what the lines say of this run")
    group.addoption("--leave-out", type=Path, help="file with the names of tests to leave out, one a line")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--outcomes")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(file, {name: config.getoption(f"--{name}") for name in NAMES}))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    yield  # after --cover, whose choice does not depend on what has passed before
    file = config.getoption("--leave-out", default=None)
    if file is None or not file.exists():
        return
    known = set(file.read_text().splitlines())
    gone = [item for item in items if item.nodeid in known]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item.nodeid not in known]


class Outcomes:
    """Writes a line for every test that has ended."""

    def __init__(self, file: Path, about: dict[str, str]):
        self.file, self.about = file, about

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In the process that was started; under xdist its workers' reports arrive here too."""
        if report.when == "call" or report.failed or (report.skipped and report.when == "setup"):
            line = {**self.about, "test": report.nodeid, "outcome": report.outcome}
            line |= {"why": report.longreprtext[-REPORTED:]} if report.failed else {}
            lines.add(self.file, {**line, "seconds": round(report.duration, 3)})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be read is an outcome of its own: its tests did not run."""
        if report.failed:
            line = {**self.about, "test": report.nodeid, "outcome": "failed", "seconds": 0.0}
            lines.add(self.file, {**line, "why": str(report.longrepr)[-REPORTED:]})
