"""What is measured inside a graph on calibration inputs: ranges, means, and where the values lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Struct
from onnx import helper, numpy_helper

__all__ = ["Histogram", "Probe", "Range", "narrowed", "opset", "with_probes"]

Range = tuple[float, float]
Array = npt.NDArray[Any]
BINS = 2048


class Probe(Struct, frozen=True):
    """One reduction of a tensor, over ``axes`` or over all of it, as the output ``name``."""

    name: str
    operator: Literal["ReduceMax", "ReduceMean", "ReduceMin"]
    tensor: str
    axes: tuple[int, ...] = ()


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the graph uses."""
    return next((int(item.version) for item in model.opset_import if item.domain in {"", "ai.onnx"}), 1)


def with_probes(model: onnx.ModelProto, probes: Iterable[Probe] = (), tensors: Iterable[str] = ()) -> onnx.ModelProto:
    """A copy whose only outputs are the ``probes``, and ``tensors`` as they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, version = copy.graph, opset(model)
    del graph.output[:]
    for probe in probes:
        # Axes became an input in opset 18 for these three; before it they are an attribute.
        inputs, attributes = [probe.tensor], dict[str, Any](keepdims=0)
        if probe.axes and version >= 18:
            inputs.append(f"axes of {probe.name}")
            graph.initializer.append(numpy_helper.from_array(np.array(probe.axes, np.int64), inputs[1]))
        elif probe.axes:
            attributes["axes"] = list(probe.axes)
        graph.node.append(helper.make_node(probe.operator, inputs, [probe.name], **attributes))
    names = [probe.name for probe in probes] + list(tensors)
    graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return copy


class Histogram:
    """How many values of one tensor lie where, between bounds that are known.

    Args:
        bounds: the least and the greatest value.
    """

    def __init__(self, bounds: Range) -> None:
        self._edges = np.linspace(bounds[0], max(bounds[1], bounds[0] + 1e-9), BINS + 1)
        self._counts = np.zeros(BINS, np.int64)

    def add(self, values: Array) -> None:
        """Count ``values``."""
        self._counts += np.histogram(values, self._edges)[0]

    def percentile(self, percent: float) -> Range:
        """The range that leaves out ``100 - percent`` of the values, half of it at each end."""
        shares = np.cumsum(self._counts) / max(int(self._counts.sum()), 1)
        tail = (100 - percent) / 200
        low = int(np.searchsorted(shares, tail, side="right"))
        high = int(np.searchsorted(shares, 1 - tail, side="left"))
        return float(self._edges[min(low, BINS - 1)]), float(self._edges[min(high, BINS - 1) + 1])

    def least_error(self, levels: int = 255) -> Range:
        """The range, of 100 between the whole one and a hundredth of it, whose rounding loses least (mean square)."""
        low, high = float(self._edges[0]), float(self._edges[-1])
        middles = (self._edges[:-1] + self._edges[1:]) / 2
        candidates = [(low * share, high * share) for share in np.linspace(1, 0.01, 100)]
        return min(candidates, key=lambda bounds: self._error(middles, bounds, levels))

    def _error(self, middles: Array, bounds: Range, levels: int) -> float:
        low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
        step = max((high - low) / levels, 1e-12)
        outside = middles - np.clip(middles, low, high)
        # Rounding inside the range costs step^2 / 12 on average.
        inside = np.where(outside == 0, step * step / 12, outside * outside)
        return float((inside * self._counts).sum())


def narrowed(histograms: Mapping[str, Histogram], ranging: str) -> dict[str, Range]:
    """The ranges that ``ranging`` takes of histograms: ``least-error``, or a percentage such as ``99.99``."""
    if ranging == "least-error":
        return {name: histogram.least_error() for name, histogram in histograms.items()}
    return {name: histogram.percentile(float(ranging)) for name, histogram in histograms.items()}
