"""The benchmarks run: every file, on its smallest size, without torch.compile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory, table
from benchmarks.run import done_before

from ..support import covering, processes

ROOT = Path(__file__).parents[2]
# What a host pays for a call has one size.
SMALLEST = "small or (host_cost and cpu and perturb)"
FILES = sorted((ROOT / "benchmarks").glob("bench_*.py"))


class EveryValue:
    """A plugin of pytest that keeps of each benchmark what holds every backend, direction and layout once."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = covering.chosen(items, covering.STRENGTHS["values"])
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def measured_here(run: object, target: str, device: str, arguments: dict[str, Any], *more: object) -> memory.Growth:
    """Makes and runs what memory is measured of, in this process: test_memory.py has one that measures."""
    made, warm_up = memory._prepare(target, arguments)
    warm_up()
    made()
    return memory.Growth(0, 0)


def benchmarks_once(arguments: list[str]) -> int:
    """For a process of its own."""
    memory.measure = measured_here  # type: ignore[assignment]
    return int(pytest.main(arguments, plugins=[EveryValue()]))


@pytest.mark.slow
def test_every_benchmark_runs() -> None:
    """Of each benchmark as many cases as hold every value of its parameters once."""
    arguments = ["-q", "-p", "no:cacheprovider", "--benchmark-disable", "-k", f"({SMALLEST}) and not compile", "-rA"]
    # The interpreter would be timed otherwise, where these tests run in it.
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "LDP_FAST_BACKEND")}
    done = processes.Started(benchmarks_once, [*map(str, FILES), *arguments], environment=environment).wait(300)
    assert done.code == 0, done.out + done.err
    for file in FILES:
        assert f"PASSED benchmarks/{file.name}::" in done.out, f"{file.name} timed nothing:\n{done.out}"


def test_code_that_was_measured_is_not_measured_again() -> None:
    """By the commit, or where there is no git, or changes, by the digest of `make gpu`."""
    at = {"commit": "abc", "changed": False}
    old = {"runs": {"1": {"selection": "-k x", "whole": ["bench_a.py"], "sources": "f00", **at}}}
    assert done_before(old, "-k x", at) == {"bench_a.py"}
    assert done_before(old, "-k y", at) == done_before(old, "-k x", at | {"changed": True}) == set()
    nameless = {"commit": None, "changed": False}
    assert done_before(old, "-k x", nameless) == set()
    assert done_before(old, "-k x", nameless | {"sources": "f00"}) == {"bench_a.py"}
    assert done_before(old, "-k x", at | {"sources": "other"}) == set()


def test_every_operator_has_its_benchmark() -> None:
    operators = {path.stem for path in (ROOT / "ldp_fast" / "ops").glob("*.py") if not path.stem.startswith("_")}
    others = {"attention", "checks", "contention", "decoder", "host_cost", "hosts", "lpips", "renderer", "step"}
    assert operators | others == {file.stem.removeprefix("bench_") for file in FILES}


def test_results_become_tables() -> None:
    def row(backend: str, seconds: float, **extra: object) -> dict[str, object]:
        stats = {"min": seconds, "median": 2 * seconds}
        return {"group": "field", "name": "test", "stats": stats, "extra_info": {"backend": backend, **extra}}

    report = {"benchmarks": [row("ours", 0.1, peak_megabytes=80), row("eager", 1.0, rays=4096)]}
    text = table.all_groups(table.rows_of(report))
    assert "**field**" in text
    assert "| ours | 100.0 | 200.0 | 1.0 | 80 |" in text and "| eager, rays 4096 | 1000 | 2000 | 10.0 |  |" in text
