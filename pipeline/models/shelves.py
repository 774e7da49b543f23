"""The two shelves that models stand on, and how what is damaged there is made good."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PULLABLE", "SHIPPED", "remedy"]

SHIPPED = Path(__file__).parent / "shipped"
PULLABLE = ("smollm2-135m", "efficientnet-lite0", "all-minilm-l6-v2")


def remedy(name: str, version: str, folder: Path) -> str:
    """What to do about a damaged version in ``folder``: by where it stands, and how it came there."""
    if folder.is_relative_to(SHIPPED):
        return "It came with Millrace: install Millrace again."
    if name in PULLABLE:
        return f"Fetch it again: `millrace models pull {name} --force`."
    return f"Build it again: `millrace models build SOURCE --name {name} --version {version} --force`."
