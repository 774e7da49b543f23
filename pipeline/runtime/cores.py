"""How many cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_cores"]

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota_file: Path = CPU_MAX) -> int:
    """Cores by affinity, and by the container's CPU quota (cgroup v2 ``cpu.max``) where there is one.

    A thread pool wider than the quota is throttled by the kernel for most of each period.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(quota_file) or cores))


def _quota(file: Path) -> int | None:
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None  # No cgroup v2, or "max": no quota.
