"""Images as bytes: which format they claim to be. Decoding them is the pipeline's job."""

from __future__ import annotations

__all__ = ["IMAGE_TYPES", "name_format", "sniff_image"]

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")

# Formats people send by mistake; knowing them makes the message say what to convert.
_FOREIGN = (
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
)


def sniff_image(data: bytes) -> str | None:
    """The media type of a JPEG, PNG or WebP by its first bytes, or ``None`` for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def name_format(data: bytes) -> str:
    """What ``data`` looks like, for an error message: a known format, or its first bytes."""
    for magic, name in _FOREIGN:
        if data.startswith(magic):
            return name
    if not data:
        return "nothing"
    if data[4:8] == b"ftyp":
        return "an HEIC, AVIF or MP4 file"
    return f"{len(data):,} bytes that begin with {data[:12]!r}"
