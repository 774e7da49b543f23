"""The gate of the command line: bounds written as ``top1_agreement>=0.97``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.factory.gates.gate import Gate

__all__ = ["BOUND", "gate_of"]

PATTERN = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(>=|<=)\s*(\S+)\s*")


class _Bound(click.ParamType):
    name = "FIGURE>=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found = PATTERN.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not a bound such as top1_agreement>=0.97 or mean_kl<=0.05 (quote it).", param, ctx)
        try:
            number = float(found[3])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{found[3]!r} in {value!r} is not a number.", param, ctx)
        return found[1], found[2], number


BOUND = _Bound()


def gate_of(bounds: Sequence[tuple[str, str, float]]) -> Gate | None:
    """The gate that bounds make; ``None`` without any, which leaves the task's own."""
    from pipeline.factory.gates.gate import Gate

    if not bounds:
        return None
    least, most = ({name: number for name, sign, number in bounds if sign == wanted} for wanted in (">=", "<="))
    return Gate(at_least=least, at_most=most)
