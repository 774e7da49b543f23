"""How much more memory this process may take before the kernel ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_bytes"]


def available_bytes(root: Path = Path("/")) -> int | None:
    """The machine's ``MemAvailable``, or less where a control group (v2 or v1) leaves less; ``None`` if nobody says.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    bounds = [_of_machine(root), *_of_groups(root)]
    return min((bound for bound in bounds if bound is not None), default=None)


def _of_machine(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_groups(root: Path) -> Iterator[int | None]:
    """What each group from this process's own up to the root leaves. The root is all that a container sees."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        own = Path(place.strip("/"))
        for folder in (own, *own.parents):
            yield _left(top / folder, *names)


def _left(folder: Path, limit_file: str, usage_file: str, cache_key: str) -> int | None:
    limit, usage = _number(folder / limit_file), _number(folder / usage_file)
    if limit is None or usage is None:
        return None
    cached = [line.split()[1] for line in _read(folder / "memory.stat").splitlines() if line.startswith(cache_key)]
    return max(0, limit - usage + sum(map(int, cached[:1])))


def _number(file: Path) -> int | None:
    text = _read(file).strip()
    return int(text) if text.isdigit() else None  # "max": no limit


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
