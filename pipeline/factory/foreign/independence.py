"""Runs a graph that somebody else exported, to see that a row of a batch does not depend on the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.factory.child import answer
from pipeline.runtime.onnx import open_session
from pipeline.runtime.session import SessionError
from pipeline.settings import RuntimeSettings

__all__ = ["check_rows"]

# Of outputs of the order of one, in FP32.
TOLERANCE = 1e-3


def check_rows(graph: Path, feeds: Mapping[str, npt.NDArray[Any]], output: str, where: str) -> int:
    """The size of a row of ``output``, once each row has come out alone as it does among the others.

    The graph runs in a process of its own, for it may do anything.

    Raises:
        ModelError: the graph does not load or run with several rows and with one, or answer in time; or rows change
            each other, or are not finite.
    """
    return answer(f"{where}: the graph", compare_rows, graph, feeds, output, where)


def compare_rows(graph: Path, feeds: Mapping[str, npt.NDArray[Any]], output: str, where: str) -> int:
    """As :func:`check_rows`, in this process."""
    try:
        session = open_session(graph, RuntimeSettings(provider="cpu"))
    except ModelError as error:
        said = " ".join(str(error.__cause__ or error).replace(f"{graph} ", "it ").split())
        raise ModelError(
            f"{where}: its graph does not load: a shape, a type or an operator in it is not as ONNX Runtime wants it. "
            f"Export it anew. ONNX Runtime says: {said}"
        ) from error
    shape = next(iter(feeds.values())).shape
    count = shape[0]
    try:
        together = session.run(feeds)[output]
        alone = [session.run({name: rows[[i]] for name, rows in feeds.items()})[output] for i in range(count)]
    except SessionError as error:
        raise ModelError(
            f"{where}: it does not run with inputs {list(shape)} and with one row of them. Export it with dynamic "
            f"axes, and check that it takes every input of its task. ONNX Runtime says: {error}"
        ) from error
    if (
        together.ndim != 2
        or len(together) != count
        or not np.allclose(together, np.vstack(alone), atol=TOLERANCE, equal_nan=True)
    ):
        raise ModelError(
            f"{where}: in a batch of {count} it gives {output} {together.shape}, not those of each row alone: it "
            "cannot be served in batches. Export it with dynamic axes."
        )
    if odd := int(np.count_nonzero(~np.isfinite(together))):
        raise ModelError(
            f"{where}: {odd} of its {together.size} {output} for random input are not finite: every record would fail. "
            "Its training went astray, or its export: compare it with the framework that it comes from."
        )
    return int(together.shape[1])
