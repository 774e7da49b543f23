"""The demo's digits: those that the tiny classifier never saw, with what they are."""

from __future__ import annotations

from console.samples import Sample
from pipeline.errors import MillraceError
from pipeline.models.heldout import read_held_out_digits

__all__ = ["digit_samples"]

DIGIT_MODEL = "digits-tiny"
SHOWN_EVERY = 16


def digit_samples(count: int) -> list[Sample]:
    """The first ``count`` of them, as PNG files. Raises MillraceError when there are fewer."""
    digits = read_held_out_digits()
    if count > len(digits):
        raise MillraceError(f"{count} digits are asked for, but only {len(digits)} are shipped.")
    return [
        Sample(
            name=f"digit-{number:03}",
            kind="digits",
            task="image-classification",
            model=DIGIT_MODEL,
            value=digits.png(number),
            accepted=frozenset({str(digits.labels[number])}),
            shown=number % SHOWN_EVERY == 0,
        )
        for number in range(count)
    ]
