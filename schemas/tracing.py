"""W3C trace context: which ``traceparent`` values are carried on."""

from __future__ import annotations

import re

__all__ = ["valid_traceparent"]

# W3C Trace Context, 3.2: version, trace id, parent id, flags; later versions may add more.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[ -~]*)?")
_MAX_CHARS = 256


def valid_traceparent(text: object) -> str | None:
    """``text`` if it is a valid ``traceparent``, else ``None``: a broken trace must not fail the work."""
    if not isinstance(text, str) or len(text) > _MAX_CHARS or not _TRACEPARENT.fullmatch(text):
        return None
    return text
