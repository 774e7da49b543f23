"""ONNX Runtime: the one file that imports it.

Traps it knows (measured on 1.31): a session that cannot have the device it was asked for, or loses it, falls back to
the CPU on its own, so that is forbidden and its providers are checked; an idle thread pool that spins burns its cores,
so it spins for 1 ms only; on CUDA, float32 is by default rounded to TF32, whose 10 bits of mantissa make a row's scores
depend on how many rows run with it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.runtime.cores import available_cores
from pipeline.runtime.cuda import gpu_count
from pipeline.runtime.huggingface import open_tokenizer
from pipeline.runtime.kvcache import DeviceBuffer, HostBuffer, KvCache
from pipeline.runtime.limit import PATIENT, Bound, Run, limit_of
from pipeline.runtime.session import CacheLayout, Floats, IntArray, Logits, SessionError, TextCodec
from pipeline.settings import RuntimeSettings

__all__ = ["BoundedRuns", "OnnxBackend", "OnnxDecoder", "OnnxSession", "open_session"]

T = TypeVar("T")
LOG = logging.getLogger(__name__)
FLOATS: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
CACHES: dict[str, type[np.generic]] = {**FLOATS, "tensor(int8)": np.int8}
KEPT_BINDINGS = 64
IMAGE = "image_embeds"
Device = Literal["cpu", "cuda"]
PROVIDERS: dict[Device, list[Any]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"],
}
# On the CPU a SkipLayerNormalization takes twice the time of an Add and a LayerNormalization (ONNX Runtime 1.31).
UNWANTED: dict[Device, list[str]] = {"cpu": ["SkipLayerNormFusion"], "cuda": []}


class OnnxBackend:
    """Opens ONNX Runtime sessions on the device that the settings name, or on the best one there is.

    A file that is opened again comes back on the device that it had, or not at all: that is what its outcomes name, and
    a process whose GPU is lost to it is better restarted than slow for ever.

    Args:
        settings: the device.
        bound: of each run; by default what is enough for any.
    """

    def __init__(self, settings: RuntimeSettings, bound: Bound | None = None) -> None:
        self._settings = settings
        self._bound = bound
        self._devices: dict[Path, Device] = {}

    def open_session(self, path: Path) -> OnnxSession:
        """Load a graph without state. Raises ModelError."""
        session = open_session(path, self._settings_for(path), self._bound)
        self._devices[path] = session.provider
        return session

    def open_decoder(self, path: Path, layout: CacheLayout) -> OnnxDecoder:
        """Load a decoder and make its cache. Raises ModelError."""
        settings = self._settings_for(path)
        session, device = _load(path, settings, fixed_shapes=False)
        if device == "cuda" and (cache := _cache_type(session)) != np.float16:
            session, device = _load(path, _on_cpu(path, settings, cache), fixed_shapes=False)
        self._devices[path] = device
        return OnnxDecoder(session, device, layout, BoundedRuns(_name(path), self._bound))

    def open_tokenizer(self, path: Path) -> TextCodec:
        """Load a ``tokenizer.json``. Raises ModelError."""
        return open_tokenizer(path)

    def _settings_for(self, path: Path) -> RuntimeSettings:
        return replace(self._settings, provider=self._devices.get(path, self._settings.provider))


def open_session(path: Path, settings: RuntimeSettings, bound: Bound | None = None) -> OnnxSession:
    """Load a graph without state on the device that ``settings`` name; ``bound`` as for :class:`OnnxBackend`.

    Raises:
        ModelError: the file is damaged, or the device is not there.
    """
    return OnnxSession(*_load(path, settings, fixed_shapes=True), BoundedRuns(_name(path), bound))


class BoundedRuns:
    """The runs of one graph; one that takes too long is ended.

    Args:
        graph: what messages call it.
        bound: by default what is enough for any run.
    """

    def __init__(self, graph: str, bound: Bound | None = None) -> None:
        self._graph = graph
        self._bound = bound or PATIENT
        self._runs = limit_of(self._bound.limit_s).runs

    def run(self, function: Callable[..., T], *args: object) -> T:
        """What ``function`` returns for ``args`` and the options of a run. Raises SessionError, also for a late one."""
        run = Run(ort.RunOptions())
        self._runs.add(run)
        try:
            return function(*args, run.options)
        except Exception as error:  # ONNX Runtime's exceptions have no base class but this one.
            raise SessionError(self._bound.broken_by(self._graph) if run.overdue else _reason(error)) from error
        finally:
            self._runs.discard(run)


class OnnxSession:
    """A graph without state."""

    def __init__(self, session: Any, provider: Device, runs: BoundedRuns) -> None:
        self._session = session
        self._runs = runs
        self._outputs = [output.name for output in session.get_outputs()]
        self.provider = provider

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, Floats]:
        """Every output of one batch, by name, as float32. Raises SessionError."""
        values = self._runs.run(self._session.run, self._outputs, dict(feeds))
        return {name: np.asarray(value, np.float32) for name, value in zip(self._outputs, values, strict=True)}


class OnnxDecoder:
    """A decoder whose past and present share memory: each step is bound to a range of slots by address."""

    def __init__(self, session: Any, provider: Device, layout: CacheLayout, runs: BoundedRuns) -> None:
        self._session = session
        self._runs = runs
        self.provider = provider
        names = [f"{part}_{layer}" for layer in range(layout.layers) for part in ("key", "value")]
        types = {node.name: node.type for node in session.get_inputs()}
        if missing := [f"past_{name}" for name in names if f"past_{name}" not in types]:
            raise ModelError(f"the graph has no input {missing[0]}; the card says {layout.layers} layers.")
        self._cache = _make_cache(names, layout, _cache_type(session), provider)
        logits = next(node for node in session.get_outputs() if node.name == "logits")
        self._logits = np.empty((layout.slots, layout.vocabulary), FLOATS[logits.type])
        self._bindings: OrderedDict[tuple[int, int], Any] = OrderedDict()
        image = next((node for node in session.get_inputs() if node.name == IMAGE), None)
        self._image = None if image is None else (int(image.shape[-1]), FLOATS[image.type])

    def step(self, first: int, input_ids: IntArray, lengths: IntArray, image_embeds: Floats | None = None) -> Logits:
        """Append tokens to slots and predict what follows; see :class:`pipeline.runtime.session.DecoderSession`."""
        count, size = input_ids.shape
        ends = (lengths + size - 1).astype(np.int32)
        try:
            binding = self._binding(first, count)
            binding.bind_cpu_input("input_ids", np.ascontiguousarray(input_ids))
            binding.bind_cpu_input("seqlens_k", ends)
            binding.bind_cpu_input("total_sequence_length", np.array(ends.max() + 1, np.int32))
            binding.bind_cpu_input("logits_at", np.full(count, size - 1, np.int64))
            if (image := self._image_rows(count, size, image_embeds)) is not None:
                binding.bind_cpu_input(IMAGE, image)
        except Exception as error:  # ONNX Runtime's exceptions have no base class but this one.
            raise SessionError(_reason(error)) from error
        self._runs.run(self._session.run_with_iobinding, binding)
        return np.asarray(self._logits[:count], np.float32)

    def _image_rows(self, count: int, size: int, given: Floats | None) -> npt.NDArray[Any] | None:
        """What the graph's input takes: [count, size, hidden] of its type, or ``None`` where it has none."""
        if self._image is None:
            return given
        hidden, dtype = self._image
        return np.zeros((count, size, hidden), dtype) if given is None else np.ascontiguousarray(given, dtype)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot over another. Raises SessionError."""
        try:
            self._cache.move(source, target, length)
        except Exception as error:
            raise SessionError(_reason(error)) from error

    def _binding(self, first: int, count: int) -> Any:
        """The binding of a range of slots; the last ones used are kept."""
        binding = self._bindings.pop((first, count), None) or self._bind(first, count)
        self._bindings[first, count] = binding
        if len(self._bindings) > KEPT_BINDINGS:
            self._bindings.popitem(last=False)
        return binding

    def _bind(self, first: int, count: int) -> Any:
        binding = self._session.io_binding()
        rows = self._logits[:count]
        binding.bind_output("logits", "cpu", 0, rows.dtype, rows.shape, rows.ctypes.data)
        for name, address, shape in self._cache.views(first, count):
            binding.bind_input(f"past_{name}", self.provider, 0, self._cache.dtype, shape, address)
            binding.bind_output(f"present_{name}", self.provider, 0, self._cache.dtype, shape, address)
        return binding


def _load(path: Path, settings: RuntimeSettings, *, fixed_shapes: bool) -> tuple[Any, Device]:
    device = _device(settings)
    if device == "cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    options = _options(settings, fixed_shapes=fixed_shapes)
    try:
        session = ort.InferenceSession(
            path, options, providers=PROVIDERS[device], disabled_optimizers=UNWANTED[device], enable_fallback=0
        )
    except Exception as error:
        # A provider that does not start is a RuntimeError; what is wrong with the file is none.
        if device == "cuda" and isinstance(error, RuntimeError):
            _refuse_or_warn(path, settings, _reason(error))
            return _load(path, replace(settings, provider="cpu"), fixed_shapes=fixed_shapes)
        raise ModelError(f"{path}: ONNX Runtime {ort.__version__} cannot load it: {_reason(error)}") from error
    got: Device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    if got != device:
        _refuse_or_warn(path, settings, "it gives no reason")
    return session, got


def _name(path: Path) -> str:
    """A graph in the store, by model, version and file; messages about records are read where the store is not."""
    return "/".join(path.parts[-3:])


def _reason(error: Exception) -> str:
    """ONNX Runtime's message on one line, for it holds empty ones."""
    return " ".join(str(error).split())


def _cache_type(session: Any) -> type[np.generic]:
    return next((CACHES[node.type] for node in session.get_inputs() if node.name.startswith("past_")), np.float32)


def _on_cpu(path: Path, settings: RuntimeSettings, cache: type[np.generic]) -> RuntimeSettings:
    """On CUDA, ONNX Runtime's GroupQueryAttention has no float32, and mixing devices spoils the shared cache."""
    message = f"{path}: a decoder whose cache is {cache.__name__} runs on the CPU alone."
    if settings.provider == "cuda":
        raise ModelError(f"{message} Set runtime.provider to auto or cpu.")
    LOG.warning("%s Going on with the CPU.", message)
    return replace(settings, provider="cpu")


def _refuse_or_warn(path: Path, settings: RuntimeSettings, why: str) -> None:
    message = (
        f"{path}: the CUDA provider of ONNX Runtime {ort.__version__} does not start: {why}. If it never has on this "
        "machine, install the extra `gpu`, which brings the CUDA and cuDNN libraries, or set runtime.provider to cpu; "
        "after a CUDA failure, start the process again."
    )
    if settings.provider == "cuda":
        raise ModelError(message)
    LOG.warning("%s Going on with the CPU.", message)


def _device(settings: RuntimeSettings) -> Device:
    if settings.provider != "auto":
        return settings.provider
    return "cuda" if "CUDAExecutionProvider" in ort.get_available_providers() and gpu_count() else "cpu"


def _options(settings: RuntimeSettings, *, fixed_shapes: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    # Memory plans are kept for every shape seen, and a decoder sees hundreds.
    options.enable_mem_pattern = fixed_shapes
    return options


class CudaBuffer:
    """Memory of the GPU. Slots are copied by an Identity graph, bound to the two addresses."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, copier: Any) -> None:
        self._memory = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)
        self._slot_shape = shape[1:]
        self._dtype = np.dtype(dtype)
        self._copier = copier

    @property
    def address(self) -> int:
        """Where it begins."""
        return int(self._memory.data_ptr())

    def move(self, source: int, target: int, length: int) -> None:  # noqa: ARG002 - a whole slot is one copy
        """Copy one slot over another."""
        size = int(np.prod(self._slot_shape)) * self._dtype.itemsize
        binding = self._copier.io_binding()
        here, there = self.address + source * size, self.address + target * size
        binding.bind_input("source", "cuda", 0, self._dtype, self._slot_shape, here)
        binding.bind_output("target", "cuda", 0, self._dtype, self._slot_shape, there)
        self._copier.run_with_iobinding(binding)


def _make_cache(names: list[str], layout: CacheLayout, dtype: npt.DTypeLike, device: Device) -> KvCache:
    try:
        return KvCache(_buffers(names, layout, dtype, device), layout, dtype)
    except Exception as error:  # ONNX Runtime's exceptions have no base class but this one.
        raise ModelError(
            f"the KV cache of {layout.slots} slots of {layout.max_length} tokens cannot be made on {device}: "
            f"{_reason(error)}. If memory is short, lower batching.max_slots or batching.max_length."
        ) from error


def _buffers(names: list[str], layout: CacheLayout, dtype: npt.DTypeLike, device: Device) -> dict[str, DeviceBuffer]:
    shape = (layout.slots, layout.kv_heads, layout.max_length, layout.head_size)
    if device == "cpu":
        return {name: HostBuffer(shape, dtype) for name in names}
    copier = ort.InferenceSession(_identity(dtype), providers=PROVIDERS[device], enable_fallback=0)
    return {name: CudaBuffer(shape, dtype, copier) for name in names}


def _identity(dtype: npt.DTypeLike) -> bytes:
    """A graph that copies ``source`` [A, B, C] to ``target``."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    source, target = (onnx.helper.make_tensor_value_info(name, kind, ["A", "B", "C"]) for name in ("source", "target"))
    node = onnx.helper.make_node("Identity", ["source"], ["target"])
    graph = onnx.helper.make_graph([node], "copy", [source], [target])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())
