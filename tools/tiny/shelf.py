"""Putting a finished model among the shipped ones, and its page among the docs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jinja2

from pipeline.models.card import ModelCard, Variant
from pipeline.models.cardfile import write_card
from pipeline.models.pointer import write_pointer
from pipeline.models.store import SHIPPED

__all__ = ["ship", "shipped_bytes", "write_page"]

PAGES = Path(__file__).parent / "pages"
DOCS = Path(__file__).parents[2] / "docs" / "models"
LIMIT_BYTES = 8_000_000


def ship(card: ModelCard, built: Path) -> Path:
    """Move the files in ``built``, with their card, in the place of the version shipped before, and promote it.

    Raises:
        ValueError: the shipped models together would weigh 8 MB or more.
    """
    write_card(card, built)
    target = SHIPPED / card.name / card.version
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for file in built.iterdir():
        shutil.copyfile(file, target / file.name)
    write_pointer(target.parent, card.version)
    if (total := shipped_bytes()) >= LIMIT_BYTES:
        raise ValueError(f"the shipped models weigh {total:,} bytes, the limit is {LIMIT_BYTES:,}: make one smaller.")
    return target


def shipped_bytes() -> int:
    """What all shipped files weigh together."""
    return sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file())


def write_page(card: ModelCard, folder: Path, **more: Any) -> Path:
    """Write the model's page, ``docs/models/<name>.md``, from its template and the card's figures."""
    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML
        loader=jinja2.FileSystemLoader(PAGES), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sizes = {name: f"{_bytes(variant, folder) / 1000:,.0f} KB" for name, variant in card.variants.items()}
    text = environment.get_template(f"{card.name}.md.jinja").render(card=card, sizes=sizes, **more)
    DOCS.mkdir(parents=True, exist_ok=True)
    page = DOCS / f"{card.name}.md"
    page.write_text(text.rstrip() + "\n", encoding="utf-8")
    return page


def _bytes(variant: Variant, folder: Path) -> int:
    files = [variant.file, *(part.file for part in variant.parts.values())]
    return sum((folder / file).stat().st_size for file in files)
