"""Outcomes as lines of text for people."""

from __future__ import annotations

from rich.text import Text

from console.output import printable
from schemas.messages import (
    ClassificationOutput,
    DetectedObject,
    DetectionOutput,
    EmbeddingOutput,
    Label,
    Outcome,
    OutcomeStatus,
    TextOutput,
)

__all__ = ["answer_text", "outcome_line"]

MARKS: dict[OutcomeStatus, tuple[str, str]] = {"ok": ("✓", "green"), "error": ("✗", "red"), "expired": ("⌛", "yellow")}
LABELS_SHOWN = 3
NUMBERS_SHOWN = 3


def outcome_line(outcome: Outcome) -> Text:
    """One line: what became of it, where it came from, the answer, and by whom."""
    mark, style = MARKS[outcome.status]
    source = outcome.source
    line = Text(f"{mark} ", style=style, end="")
    line.append(f"{source.topic}/{source.partition}@{source.offset}", style="dim")
    if outcome.key is not None:
        line.append(f" {printable(outcome.key)}", style="cyan")
    line.append(f"  {answer_text(outcome)}", style="" if outcome.status == "ok" else style)
    if details := _details(outcome):
        line.append(f"  ({details})", style="dim")
    return Text.assemble(line, end="\n")


def answer_text(outcome: Outcome, labels: int = LABELS_SHOWN) -> str:
    """The answer, or what went wrong; one line, safe to print.

    Of a classification or a detection, the ``labels`` likeliest; of an embedding, how it begins.
    """
    if outcome.error is not None:
        return printable(f"{outcome.error.code} at {outcome.error.where}: {outcome.error.message}")
    match outcome.output:
        case TextOutput(text=text):
            return printable(text.strip())
        case ClassificationOutput(labels=found):
            return printable(", ".join(map(_label, found[:labels])))
        case DetectionOutput(objects=objects):
            return printable(", ".join(map(_object, objects[:labels])) + _more(len(objects) - labels) or "no object")
        case EmbeddingOutput(embedding=vector):
            return f"{len(vector)} dimensions: {' '.join(f'{x:.4f}' for x in vector[:NUMBERS_SHOWN])} ..."
        case _:
            return outcome.status


def _label(found: Label) -> str:
    return f"{found.label} {found.score:.2f}"


def _object(found: DetectedObject) -> str:
    box = found.box
    return f"{found.label} {found.score:.2f} [{box.xmin:.0f} {box.ymin:.0f} {box.xmax:.0f} {box.ymax:.0f}]"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _details(outcome: Outcome) -> str:
    parts = []
    if outcome.model is not None:
        parts.append(printable(f"{outcome.model.name} {outcome.model.precision}"))
    if outcome.usage is not None:
        parts.append(f"{outcome.usage.completion_tokens or outcome.usage.prompt_tokens} tokens")
    if outcome.batch_size:
        parts.append(f"batch {outcome.batch_size:.3g}")
    times = outcome.timings
    if total := times.queue_ms + times.prepare_ms + times.run_ms + times.publish_ms:
        parts.append(f"{total:.0f} ms")
    return ", ".join(parts)
