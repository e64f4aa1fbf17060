"""What a process may use: quotas of cgroups v1 and v2, nested, fractional, in containers and where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldp_fast._threads import cpus

V2 = "34 24 0:29 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V1 += "35 32 0:31 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n"
CPU = "sys/fs/cgroup/cpu,cpuacct"


def tree(root: Path, cgroup: str, mountinfo: str, **files: str) -> Path:
    """A file system with these files under /proc/self, and the rest by path."""
    for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(folder: str, quota: int, period: int = 100000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


def test_v2(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/a\n", V2, **{"sys/fs/cgroup/a/cpu.max": "200000 100000\n"})
    assert cpus.quota(root) == cpus.Quota(2.0, "/sys/fs/cgroup/a/cpu.max")


def test_v2_without_a_limit(tmp_path: Path) -> None:
    assert cpus.quota(tree(tmp_path, "0::/a\n", V2, **{"sys/fs/cgroup/a/cpu.max": "max 100000\n"})) is None


@pytest.mark.parametrize(("outer", "inner", "expected"), [(150, 400, 1.5), (400, 150, 1.5), (50, 400, 0.5)])
def test_the_tightest_of_nested_v2_cgroups_holds(tmp_path: Path, outer: int, inner: int, expected: float) -> None:
    files = {f"sys/fs/cgroup/{n}/cpu.max": f"{q}000 100000\n" for n, q in (("a", outer), ("a/b/c", inner))}
    found = cpus.quota(tree(tmp_path, "0::/a/b/c\n", V2, **files))
    assert found is not None and found.cpus == expected


def test_v1(tmp_path: Path) -> None:
    lines = "5:memory:/other\n4:cpu,cpuacct:/a/b\n"
    root = tree(tmp_path, lines, V1, **v1(f"{CPU}/a/b", -1), **v1(f"{CPU}/a", 25000, 50000))
    assert cpus.quota(root) == cpus.Quota(0.5, f"/{CPU}/a/cpu.cfs_quota_us")


def test_v1_without_a_limit(tmp_path: Path) -> None:
    assert cpus.quota(tree(tmp_path, "4:cpu,cpuacct:/\n", V1, **v1(CPU, -1))) is None


def test_v1_beside_v2(tmp_path: Path) -> None:
    mounts = V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    root = tree(tmp_path, "4:cpu,cpuacct:/a\n0::/\n", mounts, **v1(f"{CPU}/a", 300000))
    found = cpus.quota(root)
    assert found is not None and found.cpus == 3.0


@pytest.mark.parametrize("path", ["/docker/x", "/../..", "/somewhere/else"])
def test_a_container_that_sees_the_hosts_path(tmp_path: Path, path: str) -> None:
    """The mount shows a part of the hierarchy; the container's own limit stands at its top."""
    mounts = V1.replace(" / /sys/fs/cgroup/cpu,", " /docker/x /sys/fs/cgroup/cpu,")
    found = cpus.quota(tree(tmp_path, f"4:cpu,cpuacct:{path}\n", mounts, **v1(CPU, 150000)))
    assert found is not None and found.cpus == 1.5


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mounts = V2.replace("/sys/fs/cgroup", "/sys/fs/c\\040group")
    found = cpus.quota(tree(tmp_path, "0::/\n", mounts, **{"sys/fs/c group/cpu.max": "100000 100000"}))
    assert found is not None and found.cpus == 1.0


@pytest.mark.parametrize("text", ["", "max", "-1 100000", "100000 0", "0 100000", "some thing"])
def test_what_is_no_limit_limits_nothing(tmp_path: Path, text: str) -> None:
    assert cpus.quota(tree(tmp_path, "0::/\n", V2, **{"sys/fs/cgroup/cpu.max": text})) is None


@pytest.mark.parametrize("lines", ["", "nonsense\n", "::\n", "0::/a/../../b\n"])
def test_strange_files_limit_nothing(tmp_path: Path, lines: str) -> None:
    assert cpus.quota(tree(tmp_path, lines, f"nonsense\n{V2}")) is None


def test_without_proc_and_sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where affinity cannot be asked for either."""
    monkeypatch.delattr(cpus.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpus.os, "cpu_count", lambda: 8)
    assert cpus.Cpus.read(tmp_path) == cpus.Cpus(8, 8, None)


def test_cores_that_show_themselves_as_two_cpus(tmp_path: Path) -> None:
    for cpu in range(8):
        file = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert cpus.physical_cores(set(range(8)), tmp_path) == 4
    assert cpus.physical_cores({0, 1, 4}, tmp_path) == 2


def test_affinity_is_this_process_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert cpus.Cpus.read(tmp_path) == cpus.Cpus(3, 3, None)
