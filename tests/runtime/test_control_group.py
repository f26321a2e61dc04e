"""The limits of control groups, in made folders as version 1 and version 2 mount them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from xmixup_fast.runtime.control_group import cpu_quota, memory_left

INFINITY = float("inf")
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "32 31 0:29 {shown} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:32 {shown} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "34 31 0:33 {shown} /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
    "35 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
NO_LIMIT = "9223372036854771712"
"""What version 1 writes for no limit of memory."""


def write(root: Path, groups: str, mounts: str, files: Mapping[str, str]) -> Path:
    """Makes /proc/self of a process in these groups, and files under /sys/fs/cgroup."""
    contents = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    contents |= {f"sys/fs/cgroup/{name}": text + "\n" for name, text in files.items()}
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2_memory(folder: str, limit: str, usage: int, unused: int) -> dict[str, str]:
    statistics = f"anon 1\ninactive_file {unused}\nactive_file 7"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": str(usage), f"{folder}/memory.stat": statistics}


def v1_memory(folder: str, limit: str, usage: int, unused: int) -> dict[str, str]:
    return {
        f"memory/{folder}/memory.limit_in_bytes": limit,
        f"memory/{folder}/memory.usage_in_bytes": str(usage),
        f"memory/{folder}/memory.stat": f"inactive_file 3\ntotal_inactive_file {unused}",
    }


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"a.slice": "400000 100000", "a.slice/job": "max 100000", "a.slice/job/step": "max 100000"}, 4),
        ({"a.slice": "400000 100000", "a.slice/job": "250000 100000", "a.slice/job/step": "900000 100000"}, 2.5),
        ({"a.slice": "max 100000", "a.slice/job/step": "10000 50000"}, 0.2),
        ({"a.slice": "max 100000", "b.slice": "100000 100000", "a.slice/job/step/below": "100000 100000"}, INFINITY),
        ({}, INFINITY),
    ],
    ids=["ancestor", "least", "below one CPU", "other groups", "no files"],
)
def test_version_2_takes_the_least_quota_up_to_the_root(
    tmp_path: Path, quotas: Mapping[str, str], expected: float
) -> None:
    files = {f"{group}/cpu.max": text for group, text in quotas.items()}
    assert cpu_quota(write(tmp_path, "0::/a.slice/job/step\n", V2, files)) == expected


def test_version_2_takes_the_least_memory_that_is_left(tmp_path: Path) -> None:
    files = v2_memory("a", "5000", usage=4600, unused=100) | v2_memory("a/b", "2000", usage=700, unused=200)
    assert memory_left(write(tmp_path, "0::/a/b\n", V2, files)) == 500
    files = v2_memory("a", "max", usage=4600, unused=100)
    assert memory_left(write(tmp_path, "0::/a/b\n", V2, files)) == 1500
    files = v2_memory("a/b", "2000", usage=2900, unused=200)
    assert memory_left(write(tmp_path, "0::/a/b\n", V2, files)) == 0


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    files = {"cpu.max": "200000 100000"} | v2_memory(".", "3000", usage=1000, unused=0)
    root = write(tmp_path, "0::/\n", V2, files)
    assert (cpu_quota(root), memory_left(root)) == (2, 2000)
    write(tmp_path, "0::/../../moved\n", V2, {})  # the process has left the group that is mounted
    assert (cpu_quota(root), memory_left(root)) == (2, 2000)


@pytest.mark.parametrize("shown", ["/", "/docker/1f2e"], ids=["host", "container"])
def test_version_1(tmp_path: Path, shown: str) -> None:
    groups = "".join(f"{i}:{name}:/docker/1f2e/job\n" for i, name in enumerate(("cpuset", "cpu,cpuacct", "memory"), 2))
    outer = "" if shown == "/docker/1f2e" else "docker/1f2e/"
    cpu = f"cpu,cpuacct/{outer}"
    files = {
        f"{cpu}/cpu.cfs_quota_us": "150000",
        f"{cpu}/cpu.cfs_period_us": "100000",
        f"{cpu}/job/cpu.cfs_quota_us": "-1",
        f"{cpu}/job/cpu.cfs_period_us": "100000",
        f"cpuset/{outer}/job/cpu.cfs_quota_us": "1000",  # of another controller
        f"cpuset/{outer}/job/cpu.cfs_period_us": "100000",
        **v1_memory(outer, "5000", usage=4600, unused=100),
        **v1_memory(f"{outer}/job", NO_LIMIT, usage=700, unused=200),
    }
    root = write(tmp_path, groups + "0::/\n", V1.format(shown=shown), files)
    assert (cpu_quota(root), memory_left(root)) == (1.5, 500)


def test_both_versions_at_once(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "300000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "unified/job/cpu.max": "200000 100000",
    }
    assert cpu_quota(write(tmp_path, "4:cpu,cpuacct:/\n0::/job\n", V1.format(shown="/"), files)) == 2


def test_no_control_group_is_no_limit(tmp_path: Path) -> None:
    assert (cpu_quota(tmp_path), memory_left(tmp_path)) == (INFINITY, INFINITY)
    root = write(tmp_path, "0::/job\n", "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n", {})
    assert (cpu_quota(root), memory_left(root)) == (INFINITY, INFINITY)
