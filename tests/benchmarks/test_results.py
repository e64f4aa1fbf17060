"""What a run leaves behind: rows for everything, one file a machine, groups that are of one run."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import lines, machine, ongoing, results, run, table
from benchmarks.recording import LEFT_OUT

from ..support import processes
from .made_up import ABOUT, CPU, RUN, on_cpu, row

ROOT = Path(__file__).resolve().parents[2]
LATER = "2026-02-02T00:00:00Z"
# The other plugins of pytest take longer to start than all that is run here.
PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_benchmark.plugin,pytest_timeout"}


def merged(old: results.Results, *rows: results.Row) -> results.Results:
    return results.merge(old, list(rows), LATER, ABOUT | {"date": LATER, "command": "later"}, CPU)


def test_a_run_replaces_the_groups_it_timed_as_a_whole() -> None:
    old = results.merge(results.empty(CPU), [row("a", "g", "naive", 2.0), row("a", "h", "ours", 1.0)], RUN, ABOUT, CPU)
    new = merged(old, row("a", "g", "ours", 1.0))
    # A ratio over two runs would be meaningless: naive of the earlier run is gone.
    assert [(r["group"], r["backend"], r["run"]) for r in new["rows"]] == [("h", "ours", RUN), ("g", "ours", LATER)]
    assert set(new["runs"]) == {RUN, LATER}
    assert set(merged(new, row("a", "h", "ours", 2.0))["runs"]) == {LATER}


def test_what_was_left_out_pushes_nothing_out() -> None:
    timed = row("a", "g", "naive", 2.0)
    old = results.merge(results.empty(CPU), [timed], RUN, ABOUT, CPU)
    late = {key: timed[key] for key in ("file", "test", "backend", "extra")}
    late |= {"group": None, "skipped": f"{LEFT_OUT}the 10 seconds of the run were over"}
    assert merged(old, late)["rows"] == old["rows"]
    assert merged(results.empty(CPU), late)["rows"][0]["skipped"].startswith("left out: the 10 seconds")


def test_half_a_group_does_not_replace_a_whole_one() -> None:
    naive, ours = row("a", "g", "naive", 2.0), row("a", "g", "ours", 1.0)
    old = results.merge(results.empty(CPU), [naive, ours], RUN, ABOUT, CPU)
    late = {key: naive[key] for key in ("file", "test", "backend", "extra")}
    late |= {"group": None, "skipped": f"{LEFT_OUT}the 10 seconds of the run were over"}
    assert merged(old, row("a", "g", "ours", 3.0), late)["rows"] == old["rows"]
    about = ABOUT | {"date": LATER, "command": "later"}
    stopped = results.merge(old, [row("a", "g", "ours", 3.0), row("a", "h", "ours", 4.0)], LATER, about, CPU, cut=True)
    assert [(r["group"], r["backend"], r["min_s"]) for r in stopped["rows"]] == [
        ("g", "naive", 2.0),
        ("g", "ours", 1.0),
        ("h", "ours", 4.0),
    ]


def test_files_are_replaced_at_once_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "made-up.json"
    results.write(file, on_cpu())
    results.write(file, on_cpu())
    assert results.read_all(file.parent) == [on_cpu()]
    assert [path.name for path in file.parent.iterdir()] == ["made-up.json"]
    assert json.loads(file.read_text())["schema"] == 1


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.json: expected results of schema 1"):
        results.read_all(tmp_path)


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"test": 1}\n{"te')
    assert results.read_rows(tmp_path / "rows") == [{"test": 1}]


SOURCE = """
import pytest

@pytest.mark.parametrize("backend", ["ours", "broken", "absent"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_thing(benchmark, size, backend):
    benchmark.group = f"thing {size}"
    benchmark.extra_info["peak_bytes"] = 7
    if backend == "absent":
        pytest.skip("it is not installed")
    assert backend != "broken", "it broke"
    benchmark.pedantic(lambda: None, rounds=3)
"""


def pytest_in(folder: Path, command: list[str]) -> int:
    """For a process of its own: pytest-benchmark times nothing in a worker of a distributed run."""
    os.chdir(folder)
    return int(pytest.main(command))


def run_pytest(folder: Path, *options: str) -> list[results.Row]:
    (folder / "conftest.py").write_text("from benchmarks.conftest import pytest_addoption, pytest_configure\n")
    (folder / "test_thing.py").write_text(SOURCE)
    rows = folder / "rows.jsonl"
    command = ["-q", "-p", "no:cacheprovider", f"--rootdir={folder}", f"--rows={rows}", *options, str(folder)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    processes.Started(pytest_in, folder, command, environment=environment | PLUGINS).wait()
    return results.read_rows(rows)


def test_everything_becomes_a_row(tmp_path: Path) -> None:
    ours, broken, absent = sorted(run_pytest(tmp_path), key=lambda r: ["ours", "broken", "absent"].index(r["backend"]))
    assert ours["min_s"] > 0 and ours["rounds"] == 3 and ours["extra"] == {"peak_bytes": 7}
    assert ours["group"] == "thing large"  # the operators' smallest size is for the tests
    assert "it broke" in broken["failed"] and "min_s" not in broken
    assert absent["skipped"] == "it is not installed" and absent["group"] == "thing large"


def test_time_that_is_up_becomes_rows_too(tmp_path: Path) -> None:
    rows = run_pytest(tmp_path, "--seconds=0")
    assert len(rows) == 3 and sum(r.get("skipped", "").startswith(LEFT_OUT) for r in rows) >= 2


def test_a_run_keeps_its_results_under_the_machines_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in PLUGINS.items():
        monkeypatch.setenv(name, value)
    arguments = ["benchmarks/bench_latent_kl.py", "-k", "sd-forward and ours and not backward"]
    assert run.main(["--out", str(tmp_path), *arguments]) == 0
    found = results.read(tmp_path / f"{machine.slug()}.json")
    assert [(r["backend"], table.measured(r)) for r in found["rows"]] == [("ours", True)]
    about = next(iter(found["runs"].values()))
    assert (
        about["command"].startswith('make bench BENCH="benchmarks/bench_latent_kl.py -k') and about["versions"]["torch"]
    )
    printed = capfd.readouterr().out
    assert "**latent_kl_loss, forward sd cpu**" in printed and "| what | goal | measured |" in printed


def test_what_matters_most_is_run_first() -> None:
    files = run.benchmark_files()
    assert files[:2] == ["benchmarks/bench_step.py", "benchmarks/bench_decoder.py"]
    assert sorted(files) == sorted(f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("bench_*.py"))


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """By files: those of which nothing failed, was left out or cut off."""
    monkeypatch.setattr(run, "benchmark_files", lambda: [f"benchmarks/bench_{f}.py" for f in "abc"])
    monkeypatch.setattr(run, "commit", lambda _: {"commit": "1234567890", "changed": False})
    commands: list[list[str]] = []

    def pytest_that(rows: list[results.Row], cut: bool):
        def go(command: list[str], limit: float | None, held: Any) -> tuple[int, bool]:
            commands.append([part for part in command if part.startswith("benchmarks/")])
            file = Path(next(part for part in command if part.startswith("--rows=")).removeprefix("--rows="))
            for line in rows:
                lines.add(file, line)
            return 0, cut

        return go

    go_on = ["--out", str(tmp_path), "--resume", "--left-out-status", "75", "-k", "not compile"]
    late = row("b", "h", "ours", 1.0) | {"group": None, "skipped": f"{LEFT_OUT}the 10 seconds of the run were over"}
    monkeypatch.setattr(run, "run_pytest", pytest_that([row("a", "g", "ours", 1.0), late], cut=True))
    assert run.main(go_on) == 75
    monkeypatch.setattr(run, "run_pytest", pytest_that([row(f, f, "ours", 2.0) for f in "bc"], cut=False))
    assert run.main(go_on) == 0
    assert run.main(go_on) == 0 and "all of them were measured before" in capsys.readouterr().out
    assert run.main([*go_on[:-1], "compile"]) == 0, "another selection begins at the first"
    assert commands == [[f"benchmarks/bench_{f}.py" for f in files] for files in ("abc", "bc", "abc")]
    assert not list(tmp_path.glob("*.jsonl")), "rows that are in their place need no file of their own"


def left(folder: Path, name: str, text: str | None = None, **about: Any) -> Path:
    """A file of rows as a run leaves it that is killed while it writes its second row."""
    file = folder / f"{name}{ongoing.SUFFIX}"
    about = {"date": "2026-01-01T00:00:00Z", "commit": "0987654321", "command": "make bench", **about}
    begun = {"about": about, "machine": machine.describe(), "slug": machine.slug()}
    whole = json.dumps(begun) + "\n" + json.dumps(row(name, name, "ours", 1.0)) + '\n{"cut'
    file.write_text(whole if text is None else text)
    return file


def measuring(monkeypatch: pytest.MonkeyPatch, *rows: results.Row, meanwhile: Callable[[], Any] = lambda: None) -> None:
    """Has a run measure these rows."""
    monkeypatch.setattr(run, "commit", lambda _: {"commit": "1234567890", "changed": False})

    def go(command: list[str], limit: float | None, held: Any) -> tuple[int, bool]:
        file = Path(next(part for part in command if part.startswith("--rows=")).removeprefix("--rows="))
        for line in rows:
            lines.add(file, line)
        meanwhile()
        return 0, False

    monkeypatch.setattr(run, "run_pytest", go)


def commits(folder: Path) -> set[tuple[str, str]]:
    found = results.read(folder / f"{machine.slug()}.json")
    return {(r["file"], found["runs"][r["run"]]["commit"]) for r in found["rows"]}


def test_rows_of_a_run_that_was_killed_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And neither those of one that goes on, nor another machine's, nor what was measured again since."""
    measuring(monkeypatch, row("again", "again", "ours", 2.0))
    assert run.main(["--out", str(tmp_path), "-k", "again"]) == 0
    left(tmp_path, "killed")
    left(tmp_path, "again")
    other = left(tmp_path, "elsewhere")
    other.write_text(other.read_text().replace(machine.slug(), "another-machine"))
    measuring(monkeypatch, row("new", "new", "ours", 2.0))
    with left(tmp_path, "running").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run.main(["--out", str(tmp_path), "-k", "new"]) == 0
    old, new = "0987654321", "1234567890"
    assert commits(tmp_path) == {("bench_killed.py", old), ("bench_again.py", new), ("bench_new.py", new)}
    names = sorted(file.name for file in tmp_path.glob("*.jsonl"))
    assert names == [f"elsewhere{ongoing.SUFFIX}", f"running{ongoing.SUFFIX}"]


@pytest.mark.parametrize(
    "text", ["{}\n", '{"about": {}}\n', '{"cut', "\0\0", '{"about": {"date": "x"}, "machine": {}}\n{"test": "t"}\n']
)
def test_a_file_of_rows_that_is_none_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    left(tmp_path, "odd", text)
    (tmp_path / f"folder{ongoing.SUFFIX}").mkdir()
    measuring(monkeypatch, row("new", "new", "ours", 2.0))
    assert run.main(["--out", str(tmp_path), "-k", "new"]) == 0
    assert commits(tmp_path) == {("bench_new.py", "1234567890")}
    assert sorted(p.name for p in tmp_path.glob("*.broken")) == ["folder.rows.broken", "odd.rows.broken"]


def test_two_runs_at_once_keep_what_both_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another() -> None:
        measuring(monkeypatch, row("inner", "inner", "ours", 1.0))
        assert run.main(["--out", str(tmp_path), "-k", "inner"]) == 0

    measuring(monkeypatch, row("outer", "outer", "ours", 1.0), meanwhile=another)
    assert run.main(["--out", str(tmp_path), "-k", "outer"]) == 0
    assert {file for file, _ in commits(tmp_path)} == {"bench_inner.py", "bench_outer.py"}
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends a child with its parent")
def test_a_run_that_is_killed_takes_its_benchmarks_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--out", str(tmp_path), "benchmarks/bench_perturb.py"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment | PLUGINS, stdout=subprocess.DEVNULL)

    def rows() -> int:
        return sum(len(results.read_rows(file)) for file in tmp_path.glob(f"*{ongoing.SUFFIX}"))

    while not rows():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    time.sleep(0.5)
    before = rows()
    time.sleep(1)
    assert rows() == before
    file = tmp_path / f"{machine.slug()}.json"
    ongoing.take_over(tmp_path, file)
    assert len(results.read(file)["rows"]) == before and not list(tmp_path.glob("*.jsonl"))


def test_the_name_of_a_benchmark_stands_for_its_file() -> None:
    words = ["contention", "-k", "step", "benchmarks/bench_step.py", "nothing"]
    assert run.with_files(words) == ["benchmarks/bench_contention.py", *words[1:]]
    assert run.with_files(["-k", "decoder", "step"]) == ["-k", "decoder", "benchmarks/bench_step.py"]
