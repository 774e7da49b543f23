"""The forms of a model version, made from its FP32 graphs alone: each a series of drafts, until one is good enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from msgspec import Struct

from pipeline.errors import ModelError
from pipeline.factory.progress import Progress
from pipeline.factory.quantize import cache as decoder_cache
from pipeline.factory.quantize import float16, weight_only
from pipeline.factory.quantize import rows as decoder_rows
from pipeline.factory.quantize.calibration import MAIN
from pipeline.factory.quantize.decoder_channels import SMOOTHING, channel_maxima
from pipeline.factory.quantize.plan import Layer, find_layers
from pipeline.factory.quantize.qdq import S8S8, U8S8, Scheme
from pipeline.factory.quantize.sensitivity import output_error, ranked
from pipeline.factory.quantize.smooth import smooth, smoothed_inputs
from pipeline.factory.quantize.static import Calibrated, calibrate, for_cpus, run_graph
from pipeline.models.card import VARIANTS, Provider, VariantName
from schemas.messages import Task

__all__ = ["Draft", "Material", "drafts", "providers_of"]

Feeds = Mapping[str, npt.NDArray[Any]]
DECODERS: tuple[Task, ...] = ("text-generation", "image-to-text")
PROVIDERS: dict[VariantName, tuple[Provider, ...]] = {
    "int8-weights": ("cpu",),
    "int8-trt": ("tensorrt",),
    "fp16": ("cuda",),
}
RANGINGS = ("minmax", "99.99", "least-error")
SMOOTHINGS = (0.65, 0.8)
EVENED = "channels evened out behind norms"
JUDGED_ON = 8
"""Calibration inputs that tries are compared on."""
KEPT_IN_FLOATS = (1, 2, 4, 6, 8, 12, 16)
MOST_OF_WEIGHTS = 0.25


class Draft(Struct, frozen=True, kw_only=True):
    """One try: the graphs by role, and how they were made."""

    method: str
    graphs: dict[str, onnx.ModelProto]


class Material(Struct, frozen=True, kw_only=True):
    """What variants are made from.

    Attributes:
        graphs: the FP32 files, by role.
        feeds: calibration inputs of each, as serving feeds them; of a decoder, whole prompts.
    """

    task: Task
    graphs: dict[str, Path]
    feeds: dict[str, Sequence[Feeds]]
    progress: Progress


def providers_of(variant: VariantName) -> tuple[Provider, ...]:
    """Where a variant is meant to run."""
    return PROVIDERS.get(variant, ("cpu", "cuda"))


def drafts(variant: VariantName, material: Material) -> Iterator[Draft]:
    """The tries at a variant, the simplest first; there are more of static INT8 alone.

    Raises:
        ModelError: nothing makes a variant of that name, or its graphs cannot be quantized.
    """
    if variant not in _MAKERS:
        raise ModelError(f"variant {variant!r} cannot be made from FP32. There are {', '.join(VARIANTS)}.")
    return _MAKERS[variant](material)


def _int8(material: Material) -> Iterator[Draft]:
    """Static; of a decoder what quantizes itself as it runs, the fastest first, with a vision graph that is static."""
    if material.task not in DECODERS:
        return _static(material, U8S8, list(material.graphs), "static U8S8 per channel")
    others = [role for role in material.graphs if role != MAIN]
    if not others:
        return _decoders(material)
    visions = _static(material, U8S8, others, "static U8S8 per channel")
    return (
        Draft(method=f"{decoder.method}; vision {vision.method}", graphs=decoder.graphs | vision.graphs)
        for at, vision in enumerate(visions)
        # Where the first vision graph is not near enough to FP32, no decoder is: the others get the most exact one.
        for decoder in _decoders(material, exact_alone=at > 0)
    )


def _decoders(material: Material, *, exact_alone: bool = False) -> Iterator[Draft]:
    """A decoder's main graph, from the fastest to the most exact, or that one alone.

    With samples, rows have channels evened out, and are tried with a cache in INT8 before those with one in floats.
    """
    path, feeds = material.graphs[MAIN], material.feeds.get(MAIN)
    maxima = channel_maxima(path, feeds) if feeds and not exact_alone else None
    caches = (None,) if maxima is None else (maxima.cached, None)
    for forms in (_BLOCKS,) if exact_alone else (_ROWS, _BLOCKS):
        for cached in caches:
            for method, make in forms:
                model = _loaded(path)
                if maxima is not None and forms is _ROWS:  # channels that stand out do no harm in blocks
                    model, method = smooth(model, maxima.behind_norms, SMOOTHING), f"{method}, {EVENED}"
                made = make(model)
                if cached is not None:
                    made, method = decoder_cache.quantize_cache(made, cached), f"{method}, {decoder_cache.METHOD}"
                yield Draft(method=method, graphs={MAIN: made})


def _rows(least_widening: float) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    return partial(decoder_rows.quantize_rows, least_widening=least_widening)


_Form = tuple[str, Callable[[onnx.ModelProto], onnx.ModelProto]]
_ROWS: tuple[_Form, ...] = (
    (decoder_rows.METHOD, _rows(0)),
    (f"{decoder_rows.METHOD}; products that narrow in blocks of 64", _rows(1)),
    (f"{decoder_rows.METHOD}; products that do not double the width in blocks of 64", _rows(2)),
)
_BLOCKS: tuple[_Form, ...] = ((weight_only.METHOD, weight_only.quantize_weights),)


def _trt(material: Material) -> Iterator[Draft]:
    if material.task in DECODERS:
        raise ModelError(
            f"variant int8-trt cannot be made of a model of task {material.task}: TensorRT has no attention with a "
            "cache such as its graph's. Leave it out; int8 and fp16 can be made."
        )
    method = "static QDQ S8S8 symmetric per channel, for TensorRT"
    return _static(material, S8S8, list(material.graphs), method)


def _weights(material: Material) -> Iterator[Draft]:
    return _each(material, weight_only.quantize_weights, weight_only.METHOD)


def _fp16(material: Material) -> Iterator[Draft]:
    return _each(material, float16.to_float16, float16.METHOD)


_MAKERS: dict[VariantName, Callable[[Material], Iterator[Draft]]] = {
    "int8": _int8,
    "int8-weights": _weights,
    "int8-trt": _trt,
    "fp16": _fp16,
}


def _each(material: Material, make: Callable[[onnx.ModelProto], onnx.ModelProto], method: str) -> Iterator[Draft]:
    yield Draft(method=method, graphs={role: make(_loaded(path)) for role, path in material.graphs.items()})


def _loaded(path: Path) -> onnx.ModelProto:
    """The graph as the family wrote it: ONNX Runtime's rewriting is for static INT8, and would rename a decoder's."""
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf raises nearly anything
        raise ModelError(f"{path}: the graph cannot be read: {error}") from error
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def _static(material: Material, scheme: Scheme, roles: Sequence[str], method: str) -> Iterator[Draft]:
    """Everything quantized, with the ranges that cost least; then ever more of the sensitive layers in floats."""
    material.progress("calibrating")
    graphs = {
        role: _Static(calibrate(material.graphs[role], material.feeds[role]), scheme, material.progress)
        for role in roles
    }
    for role, graph in graphs.items():
        graph.choose()
        material.progress(f"{role}: {graph.how}")
    method = f"{method}, {'; '.join(dict.fromkeys(graph.how for graph in graphs.values()))}, bias correction"
    yield Draft(method=method, graphs={role: graph.quantized(()) for role, graph in graphs.items()})
    for count in KEPT_IN_FLOATS:
        kept = {role: graph.worst(count) for role, graph in graphs.items()}
        if not any(kept.values()):
            return
        names = ", ".join(name for part in kept.values() for name in part)
        made = {role: graph.quantized(kept[role]) for role, graph in graphs.items()}
        yield Draft(method=f"{method}; in floats: {names}", graphs=made)


class _Static:
    """One graph on its way to static INT8."""

    def __init__(self, calibrated: Calibrated, scheme: Scheme, progress: Progress) -> None:
        self._calibrated, self._scheme, self._progress = calibrated, scheme, progress
        self._judged_on = calibrated.batches[:: max(1, len(calibrated.batches) // JUDGED_ON)][:JUDGED_ON]
        self._full = list(run_graph(calibrated.model, self._judged_on))
        self._ranked: list[Layer] | None = None
        self._ranging = RANGINGS[0]
        self.how = ""

    def choose(self) -> None:
        """Take the smoothing and the ranges whose output is nearest to FP32's."""
        plain = self._calibrated
        ways = [("", plain, ranging) for ranging in RANGINGS]
        if smoothed_inputs(plain.model):
            ways += [
                (f"smoothed by {it}, ", plain.smoothed(it), ranging) for it in SMOOTHINGS for ranging in RANGINGS[:2]
            ]
        errors = []
        for number, way in enumerate(ways, 1):
            self._progress(f"calibrating, way {number} of {len(ways)}")
            errors.append(self._error(*way[1:]))
        smoothing, self._calibrated, self._ranging = ways[int(np.argmin(errors))]
        self.how = f"{smoothing}{self._ranging} ranges"

    def quantized(self, kept: Sequence[str]) -> onnx.ModelProto:
        return self._made(self._calibrated, self._ranging, kept)

    def worst(self, count: int) -> list[str]:
        """The ``count`` layers that bear INT8 worst; those are passed over with which it were too many weights."""
        layers = find_layers(self._calibrated.model)
        if self._ranked is None:
            self._ranked = ranked(self._calibrated, self._scheme, self._ranging, self._judged_on, self._progress)
        left = MOST_OF_WEIGHTS * sum(layer.parameters for layer in layers)
        chosen: list[str] = []
        for layer in self._ranked:
            if len(chosen) < count and layer.parameters <= left:
                left -= layer.parameters
                chosen.append(layer.name)
        return chosen

    def _error(self, calibrated: Calibrated, ranging: str) -> float:
        return output_error(self._full, self._made(calibrated, ranging, ()), self._judged_on)

    def _made(self, calibrated: Calibrated, ranging: str, kept: Sequence[str]) -> onnx.ModelProto:
        symmetric = self._scheme.symmetric
        made = calibrated.quantized(self._scheme, excluded=kept, ranging=ranging, outputs=not symmetric)
        return made if symmetric else for_cpus(made)
