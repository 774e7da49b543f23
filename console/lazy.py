"""Click groups: one whose commands are imported when they are run, so that `millrace --help` starts fast."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

from pipeline.errors import MillraceError

__all__ = ["LazyGroup", "NamingGroup"]


class NamingGroup(click.Group):
    """A group that tells a misspelt command with the one that may be meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; its error says more."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if nearest := difflib.get_close_matches(args[0], self.list_commands(ctx), n=1):
                error.message += f" Did you mean {nearest[0]!r}?"
            raise


class LazyGroup(NamingGroup):
    """Commands by name: (``module:attribute``, one line of help).

    A :class:`~pipeline.errors.MillraceError` from any of them is printed as one message, and the exit status is 1.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The names, in the order they were registered."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The real command, imported now."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a click command. This is a bug.")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands, from the one-line helps alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes click's, which prints a message and no traceback."""
        try:
            return super().invoke(ctx)
        except MillraceError as error:
            raise click.ClickException(str(error)) from error
