"""Sweeps on a Ray cluster: what happens to jobs, records and results when workers or the command are killed."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ldp_fast import cli
from ldp_fast.apps import registry
from ldp_fast.apps.sweep.command import run_job
from ldp_fast.errors import UsageError
from ldp_fast.runs import cluster, cluster_lead, cluster_worker, files
from ldp_fast.runs.folder import locked
from ldp_fast.runs.jobs import Job, JobStore

from ..support import processes
from . import cluster_application as application

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of this machine's: two CPUs, and a GPU that it is told to have.

    The tests that leave its workers alive come first, for the next one has them.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'ldp-fast[cluster]')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Of every sweep, for a worker serves only those that want the variables which it was started with.
        patch.setenv("LDP_FAST_TEST_WORD", "said")
        ray.init(
            "local",
            num_cpus=2,
            num_gpus=1,
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
            # Workers that wait for a job stay: a new one imports torch, which takes longer than most jobs here.
            _system_config={"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 600_000},
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def options(**more: Any) -> cluster.Options:
    return cluster.Options(**{"gpus": 0, "patience": 20.0, **more})


def record(folder: pathlib.Path, name: str) -> dict[str, Any]:
    return JobStore(folder, application.APPLICATION).read(name)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def kept(folder: pathlib.Path, name: str) -> bool:
    """Whether a job has a checkpoint to go on from."""
    return any((folder / name).glob("checkpoints/step-*.safetensors"))


def uninterrupted(folder: pathlib.Path, job: Job) -> bytes:
    """The bytes of a job's result that nobody disturbed."""
    quick = application.job(job.configuration.seed)
    assert application.run(folder / job.name, quick.configuration, cluster_worker.Options()) == 0
    return (folder / job.name / "sum.bin").read_bytes()


def test_a_dead_workers_job_goes_on_from_its_checkpoint(
    address: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    jobs = [application.job(seed, pause=0.05, trace=str(tmp_path / f"trace{seed}")) for seed in range(3)]
    statuses: dict[str, list[str]] = {"job0": [], "job1": []}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for name, seen in statuses.items():
                status = record(folder, name).get("status", "waiting")
                if not seen or seen[-1] != status:
                    seen.append(status)

    def end(name: str, number: int) -> None:
        until(lambda: kept(folder, name) and record(folder, name).get("status") == "running")
        os.kill(files.read_json(folder / name / "run.json")["process"]["pid"], number)

    threads = [
        threading.Thread(target=watch),
        threading.Thread(target=end, args=("job0", signal.SIGKILL)),
        threading.Thread(target=end, args=("job1", signal.SIGTERM)),
    ]
    for thread in threads:
        thread.start()
    try:
        assert application.sweep(folder, jobs, options()) == 0
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    said = capfd.readouterr().err
    assert "job0: its worker on" in said and "(its process was killed); handed out again, 1 of 2" in said
    assert "job1: its worker on" in said and "(it was told to stop); handed out again, 1 of 2" in said
    for number, job in enumerate(jobs):
        assert record(folder, job.name)["status"] == "finished"
        assert record(folder, job.name)["host"] == socket.gethostname()
        assert (folder / job.name / "sum.bin").read_bytes() == uninterrupted(tmp_path / "alone", job)
        lines = [line.split() for line in (tmp_path / f"trace{number}").read_text().splitlines()]
        steps = [int(step) for _, step in lines]
        if number == 0:
            processes = list(dict.fromkeys(process for process, _ in lines))
            second = [int(step) for process, step in lines if process == processes[-1]]
            # From a checkpoint, which it had every five steps.
            assert len(processes) == 2 and second[0] > 5 and second[0] % 5 == 1 and second[-1] == 30
        else:
            # Told to stop, it kept the very step at which it was told.
            assert steps == list(range(1, 31))
    for seen in statuses.values():
        assert seen[:4] == ["waiting", "running", "waiting", "running"]


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_command_that_was_stopped_goes_on(
    address: str, tmp_path: pathlib.Path, number: int, times: int, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, names = tmp_path / "sweep", ("job0", "job1", "job2")
    # Steps that take long, where the first signal would wait for their end.
    jobs = [application.job(seed, pause=0.05 if times == 1 else 1.0, checkpoint_every=1) for seed in range(3)]

    def stop() -> None:
        until(lambda: kept(folder, "job0") and record(folder, "job0").get("status") == "running")
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        assert application.sweep(folder, jobs, options()) == 130
    finally:
        thread.join()
    assert "continue with the same command" in capfd.readouterr().err
    states = [record(folder, name)["status"] for name in names]
    assert states[0] == "interrupted" and set(states) <= {"interrupted", "waiting"}
    run = files.read_json(folder / "job0" / "run.json")
    if times == 1:
        assert run["status"] == "interrupted"
    assert (folder / "job0" / "checkpoints" / f"step-{run['step']:06d}.safetensors").exists()
    jobs = [application.job(seed, pause=0.01) for seed in range(3)]
    assert application.sweep(folder, jobs, options()) == 0
    for job in jobs:
        assert record(folder, job.name)["status"] == "finished"
        assert (folder / job.name / "sum.bin").read_bytes() == uninterrupted(tmp_path / "alone", job)


def test_a_command_that_was_killed_goes_on(address: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "sweep"
    process = processes.Started(application.lead, folder, address, environment={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        until(lambda: kept(folder, "job0") and record(folder, "job0").get("status") == "running")
    finally:
        process.kill()
        process.wait()
    assert record(folder, "job0")["status"] == "running"
    job = application.job(0, pause=0.01)
    assert application.sweep(folder, [job], options()) == 0
    assert record(folder, "job0")["status"] == "finished"
    assert (folder / "job0" / "sum.bin").read_bytes() == uninterrupted(tmp_path / "alone", job)


def test_a_job_that_fails_or_always_dies_leaves_the_rest_alone(
    address: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {**files.versions(), "torch": "0.0"}
    monkeypatch.setattr(files, "versions", lambda: here)
    jobs = [application.job(0, die_at=3), application.job(1, fails=True), application.job(2), application.job(3)]
    assert application.sweep(tmp_path, jobs, options(retries=1, cpus=2)) == 0
    found = {job.name: record(tmp_path, job.name) for job in jobs}
    assert [r["status"] for r in found.values()] == ["failed", "failed", "finished", "finished"]
    assert "its worker died 2 times" in found["job0"]["error"]
    assert found["job1"]["error"] == "--seed: this one does not count"
    assert {name: r["status"] for name, r in found.items()} == {
        entry["folder"]: entry["status"] for entry in files.read_json(tmp_path / "jobs.json")["jobs"]
    }
    run = files.read_json(tmp_path / "job2" / "run.json")
    assert (run["threads"], run["inherited"]) == (2, "said")
    said = capfd.readouterr().err
    assert said.count("(here 0.0): its results may differ") == 1
    assert said.count("failed: job1") == 1 and "2/4 jobs, 0 running, 2 failed" in said
    # Again, with what was wrong mended: what is finished is left alone.
    jobs[:2] = [application.job(0), application.job(1)]
    before = (tmp_path / "job2" / "run.json").stat().st_mtime_ns
    assert application.sweep(tmp_path, jobs, options(cpus=2)) == 0
    assert (tmp_path / "job2" / "run.json").stat().st_mtime_ns == before
    assert {record(tmp_path, job.name)["status"] for job in jobs} == {"finished"}


def test_machines_that_cannot_do_the_jobs_are_named(
    address: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"{socket.gethostname()} cannot do jobs: abacus is not installed on it"):
        application.sweep(tmp_path, [application.job(0, missing=True), application.job(1)], options())
    # It may be mended, and the same command goes on.
    assert record(tmp_path, "job0")["status"] == "waiting"
    monkeypatch.setattr(cluster_worker.time, "sleep", lambda seconds: None)
    order = cluster_worker.Order("job0", 0, tmp_path, "another", ".", 1, application.run, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_worker, "_Reporter", lambda *_: type("Silent", (), {"asked": False}))
        found = cluster_worker.work(order, None)
    assert found["outcome"] == "unfit"
    assert found["error"] == f"it does not see {tmp_path} as the machine of the command does"


OWN = """
import dataclasses
from ldp_fast.apps.entry import Entry
from ldp_fast.runs.experiment import Application
from tests.runs.cluster_application import Count, Counted

@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Counted):
    application = "own"

ENTRY = Entry(Application("own", lambda plain: Own, Count, "sum.bin", {}), print, print)
"""


def test_workers_find_a_module_of_the_folder_where_the_command_is_typed(
    address: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folders_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_found", {})
    entry = registry.find("folders_own:ENTRY")
    try:
        jobs = [Job("job0", {"prompt": "number 0"}, entry.application.class_of({})(seed=0, steps=6))]
        store = JobStore(tmp_path / "sweep", entry.application)
        runner = functools.partial(run_job, "folders_own:ENTRY")
        with cluster.connected(options()) as decided, cluster.leading(store.folder) as token:
            assert cluster_lead.run_jobs(jobs, store, runner, decided, token) == 0
        assert store.read("job0")["status"] == "finished", store.read("job0")
    finally:
        del sys.modules["folders_own"]


def test_gpus_of_a_job_are_chosen_by_the_cluster(address: str) -> None:
    with cluster.connected(cluster.Options()) as decided:
        assert decided.gpus == 1
    with cluster.connected(cluster.Options(gpus=0.5)) as decided:
        assert decided.gpus == 0.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus": 2.0}, "--gpus-per-job: expected a number from 0 to 1"),
        ({"gpus": float("nan")}, "--gpus-per-job: expected a number from 0 to 1"),
        ({"cpus": 0}, "--cpus-per-job: expected a whole number of at least 1"),
        ({"retries": -1}, "--retries: expected a whole number of at least 0"),
        ({"address": "ray://here:10001"}, "--cluster: expected auto, local or HOST:PORT"),
        ({"address": "here"}, "--cluster: expected auto, local or HOST:PORT"),
    ],
)
def test_wrong_options_are_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cluster.Options(**wrong).check()


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"--cluster {address}: nobody answers there"):
            cluster.reach(address)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError) as raised, cluster.connected(cluster.Options()):
        pass
    raised.value.name = "ray"  # which a module that is only hidden does not say
    assert cli.explain(raised.value) == "ray is not installed: pip install 'ldp-fast[cluster]'"


def test_one_command_leads_a_folder(tmp_path: pathlib.Path) -> None:
    cluster.check_nobody_leads(tmp_path)
    with cluster.leading(tmp_path):
        for second in (cluster.leading(tmp_path), contextlib.nullcontext()):
            with pytest.raises(UsageError, match=f"is being written by process {os.getpid()} on"), second:
                cluster.check_nobody_leads(tmp_path)
    # What it leaves is the folder of a sweep, and nobody's.
    cluster.check_nobody_leads(tmp_path)
    JobStore(tmp_path, application.APPLICATION).check([])


def test_the_board_hears_the_newest_attempt_only() -> None:
    board = cluster.board_class()()
    assert board.report("a", {"attempt": 1, "step": 3}) is False
    assert board.report("a", {"attempt": 0, "step": 9}) is True
    assert board.read(True) == {"a": {"attempt": 1, "step": 3}}
    assert board.report("a", {"attempt": 1, "step": 4}) is True


def hold(folder: pathlib.Path, seconds: float) -> int:
    """Writes in a run's folder for some seconds; for a process of its own."""
    with locked(folder):
        (folder / "held").touch()
        time.sleep(seconds)
        (folder / "let go").touch()
    return 0


def test_a_run_that_another_process_writes_is_waited_for(tmp_path: pathlib.Path) -> None:
    files.write_json(tmp_path / "run.json", {"process": {"pid": 1, "host": "another"}})
    other = processes.Started(hold, tmp_path, 1.5)
    until((tmp_path / "held").exists)
    started = time.monotonic()
    cluster_worker.wait_for(tmp_path, 0.2)
    assert time.monotonic() - started < 1.4 and not (tmp_path / "let go").exists()
    cluster_worker.wait_for(tmp_path, 60.0)
    assert (tmp_path / "let go").exists() and other.wait(5).code == 0
    cluster_worker.wait_for(tmp_path, 60.0)
