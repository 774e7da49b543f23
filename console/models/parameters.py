"""Values of options that are more than a word: sizes, rows of numbers, and where samples are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.errors import TransportError

__all__ = ["NUMBERS", "SAMPLES", "SIZE", "one_version", "version_argument"]

Command = TypeVar("Command", bound=Callable[..., Any])


class _Value(click.ParamType):
    """A type whose name stands in the help as it is written."""

    def get_metavar(self, *_args: Any, **_options: Any) -> str:
        return self.name


class _Size(_Value):
    name = "SIDE|HEIGHTxWIDTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
        if found is None:
            self.fail(f"{value!r} is not a size such as 224 or 224x256.", param, ctx)
        return int(found[1]), int(found[2] or found[1])


class _Numbers(_Value):
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


class _Samples(_Value):
    name = "FOLDER|FILE|kafka:TOPIC[/PARTITION][:FROM-TO]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from agents.stretch import PREFIX, parse_stretch

        try:
            there = bool(parse_stretch(value)) if value.startswith(PREFIX) else Path(value).expanduser().exists()
        except TransportError as error:
            self.fail(str(error), param, ctx)
        if not there:
            self.fail(f"there is no {value}.", param, ctx)
        return value


SAMPLES = _Samples()
SIZE = _Size()
NUMBERS = _Numbers()


def version_argument(command: Command) -> Command:
    """The argument ``spec`` of a command about one version, which :func:`one_version` reads."""
    return click.argument("spec", nargs=-1, required=True, metavar="NAME@VERSION")(command)


def one_version(spec: Sequence[str]) -> tuple[str, str]:
    """The name and the version, from ``NAME@VERSION`` or ``NAME VERSION``. Raises click.UsageError."""
    match [part for argument in spec for part in argument.split("@")]:
        case [name, version]:
            return name, version
    raise click.UsageError("give one version, as NAME@VERSION or NAME VERSION. `millrace models list` shows them.")
