"""Peak memory of one pass: what it adds, at its highest point, to what its inputs and parameters take.

On CUDA torch counts (`torch.cuda.max_memory_allocated`). On a CPU it is the growth of the resident size of a process
of its own: the kernel's high-water mark is reset just before the pass (/proc/self/clear_refs) and read just after it.
Three things would falsify it, and are dealt with:

* Memory that malloc keeps after a warm-up is resident already, and a pass that uses it again would seem to need
  nothing. In that process malloc gets every block of 64 KiB and more from the system and gives it back when it is
  freed; setting the threshold by hand also keeps malloc from raising it by itself.
* Libraries and kernels that are loaded or compiled at the first call are not of the pass: a warm-up on a tiny size
  comes first.
* Huge pages round every block up to 2 MiB where the system hands them out unasked; they are switched off.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
# Blocks of 64 KiB are many in a network of a billion weights, and above this number malloc would keep them after all.
MALLOC["MALLOC_MMAP_MAX_"] = str(2**20)
_PR_SET_THP_DISABLE = 41

Pass = Callable[[], Any]


@dataclass(frozen=True)
class Growth:
    """A measurement in bytes.

    Attributes:
        peak: the highest point of the pass above what was there before it.
        held: what was there before it above an interpreter with torch: the models, and what a backend keeps of them.
    """

    peak: int
    held: int

    def as_extra(self) -> dict[str, int]:
        """For `benchmark.extra_info`."""
        return {"peak_bytes": self.peak, "held_bytes": self.held}


def keep_freed() -> None:
    """Has GNU's malloc keep what is freed from now on, for times that are not to be those of new memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(parameter, 2**30)


def missing(device: str) -> str | None:
    """Why nothing can be measured here, or None."""
    if device == "cpu" and not (CLEAR_REFS.exists() and os.access(CLEAR_REFS, os.W_OK)):
        return "peak memory on a CPU needs Linux's /proc/self/clear_refs"
    return None


def measure(
    run: Pass | None,
    target: str,
    device: str,
    arguments: dict[str, Any],
    environment: dict[str, str] | None = None,
) -> Growth:
    """Peak memory of a pass.

    Args:
        run: the pass, on CUDA. None makes it anew and counts what it takes to make it as well: a CUDA graph has its
            memory from then on. On a CPU it is made anew in any case, in a process of its own, and not counted.
        target: `module:function`; the function is called with `arguments` and returns two callables, the pass and a
            warm-up on a tiny size.
        device: `cpu` or `cuda`.
        arguments: what JSON can hold.
        environment: further variables of the process (CPU).

    Raises:
        RuntimeError: the process failed; its last lines.
    """
    if device == "cuda":
        return _measure_cuda((lambda: run) if run is not None else (lambda: _prepare(target, arguments)[0]))
    variables = {**os.environ, **MALLOC, **(environment or {})}
    command = [sys.executable, "-m", "benchmarks.memory", target, json.dumps(arguments), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"memory of {target}: {done.stderr.strip()[-2000:]}")
    return Growth(**json.loads(done.stdout.splitlines()[-1]))


def extra(run: Pass | None, target: str, device: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """`measure` as entries of `benchmark.extra_info`: bytes, or why there are none."""
    reason = missing(device)
    return {"memory_missing": reason} if reason else measure(run, target, device, arguments).as_extra()


def _prepare(target: str, arguments: dict[str, Any]) -> tuple[Pass, Pass]:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)(**arguments)


def _measure_cuda(prepare: Callable[[], Pass]) -> Growth:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    prepare()()
    torch.cuda.synchronize()
    return Growth(torch.cuda.max_memory_allocated() - before, before)


def resident(key: str = "VmRSS") -> int:
    """A size of this process in bytes: `VmRSS` now, `VmHWM` at its highest since it was reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def growth_here(prepare: Callable[[], tuple[Pass, Pass]]) -> Growth:
    """Measures in this process, which has to have been started with the settings of `MALLOC`."""
    start = resident()
    run, warm_up = prepare()
    warm_up()
    before = resident()
    CLEAR_REFS.write_text("5")
    run()
    return Growth(max(0, resident("VmHWM") - before), max(0, before - start))


def main() -> None:
    """The process of its own: target, arguments as JSON, threads; prints JSON."""
    target, arguments, threads = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    torch.set_num_threads(int(threads))
    print(json.dumps(asdict(growth_here(lambda: _prepare(target, json.loads(arguments))))))


if __name__ == "__main__":
    main()
