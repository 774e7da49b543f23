"""Remake ``jars.txt``: ``python -m agents.broker.pin`` resolves Kafka's dependencies, fetches and hashes each jar.

Kafka brings log4j-core but no SLF4J binding, without which the server would log nothing; the one of the same log4j
version is added.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from agents.broker.fetching import JgoFetcher
from agents.broker.jars import KAFKA_VERSION

__all__ = ["main"]

HEADER = """\
# The jars of Kafka {version}: SHA-256, bytes, Maven coordinate. Made by `python -m agents.broker.pin`; do not edit.
"""


def main() -> None:
    """Write the list beside this file."""
    with tempfile.TemporaryDirectory() as scratch:
        lines = [_line(coordinate, Path(scratch)) for coordinate in _coordinates()]
    target = Path(__file__).with_name("jars.txt")
    target.write_text(HEADER.format(version=KAFKA_VERSION) + "".join(lines), encoding="utf-8")
    sys.stderr.write(f"{len(lines)} jars written to {target}\n")


def _coordinates() -> list[str]:
    import jgo

    artifacts = jgo.resolve(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}")
    coordinates = {f"{a.groupId}:{a.artifactId}:{a.version}" for a in artifacts}
    log4j = next(a.version for a in artifacts if a.artifactId == "log4j-core")
    return sorted(coordinates | {f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j}"})


def _line(coordinate: str, scratch: Path) -> str:
    content = JgoFetcher().fetch(coordinate, scratch).read_bytes()
    return f"{hashlib.sha256(content).hexdigest()} {len(content)} {coordinate}\n"


if __name__ == "__main__":
    main()
