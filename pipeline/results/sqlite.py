"""A result store in one SQLite file, shared by the workers of one machine.

A put is one transaction of many outcomes in the write-ahead log. The log is not flushed to the disk for each
(``synchronous=NORMAL``): what was written to it outlives the process, because it is in the operating system's page
cache, and that is all a repeat needs. A power cut may take the last outcomes, which are then computed again; the file
stays whole, because SQLite does flush at checkpoints (https://www.sqlite.org/pragma.html#pragma_synchronous).

Rows are numbered in the order of their arrival and only ever deleted from the old end, a few at each put, so the file
stops growing at its bound and is never rewritten. The folder must be on a disk of this machine: the write-ahead log
needs memory that all its users share (https://www.sqlite.org/wal.html).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ResultStoreError, SettingsError

__all__ = ["SqliteStore"]

APPLICATION_ID = 0x4D696C6C
SCHEMA_VERSION = 1
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS outcome (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, stored_at REAL NOT NULL, value BLOB NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
PRUNE_ROWS = 256
PRUNE_ROUNDS = 8
LOG_BYTES = 4 * 1024 * 1024
ADVICE = {
    "SQLITE_FULL": "free some space on its disk",
    "SQLITE_BUSY": "another process holds it for long; end that process",
    "SQLITE_CORRUPT": "move the file away with its -wal and -shm, and a new one is made",
    "SQLITE_NOTADB": "it is damaged, or no SQLite file at all; move it away, and a new one is made",
}


class SqliteStore:
    """Keeps values in the table ``outcome`` of a file, which is made when it is first opened.

    Args:
        path: the file; its folder must be there.
        keep_s: how long a value is kept, at least.
        max_bytes: of the file; beyond it the oldest values go. Its write-ahead log has some 4 MiB more.
        busy_s: how long to wait for other processes.
    """

    def __init__(self, path: Path, *, keep_s: float, max_bytes: int, busy_s: float) -> None:
        self.name = f"sqlite:{path}"
        self._path = path
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._busy_s = busy_s
        self._connection: sqlite3.Connection | None = None
        self._unpruned = PRUNE_ROWS

    def open(self) -> None:
        """Make the file if need be. Raises SettingsError when it is another program's or a later version's."""
        if not self._path.parent.is_dir():
            raise SettingsError(
                f"settings: results.store: there is no folder {self._path.parent}. Make it, or name another one."
            )
        with self._connected():
            pass

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The values of those of ``keys`` that are kept."""
        with self._connected() as connection:
            rows = [
                (key, connection.execute("SELECT value FROM outcome WHERE key = ?", (key,)).fetchone()) for key in keys
            ]
        return {key: row[0] for key, row in rows if row is not None}

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep ``values`` in one transaction, and let the oldest go where there are too many."""
        now = time.time()
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR IGNORE INTO outcome (key, stored_at, value) VALUES (?, ?, ?)",
                [(key, now, value) for key, value in values.items()],
            )
            self._unpruned += len(values)
            if self._unpruned >= PRUNE_ROWS:
                self._unpruned = 0
                _delete_older(connection, now - self._keep_s)
                _shrink(connection, self._max_bytes)
            connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection. After an error it is closed, which rolls back, and the next call opens the file anew."""
        try:
            self._connection = self._connection or self._connect()
            yield self._connection
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            if name in {"SQLITE_FULL", "SQLITE_BUSY"} and self._connection is not None:
                self._connection.rollback()  # on a full disk the file could not be opened again, and it still reads
            else:
                self.close()
            advice = next((text for code, text in ADVICE.items() if name.startswith(code)), "look at its disk")
            raise ResultStoreError(f"{error} ({name}); {advice}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        try:
            ours = self._is_ours(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
            if not ours:
                connection.executescript(SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Whether the tables are there; False for a new file. Raises SettingsError for any other."""
        connection.execute("BEGIN")  # one view: another worker may make the tables meanwhile
        application, version = (_number(connection, f"PRAGMA {name}") for name in ("application_id", "user_version"))
        tables = _number(connection, "SELECT count(*) FROM sqlite_master")
        connection.execute("COMMIT")
        if application == APPLICATION_ID and version == SCHEMA_VERSION:
            return True
        if application == APPLICATION_ID:
            raise SettingsError(
                f"settings: results.store: {self._path} has version {version} of our tables, and this Millrace knows "
                f"{SCHEMA_VERSION}. Name a new file; the old one may be deleted."
            )
        if application or tables:
            raise SettingsError(
                f"settings: results.store: {self._path} is another program's database. Name a file of its own."
            )
        return False


def _number(connection: sqlite3.Connection, query: str) -> int:
    value = connection.execute(query).fetchone()[0]
    return int(value or 0)


def _delete_older(connection: sqlite3.Connection, moment: float) -> None:
    """Delete rows of before ``moment``, up to four times as many as arrive between two calls."""
    last = 0
    for number, stored_at in connection.execute(
        f"SELECT number, stored_at FROM outcome ORDER BY number LIMIT {4 * PRUNE_ROWS}"  # noqa: S608 - a constant
    ):
        if stored_at >= moment:
            break
        last = number
    connection.execute("DELETE FROM outcome WHERE number <= ?", (last,))


def _shrink(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Delete the oldest eighth, again and again, until the rest has room; bounded, so that no put takes long."""
    page_bytes = _number(connection, "PRAGMA page_size")
    for _ in range(PRUNE_ROUNDS):
        used = _number(connection, "PRAGMA page_count") - _number(connection, "PRAGMA freelist_count")
        if used * page_bytes <= max_bytes:
            return
        first = _number(connection, "SELECT min(number) FROM outcome")
        last = _number(connection, "SELECT max(number) FROM outcome")
        count = min((last - first) // 8 + 1, 4 * PRUNE_ROWS)
        connection.execute("DELETE FROM outcome WHERE number < ?", (first + count,))
