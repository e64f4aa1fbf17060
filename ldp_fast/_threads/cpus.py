"""What a process may use of a machine's CPUs: its affinity, its physical cores, and its cgroups' quota.

Every function takes the root of the file system, so that a test can hand over a made-up one. What is not there, as on
macOS, limits nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
# Kernel's least quota and period are 1 ms, so that a smaller number is not one of CPUs.
_LEAST = 1e-3


@dataclass(frozen=True)
class Quota:
    """A cgroup's limit on CPU time.

    Attributes:
        cpus: CPU time over time; 0.5 is half a CPU.
        file: where it stands.
    """

    cpus: float
    file: str


@dataclass(frozen=True)
class Cpus:
    """What a process may use.

    Attributes:
        affinity: logical CPUs that it may run on.
        cores: physical cores among them, which is what torch takes as its number of threads.
        quota: the tightest limit of its cgroup and of those around it; None where there is none.
    """

    affinity: int
    cores: int
    quota: Quota | None

    @classmethod
    def read(cls, root: Path = ROOT) -> Cpus:
        """Reads them for this process."""
        allowed = affinity()
        return cls(len(allowed), physical_cores(allowed, root), quota(root))


def affinity() -> set[int]:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def physical_cores(allowed: set[int], root: Path = ROOT) -> int:
    """Physical cores among logical CPUs; all of them, where the system does not say which share one."""
    cores = set()
    for cpu in allowed:
        text = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(text if text else f"cpu {cpu}")
    return max(1, len(cores))


def quota(root: Path = ROOT) -> Quota | None:
    """The tightest limit on this process's CPU time, of cgroups v1 and v2; None where there is none.

    A cgroup's limit holds for everything below it, so every level up to the mount point is read.
    """
    found = [limit for folder, version in _folders(root) if (limit := _limit(folder, version, root)) is not None]
    return min(found, key=lambda limit: limit.cpus, default=None)


def _folders(root: Path) -> Iterator[tuple[Path, int]]:
    """Folders of this process's cgroups, the innermost first, and the version of each."""
    paths = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            paths[2] = path
        elif "cpu" in controllers.split(","):
            paths[1] = path
    for mounted, top, version in _mounts(root):
        if version not in paths:
            continue
        # Within a container the path may be the host's, of which the mount shows a part; else it is the mount's own.
        inside = PurePosixPath(paths[version])
        parts = inside.relative_to(mounted).parts if inside.is_relative_to(mounted) else ()
        parts = () if ".." in parts else parts
        for count in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:count]), version


def _mounts(root: Path) -> Iterator[tuple[str, Path, int]]:
    """Mounted hierarchies that can limit CPU time: which part of them, where, and their version."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        part, point = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), f) for f in fields[3:5])
        options = kind[-1].split(",")
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "cpu" in options):
            yield part, root / point.lstrip("/"), 2 if kind[0] == "cgroup2" else 1


def _limit(folder: Path, version: int, root: Path) -> Quota | None:
    if version == 2:
        file = folder / "cpu.max"
        words = _read(file).split()
    else:
        file = folder / "cpu.cfs_quota_us"
        words = [*_read(file).split(), *_read(folder / "cpu.cfs_period_us").split()]
    try:
        allowed, period = float(words[0]), float(words[1])
    except (IndexError, ValueError):  # "max", or not there
        return None
    if allowed <= 0 or period <= 0 or allowed / period < _LEAST:
        return None
    return Quota(allowed / period, f"/{file.relative_to(root)}")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
