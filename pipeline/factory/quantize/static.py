"""Static INT8 of a graph: the one module beside the runtime that imports ``onnxruntime``.

Activations are uint8 (int8 for TensorRT) with one scale a tensor, fixed here by calibration; weights are int8 with one
scale an output channel. No scale is made while the graph runs, so a row's result does not depend on its batch.

For CPUs, neighbouring weights share 8 bits: see :mod:`pipeline.factory.quantize.qdq`. What rounding does to the mean
is won back by :mod:`pipeline.factory.quantize.bias_correction`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.errors import ModelError
from pipeline.factory.quantize.attention import with_standard_attention
from pipeline.factory.quantize.bias_correction import MEAN, correct_biases, with_input_means
from pipeline.factory.quantize.plan import plan_quantization
from pipeline.factory.quantize.products import with_integer_products
from pipeline.factory.quantize.qdq import U8S8, Scheme, write_qdq
from pipeline.factory.quantize.ranges import Histogram, Probe, Range, narrowed, opset, with_probes
from pipeline.factory.quantize.smooth import largest_inputs, smooth, smoothed_inputs
from pipeline.factory.quantize.weights import QuantizedWeights, input_products, rounded_layers
from pipeline.models.outside import places_of_weights
from pipeline.runtime.onnx import BoundedRuns

__all__ = [
    "METHOD",
    "Calibrated",
    "calibrate",
    "for_cpus",
    "input_means",
    "quantize_static_int8",
    "run_graph",
    "simplified",
]

METHOD = "static U8S8 per channel, weight pairs within 16 bits, MinMax ranges, bias correction"
OLDEST_OPSET = 13  # the first whose DequantizeLinear has a scale for each channel
Feeds = Mapping[str, npt.NDArray[Any]]


class Calibrated:
    """A graph, ready to be quantized in several ways: what was measured in it is measured once.

    Args:
        model: the FP32 graph; its nodes have names.
        batches: calibration inputs.
    """

    def __init__(self, model: onnx.ModelProto, batches: Sequence[Feeds]) -> None:
        self.model = model
        self.batches = batches
        self._ranges: dict[str, Range] = {}
        self._narrowed: dict[tuple[str, str], Range] = {}
        self._weights = QuantizedWeights(model, self._products)
        self._greatest: dict[str, npt.NDArray[Any]] | None = None
        self._means: dict[str, npt.NDArray[Any]] | None = None

    def quantized(
        self, scheme: Scheme, *, excluded: Collection[str] = (), ranging: str = "minmax", outputs: bool = True
    ) -> onnx.ModelProto:
        """The QDQ graph.

        Args:
            scheme: how numbers become integers.
            excluded: names of nodes that stay in floats.
            ranging: how a tensor's range is taken: ``minmax``, ``least-error`` or a percentage such as ``99.99``.
            outputs: see :func:`pipeline.factory.quantize.plan.plan_quantization`.
        """
        plan = plan_quantization(self.model, excluded, outputs=outputs)
        ranges = self.ranges(set(plan.tensors.values()), ranging)
        quantized = write_qdq(self.model, plan, ranges, scheme, lambda it, least: self._weights.make(it, scheme, least))
        if self._means is None:
            self._means = input_means(self.model, self.batches)
        correct_biases(self.model, quantized, self._means)
        return quantized

    def smoothed(self, strength: float) -> Calibrated:
        """With the outliers of activations moved into the weights: see :mod:`pipeline.factory.quantize.smooth`."""
        if self._greatest is None:
            tensors = smoothed_inputs(self.model)
            runs = run_graph(with_probes(self.model, tensors=tensors), self.batches)
            self._greatest = largest_inputs(self.model, runs)
        return Calibrated(smooth(self.model, self._greatest, strength), self.batches)

    def ranges(self, tensors: Collection[str], ranging: str) -> dict[str, Range]:
        """The range of each tensor over all batches."""
        if missing := [name for name in tensors if name not in self._ranges]:
            self._ranges |= _extremes(self.model, missing, self.batches)
        if ranging == "minmax":
            return {name: self._ranges[name] for name in tensors}
        if missing := [name for name in tensors if (ranging, name) not in self._narrowed]:
            histograms = {name: Histogram(self._ranges[name]) for name in missing}
            for values in run_graph(with_probes(self.model, tensors=missing), self.batches):
                for name, histogram in histograms.items():
                    histogram.add(values[name])
            self._narrowed |= {(ranging, name): bounds for name, bounds in narrowed(histograms, ranging).items()}
        return {name: self._narrowed[ranging, name] for name in tensors}

    def _products(self) -> dict[str, npt.NDArray[Any]]:
        layers = rounded_layers(self.model)
        tensors = dict.fromkeys(layer.input for layer in layers)
        return input_products(layers, run_graph(with_probes(self.model, tensors=tensors), self.batches))


def calibrate(source: Path, batches: Iterable[Feeds]) -> Calibrated:
    """Read an FP32 graph, simplify it, and keep ``batches`` for what is to be measured in it.

    Raises:
        ModelError: there is no batch, or the graph cannot be read or is of an opset before 13.
    """
    calibration = list(batches)
    if not calibration:
        raise ModelError(f"{source}: INT8 needs at least one batch to calibrate on.")
    model = simplified(source)
    if opset(model) < OLDEST_OPSET:
        raise ModelError(f"{source}: its opset is {opset(model)}, INT8 needs {OLDEST_OPSET} or newer: export it anew.")
    return Calibrated(model, calibration)


def quantize_static_int8(source: Path, target: Path, batches: Iterable[Feeds]) -> None:
    """Write the INT8 form of an FP32 graph, for CPUs.

    Args:
        source: the FP32 graph.
        target: the file to write.
        batches: calibration inputs, by input name; the ranges of all activations are taken from these.

    Raises:
        ModelError: the graph cannot be quantized or run, or the file cannot be written.
    """
    try:
        onnx.save(for_cpus(calibrate(source, batches).quantized(U8S8)), target)
    except ModelError:
        raise
    except Exception as error:  # the libraries raise nearly anything
        raise ModelError(f"{source}: cannot be quantized to INT8: {error}") from error


def for_cpus(model: onnx.ModelProto) -> onnx.ModelProto:
    """A QDQ graph of :data:`~pipeline.factory.quantize.qdq.U8S8` with the operators that CPUs are fastest at.

    Where convolutions prevail it stays as it is, which GPUs run whole.
    """
    written = with_integer_products(model)
    return model if written is model else with_standard_attention(written)


def input_means(full: onnx.ModelProto, batches: Sequence[Feeds]) -> dict[str, npt.NDArray[Any]]:
    """The mean input of each Conv and Gemm over all rows of ``batches``, by node name."""
    rows = [len(next(iter(feeds.values()))) for feeds in batches]
    runs = list(run_graph(with_input_means(full), batches))
    return {
        name.removeprefix(MEAN): np.average(np.stack([run[name] for run in runs]), axis=0, weights=rows)
        for name in runs[0]
    }


def simplified(source: Path) -> onnx.ModelProto:
    """The graph after ONNX Runtime's basic rewriting: constants folded, batch norms in their convolutions.

    Every node has a name. Raises ModelError, also for one too large to be whole in a file.
    """
    import onnxruntime

    if places_of_weights(source):
        raise ModelError(
            f"{source}: static INT8 is made of a graph with its weights inside, and those of this one, being over "
            "1.9 GB, stand beside it. Make int8-weights or fp16 of it."
        )
    with tempfile.TemporaryDirectory() as scratch:
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(scratch) / "simplified.onnx")
        try:
            onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            model = onnx.load(options.optimized_model_filepath)
        except Exception as error:  # ONNX Runtime's exceptions have no base class but this one.
            raise ModelError(f"{source}: cannot be quantized: {' '.join(str(error).split())}") from error
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def run_graph(model: onnx.ModelProto, batches: Iterable[Feeds]) -> Iterable[dict[str, npt.NDArray[Any]]]:
    """The outputs of ``model`` for each batch, by name. Raises SessionError."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    known = {item.name for item in session.get_inputs()}
    runs = BoundedRuns("that INT8 is made of")
    for feeds in batches:
        given = {name: value for name, value in feeds.items() if name in known}
        values = runs.run(session.run, names, given) if names else []
        yield dict(zip(names, values, strict=True))


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


def _extremes(model: onnx.ModelProto, tensors: Sequence[str], batches: Sequence[Feeds]) -> dict[str, Range]:
    low, high = ([f"{end} of {name}" for name in tensors] for end in ("least", "greatest"))
    probes = [Probe(name, "ReduceMin", tensor) for name, tensor in zip(low, tensors, strict=True)]
    probes += [Probe(name, "ReduceMax", tensor) for name, tensor in zip(high, tensors, strict=True)]
    runs = list(run_graph(with_probes(model, probes), batches))
    return {
        tensor: (float(min(run[least] for run in runs)), float(max(run[greatest] for run in runs)))
        for tensor, least, greatest in zip(tensors, low, high, strict=True)
    }
