"""`python -m tools.tiny [digits-tiny] [dialogues-tiny]`: make, measure and shelve our own tiny models."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import torch

from tools.tiny.dialogues import NAME as DIALOGUES
from tools.tiny.dialogues import build_dialogues
from tools.tiny.digits import NAME as DIGITS
from tools.tiny.digits import build_digits
from tools.tiny.shelf import ship, shipped_bytes, write_page


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([DIGITS, DIALOGUES]))
@click.option(
    "--threads", default=1, show_default=True, help="Threads to train with; other counts give other roundings."
)
def main(*, names: tuple[str, ...], threads: int) -> None:
    """Train, quantize, measure and shelve NAMES; both models unless some are named."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a check for bugs in operators; it costs a tenth
    for name in names or (DIGITS, DIALOGUES):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            page = _make(name, Path(folder))
        click.echo(f"{name}: done in {time.monotonic() - began:.0f} s, see {page.relative_to(Path.cwd())}", err=True)
    click.echo(f"all that is shipped: {shipped_bytes():,} bytes", err=True)


def _make(name: str, folder: Path) -> Path:
    if name == DIGITS:
        card = build_digits(folder, _say)
        return write_page(card, ship(card, folder))
    card, answers = build_dialogues(folder, _say)
    return write_page(card, ship(card, folder), answers=answers)


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
