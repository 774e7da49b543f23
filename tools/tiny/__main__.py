"""`python -m tools.tiny [NAMES]`: make, measure and shelve our own tiny models."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import torch

from tools.tiny.clip import CLIP
from tools.tiny.dialogues import NAME as DIALOGUES
from tools.tiny.dialogues import build_dialogues
from tools.tiny.digits import NAME as DIGITS
from tools.tiny.digits import build_digits
from tools.tiny.finder import FINDER
from tools.tiny.intent import INTENT
from tools.tiny.made import TinyModel, make
from tools.tiny.reader import READER
from tools.tiny.shelf import ship, shipped_bytes, write_page

TRAINED = {tiny.name: tiny for tiny in (INTENT, FINDER, CLIP, READER)}
NAMES = (DIGITS, DIALOGUES, *TRAINED)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option(
    "--threads", default=1, show_default=True, help="Threads to train with; other counts give other roundings."
)
@click.option("--device", default="cpu", show_default=True, help="Where those with a Hugging Face folder are trained.")
@click.option(
    "--folders",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the Hugging Face folders are kept, one a model; one that is there is not trained again.",
)
def main(*, names: tuple[str, ...], threads: int, device: str, folders: Path | None) -> None:
    """Train, quantize, measure and shelve NAMES; every tiny model unless some are named."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # a check for bugs in operators; it costs a tenth
    for name in names or NAMES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            page = _make(name, Path(scratch), folders, device)
        click.echo(f"{name}: done in {time.monotonic() - began:.0f} s, see {page.relative_to(Path.cwd())}", err=True)
    click.echo(f"all that is shipped: {shipped_bytes():,} bytes", err=True)


def _make(name: str, scratch: Path, folders: Path | None, device: str) -> Path:
    if name == DIGITS:
        card = build_digits(scratch, _say)
        return write_page(card, ship(card, scratch))
    if name == DIALOGUES:
        card, answers = build_dialogues(scratch, _say)
        return write_page(card, ship(card, scratch), answers=answers)
    trained = (folders or scratch / "trained") / name
    _train(TRAINED[name], trained, device)
    card, built = make(TRAINED[name], trained, scratch / "store", _say)
    return write_page(card, ship(card, built))


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
