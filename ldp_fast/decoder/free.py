"""How much memory a pass may count with, for `memory="auto"`: what nobody else has, without waiting for a device."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib

import torch

PROC, CONTROL_GROUPS = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")
# Of the two versions of control groups: limit, usage, and what the usage counts although it is a cache that gives way.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
# Bytes of a device that were not torch's when it was asked last: while a graph is captured it is not asked.
_others: dict[torch.device, int] = {}


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device.

    On CUDA what the driver has and what torch keeps unused; on a CPU what the system can give without swapping, within
    the limits of the control groups that the process is in (containers, jobs).
    """
    return _on_cuda(device) if device.type == "cuda" else min([_of_the_system(), *_within_limits()])


def _on_cuda(device: torch.device) -> int:
    total = torch.cuda.get_device_properties(device).total_memory
    if not torch.cuda.is_current_stream_capturing():
        free, total = torch.cuda.mem_get_info(device)
        _others[device] = total - free - torch.cuda.memory_reserved(device)
    return total - _others.get(device, 0) - torch.cuda.memory_allocated(device)


def _of_the_system() -> int:
    try:
        return _entry(PROC / "meminfo", "MemAvailable:") * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 2**33


def _entry(path: pathlib.Path, name: str) -> int:
    """The number after a name at the beginning of a line."""
    with path.open() as file:
        for line in file:
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    raise ValueError(f"{path}: no {name}")


def _within_limits() -> list[int]:
    """What is left in each group of the process that has a limit."""
    left = []
    for folder, (limit, usage, cache) in _groups():
        try:
            used = _number(folder / usage) - _entry(folder / "memory.stat", cache)
            left.append(max(0, _number(folder / limit) - used))
        except (OSError, ValueError):
            continue
    return left


def _number(path: pathlib.Path) -> int:
    return int(path.read_text())


@functools.cache
def _groups() -> list[tuple[pathlib.Path, tuple[str, str, str]]]:
    """The folders of the process's control groups that have a limit when they are first looked at."""
    found = []
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        names = _V2 if number == "0" else _V1
        root = CONTROL_GROUPS / ("memory" if names is _V1 else "")
        # In a container the path may be the host's, and its group is what is mounted.
        own = root / path.strip("/")
        for folder in (own, *own.parents):
            if folder == root or root in folder.parents:
                # "max" in the one version and a number near 2⁶³ in the other are not limits.
                with contextlib.suppress(OSError, ValueError):
                    if _number(folder / names[0]) < 2**60:
                        found.append((folder, names))
    return found
