"""The result store that the settings name."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import SettingsError, install_extra
from pipeline.results.sqlite import SqliteStore
from pipeline.results.store import ResultStore
from pipeline.settings import ResultSettings

__all__ = ["find_store"]

BUSY_SHARE = 0.8
"""Of the patience: a store that gives up first says why."""


def find_store(settings: ResultSettings) -> ResultStore | None:
    """The store of ``settings``, not opened yet; ``None`` for none. Raises SettingsError."""
    scheme, _, rest = settings.store.partition(":")
    if not settings.store:
        return None
    timeout_s = settings.timeout_s * BUSY_SHARE
    if scheme == "sqlite" and rest:
        path = Path(rest).expanduser()
        return SqliteStore(path, keep_s=settings.keep_s, max_bytes=settings.max_bytes, busy_s=timeout_s)
    if scheme in {"redis", "rediss", "unix"}:
        return _redis(settings.store, settings.keep_s, timeout_s)
    raise SettingsError(
        f"settings: results.store: {scheme!r} is no kind of store. There are sqlite:/path/to/file, "
        "redis://host:port/0, rediss:// (TLS) and unix:///path/to/socket; empty for none."
    )


def _redis(url: str, keep_s: float, timeout_s: float) -> ResultStore:
    try:
        from pipeline.results.redis import RedisStore
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"settings: results.store names Redis, but {error.name} is not installed: "
            f"{install_extra('redis')}, or name another store."
        ) from error
    return RedisStore(url, keep_s=keep_s, timeout_s=timeout_s)
