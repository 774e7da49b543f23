"""Write docs/settings.md from the settings themselves: ``python -m tools.settings_page [--check]``.

Names, types, bounds and defaults are read from :mod:`pipeline.settings`; what a key means is said here, once for each.
A key without a meaning, or a meaning without a key, stops the run. ``--check`` writes nothing and ends with status 1
when the page is not what would be written.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, inspect

from pipeline.settings import Settings

__all__ = ["main", "page"]

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
MEANINGS = Path(__file__).with_name("settings_page.toml")

HEAD = """\
# Settings

<!-- Written by `python -m tools.settings_page`; edit tools/settings_page.toml and pipeline/settings.py instead. -->

Every setting is a key in a section. Later wins: the defaults below, then `millrace.toml` in the current folder (or the
file that `MILLRACE_CONFIG` names), then the environment. A key of section `[kafka]` named `group_id` is set by

```toml
[kafka]
group_id = "millrace"
```

or by `MILLRACE_KAFKA__GROUP_ID=millrace`: two underscores between section and key. In the environment a list is written
with commas (`a,b`), a table as `name=value,name=value`. `KAFKA_BOOTSTRAP_SERVERS` also sets `kafka.bootstrap_servers`.

An unknown key, a wrong type or a value out of bounds stops the start with a message that names the key.
"""


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with ``--check`` compare it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.settings_page", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if the page is out of date")
    wanted = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    sys.stderr.write("docs/settings.md is not what the settings say. Run: python -m tools.settings_page\n")
    return 1


def page() -> str:
    """The page as it should be. Raises ValueError when keys and meanings do not match."""
    meanings = tomllib.loads(MEANINGS.read_text(encoding="utf-8"))
    parts = [HEAD]
    parts += [_section(part.name, part.type, meanings.pop(part.name, {})) for part in msgspec.structs.fields(Settings)]
    if meanings:
        raise ValueError(f"{MEANINGS.name}: no such section in the settings: {', '.join(meanings)}.")
    return "\n".join(parts)


def _section(name: str, struct: type[Struct], meanings: dict[str, str]) -> str:
    about = meanings.pop("about", "")
    rows = [_row(name, field, meanings.pop(field.name, "")) for field in msgspec.structs.fields(struct)]
    if meanings or not about:
        raise ValueError(f"{MEANINGS.name}: [{name}] lacks `about`, or explains unknown keys: {', '.join(meanings)}.")
    head = "| Key | Type | Default | Meaning | Environment |\n|---|---|---|---|---|"
    return "\n".join([f"## [{name}]\n", f"{about}\n", head, *rows, ""])


def _row(section: str, field: msgspec.structs.FieldInfo, meaning: str) -> str:
    if not meaning:
        raise ValueError(f"{MEANINGS.name}: say what {section}.{field.name} means.")
    variable = f"MILLRACE_{section}__{field.name}".upper()
    kind = _type_text(inspect.type_info(field.type))
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f"| `{field.name}` | {kind} | {_default_text(default)} | {meaning} | `{variable}` |"


def _type_text(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType() | inspect.FloatType():
            return ("integer" if isinstance(kind, inspect.IntType) else "number") + _bounds_text(kind)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(f"`{value}`" for value in values)
        case inspect.VarTupleType(min_length=least):
            return "list of text" + (f", at least {least}" if least else "")
        case inspect.DictType():
            return "table of text"
        case inspect.BoolType():
            return "`true` or `false`"
        case inspect.StrType():
            return "text"
    raise ValueError(f"settings page: do not know how to write the type {kind!r}.")


def _bounds_text(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f", {kind.ge:,} to {kind.le:,}"
    if kind.ge is not None:
        return f", at least {kind.ge:,}"
    return f", above {kind.gt:,}" if kind.gt is not None else ""


def _default_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value) or "empty"
    if value in ("", {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    raise SystemExit(main())
