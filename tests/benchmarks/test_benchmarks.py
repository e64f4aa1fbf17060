"""The benchmarks run: every file, on its smallest size, without torch.compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.run import done_before

ROOT = Path(__file__).parents[2]
# What a host pays for a call has one size.
SMALLEST = "small or (host_cost and cpu and perturb)"
FILES = sorted((ROOT / "benchmarks").glob("bench_*.py"))


@pytest.mark.slow
def test_every_benchmark_runs() -> None:
    arguments = ["-q", "-p", "no:cacheprovider", "--benchmark-disable", "-k", f"({SMALLEST}) and not compile", "-rA"]
    command = [sys.executable, "-m", "pytest", *map(str, FILES), *arguments]
    # The interpreter would be timed otherwise, where these tests run in it.
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "LDP_FAST_BACKEND")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    for file in FILES:
        assert f"PASSED benchmarks/{file.name}::" in result.stdout, f"{file.name} timed nothing:\n{result.stdout}"


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
    others = {"attention", "checks", "contention", "decoder", "host_cost", "hosts", "renderer", "step"}
    assert operators | others == {file.stem.removeprefix("bench_") for file in FILES}


def test_results_become_tables() -> None:
    def row(backend: str, seconds: float, **extra: object) -> dict[str, object]:
        stats = {"min": seconds, "median": 2 * seconds}
        return {"group": "field", "name": "test", "stats": stats, "extra_info": {"backend": backend, **extra}}

    report = {"benchmarks": [row("ours", 0.1, peak_megabytes=80), row("eager", 1.0, rays=4096)]}
    text = table.all_groups(table.rows_of(report))
    assert "**field**" in text
    assert "| ours | 100.0 | 200.0 | 1.0 | 80 |" in text and "| eager, rays 4096 | 1000 | 2000 | 10.0 |  |" in text
