"""Static INT8 of convolutional graphs: the one module beside the runtime that imports ``onnxruntime``.

Activations are uint8 with one scale a tensor, fixed here by calibration; weights are int8 with one scale an output
channel. No scale is made while the graph runs, so a row's result does not depend on its batch.

Weights use 7 of their 8 bits. Processors without VNNI add two uint8 x int8 products in 16 bits, which saturates with
full weights: the same file would answer differently there (ONNX Runtime's quantization guide, "reduce_range"). What the
missing bit costs is won back by :mod:`pipeline.factory.bias_correction`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.errors import ModelError
from pipeline.factory.bias_correction import MEAN, correct_biases, with_input_means

__all__ = ["METHOD", "input_means", "quantize_static_int8"]

METHOD = "static QDQ U8S8 per channel, 7-bit weights, MinMax calibration, bias correction"
# A Clip or Relu is listed so that a convolution's range is taken after it: the quantizer then folds it into the scale.
OPERATORS = ["Add", "Clip", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Relu"]
Feeds = Mapping[str, npt.NDArray[Any]]


def quantize_static_int8(source: Path, target: Path, batches: Iterable[Feeds]) -> None:
    """Write the INT8 form of an FP32 graph.

    Args:
        source: the FP32 graph.
        target: the file to write.
        batches: calibration inputs, by input name; the ranges of all activations are taken from these.

    Raises:
        ModelError: the graph cannot be quantized or run, or the file cannot be written.
    """
    calibration = list(batches)
    if not calibration:
        raise ModelError(f"{source}: INT8 needs at least one batch to calibrate on.")
    try:
        with _quiet():
            _quantize(source, target, calibration)
        full, quantized = onnx.load(source), onnx.load(target)
        correct_biases(full, quantized, input_means(full, calibration))
        onnx.save(quantized, target)
    except Exception as error:  # the library raises nearly anything
        raise ModelError(f"{source}: cannot be quantized to INT8: {error}") from error


def _quantize(source: Path, target: Path, batches: list[Feeds]) -> None:
    from onnxruntime import quantization  # a worker that only serves never needs it

    quantization.quantize_static(
        str(source),
        str(target),
        _reader(quantization.CalibrationDataReader, iter(batches)),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=OPERATORS,
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )


def _reader(base: type, batches: Iterator[Feeds]) -> Any:
    def get_next(_: Any) -> dict[str, npt.NDArray[Any]] | None:
        feeds = next(batches, None)
        return None if feeds is None else dict(feeds)

    return type("Reader", (base,), {"get_next": get_next})()


def input_means(full: onnx.ModelProto, batches: Sequence[Feeds]) -> dict[str, npt.NDArray[Any]]:
    """The mean input of each Conv and Gemm over all rows of ``batches``, by node name."""
    import onnxruntime

    model = with_input_means(full)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = [len(next(iter(feeds.values()))) for feeds in batches]
    runs = [session.run(names, dict(feeds)) for feeds in batches]
    means = (np.average(np.stack(values), axis=0, weights=rows) for values in zip(*runs, strict=True))
    return {name.removeprefix(MEAN): mean for name, mean in zip(names, means, strict=True)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library logs advice to the root logger that does not apply to graphs of our own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
