"""Whether a record's result depends on who shares its batch: measured through the code that serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.factory.quantize.calibration import Feeds, open_model
from pipeline.factory.samples import Sample, request_of
from pipeline.models.card import VariantName
from pipeline.models.store import ServedModel
from pipeline.runtime.session import DecoderSession, Session
from pipeline.settings import Settings
from pipeline.tasks.batch import BatchModel
from schemas.errors import RecordError
from schemas.messages import Task

__all__ = ["decoder_difference", "graph_difference", "largest_difference"]

COMPANY = 32
ALONE = 4
"""How many records are run alone, to be compared."""


def largest_difference(
    model: ServedModel, variant: VariantName, samples: Sequence[Sample], settings: Settings
) -> float:
    """The most that any number of a record's result moves when 31 others run with it; 0 is bit-equal.

    Raises:
        ModelError: there is no sample, or the model cannot read one.
    """
    if not samples:
        raise ModelError(f"model {model.spec}: a variant needs samples to be measured on.")
    served = open_model(model, variant, settings)
    task: Task = "embeddings" if model.card.task == "zero-shot-image-classification" else model.card.task
    items = _items(served, samples, task)
    together = served.run(items)
    places = np.linspace(0, len(items) - 1, ALONE).astype(int)
    return max(_difference(served.run([items[place]])[0], together[place]) for place in places)


def decoder_difference(decoder: DecoderSession, tokens: npt.NDArray[np.int64]) -> float:
    """The same for a decoder: sequences ``tokens`` [N, T] decoded together, and the first alone.

    A single one is decoded beside itself backwards: company that is the same could hide what other company shows. The
    decoder has a slot for each, and 2 at least.
    """
    if len(tokens) == 1:
        tokens = np.concatenate([tokens, tokens[:, ::-1]])
    count, length = tokens.shape
    worst = 0.0
    for at in range(length):
        step, lengths = np.ascontiguousarray(tokens[:, at : at + 1]), np.full(count, at, np.int64)
        together = decoder.step(0, step, lengths)[0].copy()
        worst = max(worst, float(np.abs(decoder.step(0, step[:1], lengths[:1])[0] - together).max()))
    return worst


def graph_difference(session: Session, feeds: Sequence[Feeds]) -> float:
    """The same for a graph alone: ``feeds`` of one record each, all of one shape. Raises ModelError without any."""
    if not feeds:
        raise ModelError("a graph needs samples to be measured on.")
    chosen = [feeds[number % len(feeds)] for number in range(COMPANY)]
    together = session.run({name: np.concatenate([one[name] for one in chosen]) for name in chosen[0]})
    places = np.linspace(0, COMPANY - 1, ALONE).astype(int)
    alone = {place: session.run(chosen[place]) for place in places}
    return max(
        float(np.abs(alone[place][name][0] - rows[place]).max()) for place in places for name, rows in together.items()
    )


def _items(served: BatchModel[Any, Any], samples: Sequence[Sample], task: Task) -> list[Any]:
    chosen = [samples[number % len(samples)] for number in range(COMPANY)]
    try:
        return [served.prepare(request_of(sample, task, number))[0] for number, sample in enumerate(chosen, 1)]
    except RecordError as error:
        raise ModelError(f"a sample cannot be read by the model: {error.message}") from error


def _difference(alone: Any, together: Any) -> float:
    pairs = zip(_arrays(alone), _arrays(together), strict=True)
    return max((float(np.abs(one - other).max()) for one, other in pairs if one.size), default=0.0)


def _arrays(row: Any) -> list[npt.NDArray[Any]]:
    """The arrays of a task's row, which is one or has some."""
    if isinstance(row, np.ndarray):
        return [row]
    if isinstance(row, msgspec.Struct):
        row = [getattr(row, name) for name in row.__struct_fields__]
    elif hasattr(row, "__dataclass_fields__"):
        row = [getattr(row, name) for name in row.__dataclass_fields__]
    return [array for part in row for array in _arrays(part)] if isinstance(row, list | tuple) else []
