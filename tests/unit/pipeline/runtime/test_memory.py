from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runtime.cuda import free_gpu_bytes, gpu_count, gpu_name
from pipeline.runtime.memory import available_bytes

MEMINFO = "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 4000 kB\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, {"proc/meminfo": MEMINFO})) == 4_000 * 1024
    assert (available_bytes() or 0) > 0


def test_a_container_s_limit_counts_less_what_is_in_use_and_cannot_be_dropped(tmp_path: Path) -> None:
    group = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "3000000\n",
        "sys/fs/cgroup/memory.current": "1000000\n",
        "sys/fs/cgroup/memory.stat": "anon 1\nactive_file 7\ninactive_file 500000\n",
    }
    assert available_bytes(write(tmp_path, group)) == 2_500_000
    assert available_bytes(write(tmp_path, group | {"sys/fs/cgroup/memory.max": "max\n"})) == 4_000 * 1024
    assert available_bytes(write(tmp_path, group | {"sys/fs/cgroup/memory.max": "900000\n"})) == 400_000


def test_the_limit_of_any_group_above_counts(tmp_path: Path) -> None:
    group = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/system.slice/worker.service\n",
        "sys/fs/cgroup/system.slice/memory.max": "2000\n",
        "sys/fs/cgroup/system.slice/memory.current": "500\n",
        "sys/fs/cgroup/system.slice/worker.service/memory.max": "max\n",
    }
    assert available_bytes(write(tmp_path, group)) == 1_500


def test_the_first_version_of_control_groups_is_understood(tmp_path: Path) -> None:
    group = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500\n",
        "sys/fs/cgroup/memory/memory.stat": "cache 900\ntotal_inactive_file 100\n",
    }
    assert available_bytes(write(tmp_path, group)) == 600


def test_where_nobody_says_nothing_is_known(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


@pytest.mark.skipif(gpu_count() > 0, reason="there is a GPU here")
def test_without_a_gpu_there_is_no_memory_of_one() -> None:
    assert (free_gpu_bytes(), gpu_name()) == (None, None)


@pytest.mark.skipif(gpu_count() == 0, reason="no NVIDIA GPU here")
def test_a_gpu_says_its_name_and_its_free_memory() -> None:
    assert (free_gpu_bytes() or 0) > 1024**3
    assert gpu_name()
