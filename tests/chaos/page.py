"""Renders a report as Markdown: ``python -m tests.chaos.page REPORT [--into docs/chaos.md]``.

With ``--into`` it takes the place of what stands between the two marks in that file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "put_into", "render"]

BEGIN, END = "<!-- report -->", "<!-- end of report -->"
ROWS = {
    "sent": "records sent",
    "lost": "**records without an outcome**",
    "repeated": "**outcomes beyond the first of a record**",
    "recalled": "of these, taken from the result store",
    "unequal": "records with unequal outcome ids",
    "changed": "records with unequal outputs",
    "wrong": "outcomes that do not fit their record",
    "strays": "outcomes of no record",
    "disordered": "outcomes against the order of their key",
    "blamed": "good records that failed with their session",
    "letters": "dead letters",
    "letters_missing": "errors without a dead letter",
    "letters_altered": "dead letters with other bytes than their record",
    "letters_repeated": "repeated dead letters",
    "caught_up_s": "seconds to catch up in the end",
}
Report = Mapping[str, Mapping[str, Any]]


def main(arguments: list[str] | None = None) -> None:
    """Print the report, or put it into a page."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.page", description=__doc__)
    parser.add_argument("report", type=Path, help="what `--report` of a run wrote")
    parser.add_argument("--into", type=Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    text = render(json.loads(options.report.read_bytes()))
    if options.into is None:
        sys.stdout.write(text)
    else:
        options.into.write_text(put_into(options.into.read_text(encoding="utf-8"), text), encoding="utf-8")


def render(report: Report) -> str:
    """The circumstances, the counts and the faults of every mode."""
    return "\n".join([*_circumstances(report), "", *_counts(report), "", *_faults(report), ""])


def put_into(page: str, text: str) -> str:
    """``page`` with ``text`` between its marks. Raises ValueError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} with {END} after it. Put them where the report belongs.")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def _circumstances(report: Report) -> Iterator[str]:
    first = next(iter(report.values()))
    seconds = sum(mode["seconds"] for mode in report.values())
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    static = ", static members" if first["static_members"] else ""
    store = ", a result store" if first["store"] else ""
    group = f"group protocol {first['group_protocol']}{static}"
    kept = ", ".join(f"{name} {'kept' if mode['kept'] else 'BROKEN'}" for name, mode in report.items())
    yield (
        f"{first['date']}: {seconds:,.0f} seconds of faults, seed {first['seed']}, {first['rate']:g} records a second, "
        f"{first['workers']} workers, {first['brokers']} broker(s), {group}{store}; all on {first['cores']} cores. "
        f"{versions}. Promises: {kept}."
    )


def _counts(report: Report) -> Iterator[str]:
    yield from _head("what a reader sees", report)
    for name, words in ROWS.items():
        yield _row(words, [f"{mode[name]:,}" for mode in report.values()])


def _faults(report: Report) -> Iterator[str]:
    yield from _head("faults", report)
    for kind in dict.fromkeys(kind for mode in report.values() for kind in mode["faults"]):
        yield _row(kind.replace("_", " "), [f"{mode['faults'].get(kind, 0):,}" for mode in report.values()])
    for kind, reason in next(iter(report.values()))["skipped"].items():
        yield _row(kind.replace("_", " "), [f"none: {reason}"] * len(report))


def _head(words: str, report: Report) -> list[str]:
    return [_row(words, list(report)), "|---|" + "---|" * len(report)]


def _row(words: str, cells: Sequence[str]) -> str:
    return f"| {words} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
