"""Kafka's jars: the pinned list, and a cache folder that holds exactly those, each verified by SHA-256.

Every start hashes every jar (0.1 s), so a damaged or half-written cache is mended by fetching what is wrong again. A
jar gets its name in the cache only once it is complete and verified.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from msgspec import Struct
from platformdirs import user_cache_path

from agents.broker.fetching import JarFetcher
from agents.broker.locking import locked
from pipeline.errors import BrokerError

__all__ = ["KAFKA_VERSION", "Jar", "Progress", "cache_path", "ensure_jars", "pinned_jars"]

KAFKA_VERSION = "4.2.1"
PARALLEL_FETCHES = 6
TRIES = 3
RETRY_AFTER_S = 0.5
LOCK_TIMEOUT_S = 600.0
SPARE_BYTES = 16 * 1024 * 1024
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes that are needed, each time a jar has arrived."""


class Jar(Struct, frozen=True, kw_only=True):
    """One pinned jar: ``coordinate`` is ``group:artifact:version``, ``sha256`` hexadecimal, ``size`` bytes."""

    coordinate: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        """Its name in the cache. Artifact ids of the list are unique."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"

    def is_in(self, file: Path) -> bool:
        """Whether ``file`` is this jar, byte for byte."""
        try:
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256
        except OSError:
            return False


def pinned_jars() -> tuple[Jar, ...]:
    """The checked-in list; ``python -m agents.broker.pin`` remakes it."""
    lines = files("agents.broker").joinpath("jars.txt").read_text(encoding="utf-8").splitlines()
    fields = (line.split() for line in lines if line and not line.startswith("#"))
    return tuple(Jar(sha256=sha256, size=int(size), coordinate=coordinate) for sha256, size, coordinate in fields)


def cache_path() -> Path:
    """The folder of the jars: in the user's cache, by Kafka's version."""
    return user_cache_path("millrace") / "kafka" / KAFKA_VERSION


def ensure_jars(
    folder: Path, fetcher: JarFetcher, progress: Progress | None = None, *, jars: Sequence[Jar] = ()
) -> list[Path]:
    """Make ``folder`` hold the pinned jars, fetching those that are missing or damaged.

    Safe when several processes do it at once: the others wait for the first. A complete folder is never written to.

    Returns:
        The jars' files, in the order of the list.

    Raises:
        BrokerError: a jar cannot be fetched or kept, or what came is not what was pinned.
    """
    jars = jars or pinned_jars()
    if _missing(folder, jars):
        with _told(folder, jars):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock", LOCK_TIMEOUT_S):
                _fetch(folder, _missing(folder, jars), fetcher, progress, total=sum(jar.size for jar in jars))
    return [folder / jar.filename for jar in jars]


def _missing(folder: Path, jars: Sequence[Jar]) -> list[Jar]:
    return [jar for jar in jars if not jar.is_in(folder / jar.filename)]


@contextmanager
def _told(folder: Path, jars: Sequence[Jar]) -> Iterator[None]:
    """Turn the errors of fetching into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise _disk_error(folder, sum(jar.size for jar in jars), error.strerror or str(error)) from error
        raise _network_error(folder, error) from error


def _disk_error(folder: Path, size: int, why: str) -> BrokerError:
    return BrokerError(
        f"Cannot keep Kafka's jars ({size / 1e6:.0f} MB) in {folder}: {why}. Make room there or make it writable, or "
        "set XDG_CACHE_HOME to a folder that is; or set KAFKA_BOOTSTRAP_SERVERS to a Kafka that is running."
    )


def _network_error(folder: Path, why: Exception) -> BrokerError:
    return BrokerError(
        f"Cannot fetch Kafka {KAFKA_VERSION} for the embedded broker, which is needed once: {why}. Connect this "
        "machine to the network and try again (what has arrived is kept); or set KAFKA_BOOTSTRAP_SERVERS to a Kafka "
        f"that is running; or copy {folder} from a machine that has it."
    )


def _fetch(folder: Path, missing: Sequence[Jar], fetcher: JarFetcher, progress: Progress | None, *, total: int) -> None:
    needed = sum(jar.size for jar in missing)
    if shutil.disk_usage(folder).free < needed + SPARE_BYTES:
        raise OSError(errno.ENOSPC, "no space left on device")
    report = progress or (lambda _done, _total: None)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as scratch:
        for done in _fetch_all(folder, missing, fetcher, Path(scratch)):
            needed -= done
            report(total - needed, total)


def _fetch_all(folder: Path, missing: Sequence[Jar], fetcher: JarFetcher, scratch: Path) -> Iterator[int]:
    """The size of each jar as it arrives, from several threads at once. The first failure stops the others."""
    with ThreadPoolExecutor(PARALLEL_FETCHES, thread_name_prefix="kafka-jars") as pool:
        futures: list[Future[int]] = [pool.submit(_fetch_one, jar, folder, fetcher, scratch) for jar in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch_one(jar: Jar, folder: Path, fetcher: JarFetcher, scratch: Path) -> int:
    for attempt in range(1, TRIES + 1):
        try:
            file = fetcher.fetch(jar.coordinate, scratch / f"{jar.filename}.{attempt}")
            break
        except OSError as error:
            if attempt == TRIES or error.errno in DISK_ERRORS:
                raise
            time.sleep(RETRY_AFTER_S * attempt)
    if not jar.is_in(file):
        raise BrokerError(
            f"{jar.coordinate} arrived with another SHA-256 than the pinned one ({jar.sha256}). It was not kept. Look "
            "for a proxy or mirror that changes files; or set KAFKA_BOOTSTRAP_SERVERS to a Kafka that is running."
        )
    file.replace(folder / jar.filename)
    return jar.size
