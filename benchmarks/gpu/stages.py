"""What `make gpu` runs, most valuable first.

| stage | seconds of 8 minutes | what it leaves |
|---|---|---|
| environment, build | 40, 120 | an extension for this GPU's architecture alone |
| device report | 40 | device.jsonl: the machine, and one call of every operator |
| real size | 90 | real_size.xml: operators, decoder and step at the sizes that people run |
| benchmarks | 110 | <machine>.json: the rows of docs/performance.md, without torch.compile |
| tests | 100 | tests.xml: the other tests marked `gpu`, side by side |
| compiled step, compiled operators | 75, 60 | the same rows with torch.compile, both sides in one run |
| memcheck, racecheck, initcheck | 60 each | compute-sanitizer over one small case of every native kernel |
| report | 15, kept for it | report.zip: the page and the figures of docs/performance.md |
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import environment, processes
from .processes import Ended
from .schedule import ABSENT_STATUS, LEFT_OUT_STATUS, Book, Stage

ROOT = Path(__file__).resolve().parents[2]
REHEARSAL = {"LDP_TEST_GPU": "cpu"}
LOG = "log.txt"
SANITIZERS = ("memcheck", "racecheck", "initcheck")
JUNIT = ("real size", "tests")
# What is not about a GPU is measured where there is none.
PLAIN = "not compile and not contention and not host_cost"
# All backends of the operators, torch.compile among them.
OPERATORS = "not bench_step and not bench_renderer and not bench_hosts and not contention and not host_cost"
# What a rehearsal has to get through; of the benchmarks it takes what its minutes hold.
REHEARSED = ("environment", "device report", "real size", "tests", "memcheck", "report")
# Started so long before a limit that what is running can end, and be written.
MARGIN = 20.0
# where a toolkit is that is not on the PATH
CUDA = tuple(f"/usr/local/cuda/{name}" for name in ("bin", "compute-sanitizer"))


@dataclass
class Run:
    """What the stages of a run share.

    Attributes:
        out: folder of everything that is left.
        book: the lines.
        rehearse: with a stand-in for the GPU (tests/standin).
        again: whether tests run that have passed before.
        python: what runs the stages, once it is known.
        found: what that has (environment.probe).
        since: lines of outcomes that were there before this run.
        wheels: folder of packages to install from.
        commit: what results call the code that is measured, where git does not know.
    """

    out: Path
    book: Book
    rehearse: bool = False
    again: bool = False
    candidates: list[str] = field(default_factory=lambda: [sys.executable])
    python: str = sys.executable
    found: dict[str, Any] = field(default_factory=dict)
    since: int = 0
    wheels: Path = environment.WHEELS
    commit: str = ""

    @property
    def log(self) -> Path:
        """Everything that was printed."""
        return self.out / LOG

    def do(self, *command: str, seconds: float, **variables: str) -> Ended:
        """Runs a command with what every stage has set."""
        variables = {"OMP_NUM_THREADS": "1", "PATH": self.path, **(REHEARSAL if self.rehearse else {}), **variables}
        if not os.access(Path.home(), os.W_OK):  # where Triton keeps what it has compiled
            variables.setdefault("TRITON_CACHE_DIR", os.environ.get("TRITON_CACHE_DIR", str(ROOT / ".triton")))
        return processes.run(command, seconds, self.log, environment=variables, folder=ROOT)

    @property
    def path(self) -> str:
        """PATH of the stages: ninja stands beside the Python that has torch as often as not, nvcc where it is put."""
        tools = {str(Path(python).parent) for python in (self.python, self.found.get("executable") or self.python)}
        toolkit = [folder for folder in CUDA if Path(folder).is_dir()]
        return os.pathsep.join([*sorted(tools), os.environ.get("PATH", os.defpath), *toolkit])

    def module(self, name: str, *arguments: str, seconds: float, **variables: str) -> Ended:
        """Runs a module of Python."""
        return self.do(self.python, "-m", name, *arguments, seconds=seconds, **variables)


def files_of(mark: str) -> list[str]:
    """The test files that have a test with a mark; the others need packages that a bare machine may lack, and time."""
    files, marked = sorted((ROOT / "tests").rglob("test_*.py")), re.compile(rf"\bmark\.{mark}\b")
    return [str(file.relative_to(ROOT)) for file in files if marked.search(file.read_text())]


def all_of(run: Run) -> list[Stage]:
    """The stages of a run, in order."""
    # On the stand-in the three are the same, nothing is compiled, and one operator speaks for all.
    sanitizers, step, operators = SANITIZERS, "bench_step and 64x64", OPERATORS
    if run.rehearse:
        sanitizers, step, operators = SANITIZERS[:1], f"{step} and compile", "bench_perturb"
    return [
        Stage("environment", partial(prepare, run), 40, needed=True, again=True),
        Stage("build", partial(build, run), 120, least=20, again=True),
        Stage("device report", partial(report, run), 40, again=True),
        Stage("real size", partial(tests, run, "real size", "gpu and real_size"), 90, least=20, resumes=True),
        Stage("benchmarks", partial(benchmarks, run, PLAIN, ("--rates",)), 110, least=30, resumes=True),
        Stage("tests", partial(tests, run, "tests", "gpu and not real_size"), 100, least=20, resumes=True),
        Stage("compiled step", partial(benchmarks, run, step, ()), 75, least=45, resumes=True),
        Stage("compiled operators", partial(benchmarks, run, operators, ()), 60, least=45, resumes=True),
        *(Stage(tool, partial(sanitize, run, tool), 60, least=15, resumes=True) for tool in sanitizers),
        Stage("report", partial(page, run), 15, least=0, last=True, again=True),
    ]


def prepare(run: Run, seconds: float) -> Ended:
    """Chooses the Python, and installs what is missing. Nothing can run without one."""
    if run.rehearse:
        run.found, run.book.machine = {"capability": "9.0", "missing": []}, "a stand-in for a GPU"
        return run.do(run.python, "-c", "print('rehearsal: no GPU is asked for')", seconds=seconds)
    try:
        python, run.found = environment.choose(run.candidates)
        ours = (Path(python).parent.parent / ".ldp-fast-packages").exists()  # made by `make venv`
        packages = [str(path) for path in run.found["packages"]]
        run.python = python if ours else str(environment.overlay(python, packages, ROOT / ".venv-gpu"))
        missing = [str(name) for name in run.found["missing"]]
        if missing or run.wheels.is_dir():
            missing = environment.install(Path(run.python), missing, run.wheels, seconds)
    except (environment.Unusable, OSError, subprocess.SubprocessError) as error:
        return run.do(sys.executable, "-c", f"import sys; sys.exit({str(error)!r})", seconds=seconds)
    run.book.machine = str(run.found["name"])
    said = f"{run.python}: torch {run.found['torch']}, {run.found['name']}; missing: {', '.join(missing) or 'nothing'}"
    return run.do(sys.executable, "-c", f"print({said!r})", seconds=seconds)


def build(run: Run, seconds: float) -> Ended:
    """The extension, for this GPU alone. Without it the Triton kernels are still tested and timed."""
    if run.rehearse:
        return run.module("pip", "--version", seconds=seconds)
    pip = ("install", "--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index")
    variables = {"LDP_FAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": str(run.found["capability"])}
    variables["MAX_JOBS"] = os.environ.get("MAX_JOBS", str(cores()))
    return run.module("pip", *pip, "-e", str(ROOT), seconds=seconds, **variables)


def report(run: Run, seconds: float) -> Ended:
    """The machine, and one call of every operator."""
    return run.module("benchmarks.gpu.device_report", str(run.out / "device.jsonl"), seconds=seconds)


def tests(run: Run, stage: str, marks: str, seconds: float, wrapper: tuple[str, ...] = (), **variables: str) -> Ended:
    """Tests marked `gpu`; those that have passed are left out, and each that ends is a line of the outcomes."""
    known = run.out / ".leave-out"
    known.write_text("\n".join(sorted(run.book.known(stage, run.since, again=run.again))))
    options = ["-q", "-m", marks, "-p", "no:cacheprovider", "-p", "benchmarks.gpu.passed", "--timeout=120"]
    options += [f"--outcomes={run.book.outcomes}", f"--stage={stage}", f"--leave-out={known}"]
    options += [f"--sources={run.book.sources}", f"--machine={run.book.machine}"]
    # What lacks a package takes nothing else with it.
    options += ["--continue-on-collection-errors"]
    # A stand-in says that a test runs, of which one case with each value tells enough.
    options += ["--cover=values"] if run.rehearse else []
    if stage in JUNIT:
        # At real sizes one test has the GPU's memory to itself.
        workers = 1 if stage == "real size" and not run.rehearse else max(1, min(8, cores()))
        options += [f"--junitxml={run.out / (stage.replace(' ', '_') + '.xml')}", "-o", "junit_family=xunit2"]
        options += ["-n", str(workers), "--dist", "worksteal"] if workers > 1 else []
    try:
        files = files_of(marks.split()[-1]) if " not " not in marks else files_of("gpu")
        return run.do(*wrapper, run.python, "-m", "pytest", *files, *options, seconds=seconds, **variables)
    finally:
        known.unlink(missing_ok=True)


def benchmarks(run: Run, chosen: str, further: tuple[str, ...], seconds: float) -> Ended:
    """Benchmarks, until shortly before the limit; what is left out is a row that says so."""
    options = ["--out", str(run.out), "--command", "make gpu", "--left-out-status", str(LEFT_OUT_STATUS)]
    options += ["--seconds", f"{max(1.0, seconds - MARGIN):.0f}", "--resume", *further]
    options += ["--sources", run.book.sources, *(["--commit", run.commit] if run.commit else [])]
    return run.module("benchmarks.run", *options, "-k", chosen, seconds=seconds)


def sanitize(run: Run, tool: str, seconds: float) -> Ended:
    """One of compute-sanitizer's tools over one small case of every native kernel."""
    found = shutil.which("compute-sanitizer", path=run.path)
    if found is None and not run.rehearse:
        said = f"import sys; print('compute-sanitizer is not installed'); sys.exit({ABSENT_STATUS})"
        return run.do(sys.executable, "-c", said, seconds=seconds)
    wrapper = (str(found), f"--tool={tool}", "--error-exitcode=1", "--target-processes=all")
    # Without the cache of torch's allocator every tensor has borders of its own.
    return tests(
        run, tool, "gpu and sanitize", seconds, () if run.rehearse else wrapper, PYTORCH_NO_CUDA_MEMORY_CACHING="1"
    )


def page(run: Run, seconds: float) -> Ended:
    """The page of docs/performance.md from what was measured here, in one file."""
    return run.module("benchmarks.gpu.page", str(run.out), seconds=seconds)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
