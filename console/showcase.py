"""The demo's results on a terminal: pictures beside their labels, prompts beside their answers, then the figures."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from console.output import printable
from console.picture import Picture
from console.render import answer_text
from console.scoreboard import Answered, Score, Summary
from schemas.messages import ClassificationOutput, Label

__all__ = ["Cards", "answer_block", "plain_line", "summary_block"]

CAPTION_COLUMNS = 17
BAR_CELLS = 10
LABELS_ON_CARD = 2


class Cards:
    """Gathers picture cards into rows as wide as the terminal.

    Args:
        console: where the rows are printed.
        min_columns: a card is at least this wide; as many as fit share a row and fill it.
        max_columns: no card grows wider than this.
    """

    def __init__(self, console: Console, *, min_columns: int, max_columns: int) -> None:
        self._console = console
        self._in_row = max(1, console.width // min_columns)
        self._columns = min(max_columns, console.width // self._in_row)
        self._row: list[RenderableType] = []

    def add(self, answered: Answered) -> None:
        """Show the picture of an outcome, once its row is full."""
        self._row.append(_card(answered, self._columns))
        if len(self._row) == self._in_row:
            self.flush()

    def flush(self) -> None:
        """Print what is gathered."""
        if not self._row:
            return
        grid = Table.grid(padding=(0, 1, 0, 0))
        for _ in self._row:
            grid.add_column(width=self._columns - 1)
        grid.add_row(*self._row)
        self._console.print(Padding(grid, (0, 0, 1, 0)))
        self._row = []


def answer_block(answered: Answered) -> RenderableType:
    """A prompt and its answer."""
    outcome = answered.arrival.outcome
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    grid.add_row(Text("›", style="cyan"), Text(printable(answered.sample.question), style="cyan"))
    grid.add_row("", Text(answer_text(outcome), style="" if outcome.status == "ok" else "red"))
    return Padding(grid, (0, 0, 1, 0))


def plain_line(answered: Answered) -> Text:
    """One line for outputs that are no terminal."""
    asked = printable(answered.sample.question or answered.sample.name)
    return Text(f"{asked}  ->  {answer_text(answered.arrival.outcome, labels=1)}")


def summary_block(summary: Summary, asked_kinds: list[str]) -> RenderableType:
    """The figures, and one line for each model."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", style="bold cyan", no_wrap=True)
    table.add_column(style="dim")
    for name, value, note in _figures(summary, asked_kinds):
        table.add_row(name, value, note)
    return Group(table, Text(), _models(summary))


def _figures(summary: Summary, asked_kinds: list[str]) -> list[tuple[str, str, str]]:
    accuracy = "-" if summary.accuracy is None else f"{summary.accuracy:.1%}"
    statuses = f"{summary.ok:,} ok, {summary.error} error, {summary.expired} expired"
    return [
        ("records in", f"{summary.records_in:,}", ", ".join(asked_kinds)),
        ("outcomes out", f"{summary.outcomes:,}", statuses),
        ("accuracy", accuracy, ", ".join(_score(kind, score) for kind, score in summary.scores.items())),
        ("precision", summary.precision.upper(), ", ".join(sorted({m.provider for m in summary.models}))),
        ("mean batch", f"{summary.mean_batch_size:.1f}", "records that shared a run of the model"),
        ("latency p50", _time(summary.latency_p50_ms), "from a record's timestamp to its outcome's;"),
        ("latency p95", _time(summary.latency_p95_ms), "all are sent at once, so waiting is part of it"),
        ("records/s", f"{summary.records_per_s:.1f}", f"{summary.completion_tokens:,} tokens were written"),
    ]


def _score(kind: str, score: Score) -> str:
    return f"{score.right} of {score.scored} {kind}"


def _models(summary: Summary) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("precision")
    for name in ("outcomes", "batch", "p50", "p95"):
        table.add_column(name, justify="right")
    for row in summary.models:
        table.add_row(
            row.model,
            row.precision.upper(),
            f"{row.outcomes:,}",
            f"{row.mean_batch_size:.1f}",
            _time(row.latency_p50_ms),
            _time(row.latency_p95_ms),
        )
    return table


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1_000:.2f} s" if milliseconds >= 1_000 else f"{milliseconds:.0f} ms"


def _card(answered: Answered, columns: int) -> RenderableType:
    across = max(8, columns - CAPTION_COLUMNS - 2)
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=across)
    grid.add_column(width=CAPTION_COLUMNS)
    # Rows for a picture of 4 by 3: a cell is twice as high as wide. Digits are square and get their whole height.
    rows = across // 2 if answered.sample.kind == "digits" else across * 3 // 8
    grid.add_row(Picture(answered.sample.value, columns=across, rows=rows), _caption(answered))
    return grid


def _caption(answered: Answered) -> RenderableType:
    outcome, lines = answered.arrival.outcome, [_short(answered.sample.name, "dim")]
    if isinstance(outcome.output, ClassificationOutput):
        for rank, label in enumerate(outcome.output.labels[:LABELS_ON_CARD]):
            lines += _label(label, best=rank == 0, mark=_mark(answered) if rank == 0 else "")
    else:
        lines.append(Text(answer_text(outcome), style="red"))
    return Group(*lines)


def _label(label: Label, *, best: bool, mark: str) -> list[Text]:
    name = _short(f"{mark} ", "green" if mark == "✓" else "red") if mark else _short("", "")
    name.append(printable(label.label.split(",")[0]), style="bold" if best else "dim")
    filled = round(label.score * BAR_CELLS)
    bar = Text("━" * filled, style="cyan" if best else "dim cyan")
    bar.append("━" * (BAR_CELLS - filled), style="grey30")
    bar.append(f" {label.score:.0%}", style="" if best else "dim")
    return [name, bar]


def _short(text: str, style: str) -> Text:
    """A line that is cut with an ellipsis where the card ends."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _mark(answered: Answered) -> str:
    if not answered.sample.accepted:
        return ""
    return "✓" if answered.right else "✗"
