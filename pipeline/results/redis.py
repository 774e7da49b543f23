"""A result store in Redis, for workers on several machines; it needs the extra ``redis``.

Each value expires by itself. How much memory they may take is for Redis to say: set its ``maxmemory``, and
``maxmemory-policy volatile-ttl``, which lets the oldest of ours go first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.errors import ResultStoreError, SettingsError

__all__ = ["RedisStore"]

PREFIX = b"millrace:result:"


class RedisStore:
    """Keeps values under ``millrace:result:<key>``.

    Args:
        url: as redis-py has it: ``redis://``, ``rediss://`` or ``unix://``.
        keep_s: how long a value is kept.
        timeout_s: of connecting and of each answer. It is not tried again within a call; whoever calls knows when.

    Raises:
        SettingsError: ``url`` cannot be read.
    """

    def __init__(self, url: str, *, keep_s: float, timeout_s: float) -> None:
        try:
            self._client = Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise SettingsError(f"settings: results.store: {error}") from error
        place = self._client.connection_pool.connection_kwargs
        where = place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"
        self.name = f"redis at {where}"
        self._keep_ms = max(1, int(keep_s * 1_000))

    def open(self) -> None:
        """Ask whether it is there."""
        with _translated():
            self._client.ping()

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The values of those of ``keys`` that are kept."""
        with _translated():
            values = cast("list[bytes | None]", self._client.mget([PREFIX + key for key in keys]))
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep ``values``, in one round trip."""
        with _translated(), self._client.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(PREFIX + key, value, nx=True, px=self._keep_ms)
            pipeline.execute()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise ResultStoreError(f"{type(error).__name__}: {error}; look at Redis and the way to it") from error
