"""Pictures in the terminal: two pixels a character cell, by upper half blocks (U+2580) in true colours.

rich turns the colours into the nearest ones of a terminal that has fewer.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

__all__ = ["Picture"]

HALF_BLOCK = "▀"
SMALL_PIXELS = 16


class Picture:
    """An image, scaled into ``columns`` x ``rows`` character cells with its proportions kept, centred.

    Args:
        data: an encoded image. Raises ``OSError`` (Pillow's) for anything else.
        columns: cells across.
        rows: cells down; a cell is two pixels high, so pixels are about square.
    """

    def __init__(self, data: bytes, *, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (columns * 4, rows * 8))
            self._image = _fit(image.convert("RGB"), columns, rows * 2)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The rows of cells."""
        left = (self.columns - self._image.width) // 2
        for y in range(0, self.rows * 2, 2):
            yield Segment(" " * left)
            yield from self._cells(y)
            yield Segment(" " * (self.columns - left - self._image.width))
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Always as wide as it was asked to be."""
        return Measurement(self.columns, self.columns)

    def _cells(self, y: int) -> Iterator[Segment]:
        for x in range(self._image.width):
            upper, lower = self._pixel(x, y), self._pixel(x, y + 1)
            if upper is None and lower is None:
                yield Segment(" ")
            elif upper is None:
                yield Segment("▄", Style(color=lower))
            else:
                yield Segment(HALF_BLOCK, Style(color=upper, bgcolor=lower))

    def _pixel(self, x: int, y: int) -> Color | None:
        y -= (self.rows * 2 - self._image.height) // 2
        if not 0 <= y < self._image.height:
            return None
        value = self._image.getpixel((x, y))
        if not isinstance(value, tuple):
            raise TypeError("an RGB image has tuples for pixels. This is a bug.")
        return Color.from_rgb(*value[:3])


def _fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The largest size that fits; tiny images (digits) grow by whole pixels and stay crisp."""
    scale = min(width / image.width, height / image.height)
    if max(image.size) <= SMALL_PIXELS and scale > 1:
        return image.resize((image.width * int(scale), image.height * int(scale)), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
