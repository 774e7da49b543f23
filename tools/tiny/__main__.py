"""`python -m tools.tiny [NAMES]`: make, measure and shelve our own tiny models."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import torch

from tools.tiny.clip import CLIP
from tools.tiny.dialogues import DIALOGUES
from tools.tiny.digits import DIGITS
from tools.tiny.finder import FINDER
from tools.tiny.intent import INTENT
from tools.tiny.made import TinyModel, make
from tools.tiny.reader import READER
from tools.tiny.shelf import ship, shipped_bytes, write_page

TINY = {tiny.name: tiny for tiny in (DIGITS, DIALOGUES, INTENT, FINDER, CLIP, READER)}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TINY)))
@click.option(
    "--threads", default=1, show_default=True, help="Threads to train with; other counts give other roundings."
)
@click.option("--device", default="cpu", show_default=True, help="Where they are trained.")
@click.option(
    "--folders",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where what was trained is kept, a folder a model; one that is there is not trained again.",
)
def main(*, names: tuple[str, ...], threads: int, device: str, folders: Path | None) -> None:
    """Train, quantize, measure and shelve NAMES; every tiny model unless some are named.

    On one free CPU core all of it takes about an hour and a half: digit-reader-tiny 40 minutes, digit-clip-tiny 25,
    digit-finder-tiny 20, dialogues-tiny 10, and the others a minute or two each. Training is nearly all of that.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # a check for bugs in operators; it costs a tenth
    for name in names or TINY:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            page = _make(name, Path(scratch), folders, device)
        click.echo(f"{name}: done in {time.monotonic() - began:.0f} s, see {page.relative_to(Path.cwd())}", err=True)
    click.echo(f"all that is shipped: {shipped_bytes():,} bytes", err=True)


def _make(name: str, scratch: Path, folders: Path | None, device: str) -> Path:
    tiny, trained = TINY[name], (folders or scratch / "trained") / name
    _train(tiny, trained, device)
    model = make(tiny, trained, scratch / "store", _say)
    return write_page(model.card, ship(model.card, model.folder), **tiny.page(model))


def _train(tiny: TinyModel, folder: Path, device: str) -> None:
    if (folder / "config.json").is_file():
        _say(f"{tiny.name}: taking {folder} as it is")
        return
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"{tiny.name}: training on {device}")
    torch.set_default_device(device)
    tiny.train(folder, _say)
    torch.set_default_device("cpu")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
