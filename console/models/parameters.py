"""Values of options that are more than a word: sizes and rows of numbers."""

from __future__ import annotations

import math
import re
from typing import Any

import click

__all__ = ["NUMBERS", "SIZE"]


class _Size(click.ParamType):
    name = "SIDE|HEIGHTxWIDTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
        if found is None:
            self.fail(f"{value!r} is not a size such as 224 or 224x256.", param, ctx)
        return int(found[1]), int(found[2] or found[1])


class _Numbers(click.ParamType):
    name = "NUMBER[,NUMBER...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not one number or several with commas between them.", param, ctx)
        if not all(map(math.isfinite, numbers)):
            self.fail(f"{value!r} holds what is not finite.", param, ctx)
        return numbers


SIZE = _Size()
NUMBERS = _Numbers()
