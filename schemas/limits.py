"""Bounds of a raw record, checked before a byte of it is read."""

from __future__ import annotations

from schemas.errors import ValidationError
from schemas.records import RawRecord

__all__ = ["MAX_KEY_BYTES", "check_size"]

# A key goes into the outcome and onto its record: a huge one could make an outcome that no topic takes.
MAX_KEY_BYTES = 65_536


def check_size(record: RawRecord, max_bytes: int) -> None:
    """Refuse a value over ``max_bytes`` or a key over ``MAX_KEY_BYTES``.

    Raises:
        ValidationError: says the size and the bound.
    """
    size = len(record.value or b"")
    if size > max_bytes:
        raise ValidationError(
            f"the value has {size:,} bytes, the bound is {max_bytes:,}. Send less, or a dataref to a large image."
        )
    key_size = len(record.key or b"")
    if key_size > MAX_KEY_BYTES:
        raise ValidationError(f"the key has {key_size:,} bytes, the bound is {MAX_KEY_BYTES:,}.", where="key")
