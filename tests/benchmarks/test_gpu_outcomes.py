"""The plugin of pytest that keeps what passed, so that a second run of `make gpu` leaves it out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import lines
from benchmarks.gpu import processes

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
import time
import pytest

def test_good():
    pass

def test_bad():
    assert False

@pytest.mark.skip(reason="not here")
def test_skipped():
    pass

@pytest.fixture
def broken():
    raise RuntimeError

def test_without_its_fixture(broken):
    pass
"""


def command(folder: Path, *options: str) -> list[str]:
    (folder / "test_things.py").write_text(SOURCE)
    plugin = ["-p", "benchmarks.gpu.passed", f"--outcomes={folder / 'outcomes.jsonl'}"]
    about = ["--stage=trial", "--sources=abc", "--machine=a GPU"]
    base = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    return [*base, *plugin, *about, *options, str(folder)]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    # Other plugins take most of the time in which pytest and its workers start; `make rehearsal` has them all.
    return kept | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def distributed(workers: int) -> list[str]:
    return ["-p", "xdist.plugin", "-n", str(workers)] if workers else []


@pytest.mark.parametrize("workers", [0, 2])
def test_every_test_is_a_line_and_what_passed_is_left_out(tmp_path: Path, workers: int) -> None:
    options = distributed(workers)
    subprocess.run(command(tmp_path, *options), cwd=tmp_path, env=environment(), capture_output=True, timeout=120)
    found = {line["test"].split("::")[1]: line["outcome"] for line in lines.read(tmp_path / "outcomes.jsonl")}
    assert found == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_skipped": "skipped",
        "test_without_its_fixture": "failed",
    }
    why = {line["test"].split("::")[1]: line.get("why") for line in lines.read(tmp_path / "outcomes.jsonl")}
    assert "assert False" in why["test_bad"] and "RuntimeError" in why["test_without_its_fixture"]
    assert why["test_good"] is None
    first = next(lines.read(tmp_path / "outcomes.jsonl"))
    assert (first["stage"], first["sources"], first["machine"]) == ("trial", "abc", "a GPU") and "seconds" in first
    known = tmp_path / "known"
    known.write_text("\n".join(line["test"] for line in lines.read(tmp_path / "outcomes.jsonl")))
    done = subprocess.run(
        command(tmp_path, *options, f"--leave-out={known}"), cwd=tmp_path, env=environment(), capture_output=True
    )
    assert done.returncode == 5, "pytest's code where nothing is left to run"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_lacks_a_package_takes_nothing_else_with_it(tmp_path: Path, workers: int) -> None:
    options = ["--continue-on-collection-errors", "-k", "test_good", *distributed(workers)]
    whole = command(tmp_path, *options)
    (tmp_path / "test_absent.py").write_text("import no_such_package\n\ndef test_good():\n    pass\n")
    done = subprocess.run(whole, cwd=tmp_path, env=environment(), capture_output=True, timeout=120)
    found = {line["test"].split("::")[-1]: line["outcome"] for line in lines.read(tmp_path / "outcomes.jsonl")}
    assert done.returncode == 1 and found == {"test_absent.py": "failed", "test_good": "passed"}
    (why,) = (line["why"] for line in lines.read(tmp_path / "outcomes.jsonl") if "why" in line)
    assert "no_such_package" in why


@pytest.mark.slow
def test_a_run_that_is_stopped_has_written_its_report(tmp_path: Path) -> None:
    text = "import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n"
    folder, report = tmp_path / "things", tmp_path / "report.xml"
    folder.mkdir()
    options = [f"--junitxml={report}", "-k", "test_a or test_b"]
    whole = command(folder, *options)
    (folder / "test_long.py").write_text(text)
    outcomes = folder / "outcomes.jsonl"
    ended = processes.run(whole, 5.0, tmp_path / "log", environment=environment(), folder=folder)
    assert ended.stopped and ended.code == 2, ended
    assert [line["test"].split("::")[1] for line in lines.read(outcomes)] == ["test_a"]
    assert "test_a" in report.read_text()


@pytest.mark.parametrize("cut", ['{"b', '{"b": 2}'], ids=["within", "before its end of line"])
def test_what_follows_a_line_that_was_cut_off_is_not_lost(tmp_path: Path, cut: str) -> None:
    file = tmp_path / "lines.jsonl"
    lines.add(file, {"a": 1})
    with file.open("a") as text:
        text.write(cut)
    for line in ({"c": 3}, {"d": 4}):
        lines.add(file, line)
    whole = [{"b": 2}] if cut.endswith("}") else []
    assert list(lines.read(file)) == [{"a": 1}, *whole, {"c": 3}, {"d": 4}]
