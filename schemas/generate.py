"""Writes the JSON Schema and Avro files beside it from the structs: ``python -m schemas.generate [--check]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from schemas.avro_types import avro_schema
from schemas.bodies import ImageBody, PromptBody
from schemas.dead_letters import DeadLetterHeaders
from schemas.messages import Outcome, TokenPiece

__all__ = ["documents", "main"]

_FOLDER = Path(__file__).parent
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """The text of every generated file, by its path in this folder."""
    trees = {
        "json/request.schema.json": _json_schema("A request: of text or of an image", PromptBody, ImageBody),
        "json/outcome.schema.json": _json_schema("An outcome", Outcome),
        "json/token.schema.json": _json_schema("A piece of a streamed answer", TokenPiece),
        "json/dead-letter-headers.schema.json": _json_schema("Headers of a dead letter", DeadLetterHeaders),
        "avro/prompt-request.avsc": avro_schema(PromptBody),
        "avro/image-request.avsc": avro_schema(ImageBody),
    }
    return {path: json.dumps(tree, indent=2) + "\n" for path, tree in trees.items()}


def _json_schema(title: str, *structs: type[Struct]) -> dict[str, Any]:
    references, components = msgspec.json.schema_components(structs)
    root = references[0] if len(references) == 1 else {"anyOf": list(references)}
    return {"$schema": _DIALECT, "title": title, **root, "$defs": dict(sorted(components.items()))}


def _stale(texts: dict[str, str]) -> list[str]:
    """The paths whose file is missing or differs, and files that should not be there."""
    present = {str(file.relative_to(_FOLDER)) for kind in ("json", "avro") for file in (_FOLDER / kind).glob("*")}
    changed = {path for path in texts.keys() & present if (_FOLDER / path).read_text(encoding="utf-8") != texts[path]}
    return sorted(changed | (texts.keys() ^ present))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with ``--check`` only compare: 1 when one is stale, its name on stderr."""
    parser = argparse.ArgumentParser(prog="python -m schemas.generate", description="Schema files from the structs.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is stale")
    check = parser.parse_args(arguments).check
    texts = documents()
    if check:
        stale = _stale(texts)
        for path in stale:
            sys.stderr.write(f"schemas/{path} is stale: run `python -m schemas.generate`.\n")
        return 1 if stale else 0
    for path, text in texts.items():
        (_FOLDER / path).parent.mkdir(exist_ok=True)
        (_FOLDER / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
