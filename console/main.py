"""The `millrace` command.

Exit status: 0 done, 1 failed or interrupted, 2 wrong usage. With ``--json`` a command writes one JSON document (JSON
lines where it streams) on standard output and everything else on standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import click

from console.lazy import LazyGroup

__all__ = ["cli", "main"]

COMMANDS = {
    "demo": ("console.demo:demo", "Serve prompts, photos and digits end to end, and watch."),
    "up": ("console.up:up", "Start a broker (unless one is given), the topics and the workers."),
    "down": ("console.up:down", "Stop what `millrace up` started."),
    "status": ("console.up:status", "Say what runs."),
    "worker": ("console.worker:worker", "Run one worker here."),
    "send": ("console.send:send", "Send prompts or images."),
    "tail": ("console.tail:tail", "Follow the outcomes."),
    "broker": ("console.broker:broker", "Start, stop and inspect the embedded Kafka."),
    "topics": ("console.topics:topics", "Create the topics that are missing."),
    "models": ("console.models:models", "List, inspect, fetch and verify models."),
}


def _use_config(ctx: click.Context, param: click.Parameter, value: str | None) -> None:  # noqa: ARG001
    """Workers are processes of their own, so the choice travels by environment."""
    if value:
        os.environ["MILLRACE_CONFIG"] = value


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="millrace", prog_name="millrace")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    callback=_use_config,
    expose_value=False,
    is_eager=True,
    help="Settings file (TOML). Otherwise MILLRACE_CONFIG, then ./millrace.toml.",
)
def cli() -> None:
    """Kafka topics in, AI outcomes out.

    Every command takes --json. Exit status: 0 done, 1 failed, 2 wrong usage.
    """


def main() -> int:
    """Run the command line; the exit status. Ctrl-C, SIGTERM and a closed terminal end it without a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
