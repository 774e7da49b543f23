"""Where a command writes: results on standard output, talk on standard error; colours only on a terminal."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.text import Text

__all__ = ["Output", "json_option", "printable"]

Command = TypeVar("Command", bound=Any)


def json_option(command: Command) -> Command:
    """The ``--json`` option, the same for every command; it arrives as ``as_json``."""
    option = click.option(
        "--json", "as_json", is_flag=True, help="JSON on standard output, the rest on standard error."
    )
    return option(command)


def printable(text: str) -> str:
    """``text`` without what could steer a terminal: line breaks and tabs become spaces, other controls a dot."""
    return "".join(c if c.isprintable() else " " if c in "\n\r\t\u2028\u2029" else "\u00b7" for c in text)


class Output:
    """The two streams of one command.

    Args:
        as_json: standard output is for programs; what is said to people goes to standard error.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    @cached_property
    def people(self) -> Console:
        """Where people read: standard output, or standard error with ``--json``."""
        return Console(stderr=self.as_json, highlight=False, soft_wrap=False)

    @property
    def interactive(self) -> bool:
        """Whether progress bars and pictures make sense."""
        return self.people.is_terminal and not self.as_json

    def say(self, message: str, style: str = "") -> None:
        """One line for people."""
        self.people.print(Text(message, style=style), soft_wrap=True)

    def warn(self, message: str) -> None:
        """One line about something that went wrong, on standard error."""
        Console(stderr=True, highlight=False).print(Text(message, style="yellow"), soft_wrap=True)

    def document(self, value: Any) -> None:
        """One JSON document, indented."""
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))

    def line(self, value: Any) -> None:
        """One line of a JSON stream, flushed."""
        click.echo(msgspec.json.encode(value))
