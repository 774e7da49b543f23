"""ONNX Runtime for real, on small graphs; what the fakes promise is checked on both."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from pipeline.engine import Engine
from pipeline.errors import ModelError
from pipeline.factory.decoders.graph import DecoderSpec, build_decoder
from pipeline.factory.decoders.spec import weight_shapes
from pipeline.factory.quantize.cache import quantize_cache
from pipeline.factory.quantize.rows import quantize_rows
from pipeline.factory.quantize.weight_only import quantize_weights
from pipeline.models.card import ImageSpec, ModelCard, TextSpec, Variant
from pipeline.models.store import SHIPPED, ServedModel
from pipeline.runtime.cuda import gpu_count
from pipeline.runtime.fakes import FakeDecoder, FakeSession
from pipeline.runtime.onnx import OnnxBackend, open_session
from pipeline.runtime.session import CacheLayout, DecoderSession, Session, SessionError
from pipeline.settings import RuntimeSettings
from schemas.messages import ClassificationOutput, Outcome, TextOutput
from tests.unit.pipeline.helpers import image_request, settings, text_request

CPU = RuntimeSettings(provider="cpu", threads=2)
VOCABULARY, LAYERS, LENGTH = 258, 2, 64
LAYOUT = CacheLayout(layers=LAYERS, slots=5, kv_heads=2, max_length=LENGTH, head_size=16, vocabulary=VOCABULARY)


def classifier(folder: Path) -> Path:
    """Class scores: the pixels' mean in each of 4 columns."""
    helper = onnx.helper
    weights = np.zeros((16, 4), np.float32)
    weights[np.arange(16), np.arange(16) % 4] = 0.25
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "columns",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["N", 4, 4, 1])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    path = folder / "columns.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def decoder(folder: Path, shape: Any = "llama", precision: Any = "int8") -> Path:
    kv_heads = 2 if shape == "llama" else 4
    spec = DecoderSpec(
        shape=shape,
        layers=LAYERS,
        hidden=64,
        heads=4,
        kv_heads=kv_heads,
        head_size=16,
        mlp=96,
        vocabulary=VOCABULARY,
        max_length=LENGTH,
    )
    random = np.random.default_rng(0)
    weights = {
        name: (random.standard_normal(size) * 0.3 + ("norm" in name and len(size) == 1)).astype(np.float32)
        for name, size in weight_shapes(spec).items()
    }
    path = folder / f"{shape}-{precision}.onnx"
    full = build_decoder(spec, weights)
    largest = np.full((kv_heads, 16), 20, np.float32)
    maxima = {f"present_{part}_{layer}": largest for part in ("key", "value") for layer in range(LAYERS)}
    if precision == "int8":
        full = quantize_weights(full)
    elif precision == "cache":
        full = quantize_cache(quantize_rows(full), maxima)
    onnx.save(full, path)
    return path


def half_decoder(folder: Path) -> Path:
    """One attention layer in float16, as the CUDA provider wants it: embeddings that are packed QKV, and a head."""
    helper, half = onnx.helper, onnx.TensorProto.FLOAT16
    random = np.random.default_rng(0)
    tables = {"embed": random.standard_normal((VOCABULARY, 128)), "head": random.standard_normal((64, VOCABULARY))}
    cache = ["N", 2, "L", 16]
    names = ("key_0", "value_0")
    attended = ["attended", *(f"present_{name}" for name in names)]
    past = [*(f"past_{name}" for name in names), "seqlens_k", "total_sequence_length"]
    nodes = [
        helper.make_node("Gather", ["embed", "input_ids"], ["qkv"]),
        helper.make_node(
            "GroupQueryAttention", ["qkv", "", "", *past], attended, domain="com.microsoft", num_heads=4, kv_num_heads=2
        ),
        helper.make_node("Unsqueeze", ["logits_at", "last"], ["at"]),
        helper.make_node("GatherND", ["attended", "at"], ["row"], batch_dims=1),
        helper.make_node("MatMul", ["row", "head"], ["logits"]),
    ]
    inputs: dict[str, tuple[int, list[Any]]] = {
        "input_ids": (onnx.TensorProto.INT64, ["N", "S"]),
        "seqlens_k": (onnx.TensorProto.INT32, ["N"]),
    }
    inputs |= {"total_sequence_length": (onnx.TensorProto.INT32, []), "logits_at": (onnx.TensorProto.INT64, ["N"])}
    inputs |= {f"past_{name}": (half, cache) for name in names}
    outputs = {"logits": (half, ["N", VOCABULARY])} | {f"present_{name}": (half, cache) for name in names}
    constants = [onnx.numpy_helper.from_array(table.astype(np.float16), name) for name, table in tables.items()]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info(name, *of) for name, of in inputs.items()],
        [helper.make_tensor_value_info(name, *of) for name, of in outputs.items()],
        [*constants, onnx.numpy_helper.from_array(np.array([-1], np.int64), "last")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of 256 tokens without merges."""
    alphabet = sorted(ByteLevel.alphabet())
    it = Tokenizer(BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    it.pre_tokenizer = ByteLevel(add_prefix_space=False)
    it.decoder = ByteLevelDecoder()
    it.save(str(folder / "tokenizer.json"))


def served(folder: Path, task: Any, file: Path, **part: Any) -> ServedModel:
    card = ModelCard(
        name=f"tiny-{task.split('-')[0]}",
        version="1",
        task=task,
        description="",
        license="Apache-2.0",
        source="a test",
        variants={"int8": Variant(file=file.name, sha256="a" * 64)},
        **part,
    )
    return ServedModel(card=card, folder=folder)


def image_model(folder: Path) -> ServedModel:
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    spec = ImageSpec(height=4, width=4, channels=1, resize=4, labels="labels.txt")
    return served(folder, "image-classification", classifier(folder), image=spec)


def text_model(folder: Path, shape: Any = "llama", precision: Any = "int8") -> ServedModel:
    tokenizer(folder)
    spec = TextSpec(
        tokenizer="tokenizer.json",
        layers=LAYERS,
        kv_heads=2 if shape == "llama" else 4,
        head_size=16,
        vocabulary=VOCABULARY,
        max_length=LENGTH,
        eos_token_ids=(257,),
    )
    return served(folder, "text-generation", decoder(folder, shape, precision), text=spec)


@pytest.fixture(params=["fake", "onnx"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Session:
    return FakeSession(4) if request.param == "fake" else open_session(classifier(tmp_path), CPU)


@pytest.fixture(params=["fake", "llama-int8", "llama-fp32", "llama-cache", "gpt2-cache", "half-cpu", "half-cuda"])
def cached(request: pytest.FixtureRequest, tmp_path: Path) -> DecoderSession:
    if request.param == "fake":
        return FakeDecoder(LAYOUT)
    if request.param.startswith("half"):
        if request.param == "half-cuda" and gpu_count() == 0:
            pytest.skip("no NVIDIA GPU here")
        layout = CacheLayout(layers=1, slots=5, kv_heads=2, max_length=LENGTH, head_size=16, vocabulary=VOCABULARY)
        device = RuntimeSettings(provider=request.param.removeprefix("half-"))
        return OnnxBackend(device).open_decoder(half_decoder(tmp_path), layout)
    shape, precision = request.param.split("-")
    layout = replace(LAYOUT, kv_heads=2 if shape == "llama" else 4)
    return OnnxBackend(CPU).open_decoder(decoder(tmp_path, shape, precision), layout)


def test_a_session_gives_one_row_for_each_image(session: Session) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), np.uint8)
    together = session.run({"pixels": images})["logits"]
    assert together.shape == (7, 4)
    assert together.dtype == np.float32
    assert (together == np.concatenate([session.run({"pixels": images[i : i + 1]})["logits"] for i in range(7)])).all()


def test_a_session_that_fails_says_so_and_goes_on(tmp_path: Path) -> None:
    session = open_session(classifier(tmp_path), CPU)
    with pytest.raises(SessionError, match="pixels"):
        session.run({"pixels": np.zeros((1, 9, 9, 1), np.uint8)})
    assert session.run({"pixels": np.zeros((1, 4, 4, 1), np.uint8)})["logits"].shape == (1, 4)


def read(session: DecoderSession, slot: int, ids: list[int], chunk: int = LENGTH) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = np.empty((1, 0), np.float32)
    for at in range(0, len(ids), chunk):
        part = np.array([ids[at : at + chunk]], np.int64)
        logits = session.step(slot, part, np.array([at], np.int64)).copy()
    return np.asarray(logits[0])


PROMPTS = [[3, 1, 4, 256], [1, 5, 9, 2, 6, 256], [5, 3, 5, 8, 9, 7, 9, 256], [2, 256]]


def decode(session: DecoderSession, first: int, prompts: list[list[int]]) -> npt.NDArray[np.float32]:
    last = np.array([[prompt[0]] for prompt in prompts], np.int64)
    return session.step(first, last, np.array([len(prompt) for prompt in prompts], np.int64)).copy()


def test_a_step_does_not_depend_on_who_shares_it(cached: DecoderSession) -> None:
    for slot, prompt in enumerate(PROMPTS):
        read(cached, slot, prompt)
    together = decode(cached, 0, PROMPTS)
    alone = np.concatenate([decode(cached, slot, [prompt]) for slot, prompt in enumerate(PROMPTS)])
    pairs = np.concatenate([decode(cached, slot, PROMPTS[slot : slot + 2]) for slot in (0, 2)])
    # cuBLAS picks its kernel, and so its rounding, by the number of rows; everywhere else rows are bit-equal.
    tolerance = 0.0 if cached.provider == "cpu" else 0.1
    assert np.allclose(together, alone, rtol=0, atol=tolerance)
    assert np.allclose(together, pairs, rtol=0, atol=tolerance)


def test_a_step_does_not_depend_on_its_slot(cached: DecoderSession) -> None:
    assert (read(cached, 0, PROMPTS[1]) == read(cached, 4, PROMPTS[1])).all()


def test_a_prompt_read_in_chunks_is_the_same_prompt(cached: DecoderSession) -> None:
    whole, chunked = read(cached, 0, PROMPTS[2]), read(cached, 1, PROMPTS[2], chunk=3)
    assert np.allclose(whole, chunked, atol=1e-3)
    assert np.allclose(decode(cached, 0, [PROMPTS[2]]), decode(cached, 1, [PROMPTS[2]]), atol=1e-3)


def test_a_moved_sequence_goes_on_in_its_new_slot(cached: DecoderSession) -> None:
    read(cached, 3, PROMPTS[2])
    expected = decode(cached, 3, [PROMPTS[2]])
    read(cached, 0, [9] * 20)
    cached.move(3, 0, len(PROMPTS[2]))
    assert (decode(cached, 0, [PROMPTS[2]]) == expected).all()


def test_a_slot_used_before_leaves_no_trace(cached: DecoderSession) -> None:
    fresh = read(cached, 1, PROMPTS[0])
    read(cached, 2, list(range(60)))
    assert (read(cached, 2, PROMPTS[0]) == fresh).all()


def test_a_repeated_step_gives_the_same_again(cached: DecoderSession) -> None:
    read(cached, 0, PROMPTS[0])
    assert (decode(cached, 0, [PROMPTS[0]]) == decode(cached, 0, [PROMPTS[0]])).all()


def test_what_a_failed_step_wrote_beyond_the_tokens_is_written_anew_before_it_is_read(cached: DecoderSession) -> None:
    """A step may fail half way, or be run with a blank token in the place of one that is not tried."""
    for slot in (0, 1):
        read(cached, slot, PROMPTS[1])
    length = np.array([len(PROMPTS[1])], np.int64)
    for garbage in ([[7]], [[0]], [[9, 9, 9]]):
        cached.step(1, np.array(garbage, np.int64), length)
    assert (decode(cached, 1, [PROMPTS[1]]) == decode(cached, 0, [PROMPTS[1]])).all()
    continued = np.array([PROMPTS[1][:3]], np.int64)
    after = [cached.step(slot, continued, length).copy() for slot in (0, 1)]
    assert (after[0] == after[1]).all()


def test_a_token_that_the_graph_cannot_take_fails_the_step_and_leaves_its_mates_as_they_were(tmp_path: Path) -> None:
    session = OnnxBackend(CPU).open_decoder(decoder(tmp_path, precision="fp32"), LAYOUT)
    for slot, prompt in enumerate(PROMPTS):
        read(session, slot, prompt)
    expected = decode(session, 0, PROMPTS)
    bad = [PROMPTS[0], [VOCABULARY, *PROMPTS[1][1:]], *PROMPTS[2:]]
    with pytest.raises(SessionError, match="out of data bounds"):
        decode(session, 0, bad)
    assert (decode(session, 0, PROMPTS) == expected).all()


def test_a_missing_or_damaged_file_stops_the_start_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx"):
        open_session(tmp_path / "none.onnx", CPU)
    (tmp_path / "bad.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        OnnxBackend(CPU).open_decoder(tmp_path / "bad.onnx", LAYOUT)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer"):
        OnnxBackend(CPU).open_tokenizer(tmp_path / "tokenizer.json")


def test_a_graph_that_lacks_a_layers_cache_stops_the_start(tmp_path: Path) -> None:
    more = CacheLayout(layers=3, slots=1, kv_heads=2, max_length=LENGTH, head_size=16, vocabulary=VOCABULARY)
    with pytest.raises(ModelError, match="past_key_2"):
        OnnxBackend(CPU).open_decoder(decoder(tmp_path), more)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_cache_that_does_not_fit_stops_the_start_and_says_what_to_lower(tmp_path: Path, device: Any) -> None:
    if device == "cuda" and gpu_count() == 0:
        pytest.skip("no NVIDIA GPU here")
    vast = CacheLayout(layers=1, slots=2**30, kv_heads=2, max_length=4_096, head_size=16, vocabulary=VOCABULARY)
    with pytest.raises(ModelError, match=f"cannot be made on {device}.*batching.max_slots or batching.max_length"):
        OnnxBackend(RuntimeSettings(provider=device)).open_decoder(half_decoder(tmp_path), vast)


@pytest.fixture
def gpu_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU (the CPU, really) that opens one session; after that CUDA does not start in this process any more."""
    real, opened = onnxruntime.InferenceSession, list[Any]()

    def open_one(path: Path, options: Any, *, providers: list[Any], enable_fallback: int, **others: Any) -> Any:
        assert not enable_fallback
        session = real(path, options, providers=["CPUExecutionProvider"], **others)
        if len(providers) == 1:
            return session
        if opened:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        opened.append(session)
        session.get_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_one)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr("pipeline.runtime.onnx.gpu_count", lambda: 1)


@pytest.mark.usefixtures("gpu_that_fails")
def test_what_was_on_the_gpu_comes_back_there_or_not_at_all(tmp_path: Path) -> None:
    """On the CPU its outcomes would go on naming the GPU, and the process would stay slow until somebody noticed."""
    path = classifier(tmp_path)
    backend = OnnxBackend(RuntimeSettings(provider="auto"))
    assert backend.open_session(path).provider == "cuda"
    with pytest.raises(ModelError, match=r"illegal memory access was encountered.*start the process again"):
        backend.open_session(path)


@pytest.mark.usefixtures("gpu_that_fails")
def test_a_gpu_that_does_not_start_is_done_without_unless_it_is_insisted_on(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    open_session(path, RuntimeSettings(provider="cuda"))
    assert OnnxBackend(RuntimeSettings(provider="auto")).open_session(path).provider == "cpu"
    with pytest.raises(ModelError, match="illegal memory access"):
        open_session(path, RuntimeSettings(provider="cuda"))


def wide(folder: Path) -> Path:
    """Zeros, by way of 1 MiB of memory for each image."""
    helper, numpy = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["wide"]),
        helper.make_node("ReduceMin", ["wide", "axes"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["N", 4, 4, 1])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 1])],
        [numpy.from_array(np.zeros((16, 2**18), np.float32), "weights"), numpy.from_array(np.array([1]), "axes")],
    )
    path = folder / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.skipif(gpu_count() == 0, reason="no NVIDIA GPU here")
def test_a_batch_beyond_the_gpus_memory_fails_alone_and_smaller_ones_go_on(tmp_path: Path) -> None:
    session = open_session(wide(tmp_path), RuntimeSettings(provider="cuda"))
    images = np.zeros((2**19, 4, 4, 1), np.uint8)  # 512 GiB
    for _ in range(2):
        with pytest.raises(SessionError, match="Failed to allocate memory"):
            session.run({"pixels": images})
        assert session.run({"pixels": images[:4]})["logits"].shape == (4, 1)


@pytest.mark.skipif(gpu_count() == 0, reason="no NVIDIA GPU here")
@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 0.0), ("fp32", 1e-5)])
def test_a_row_on_the_gpu_is_the_same_in_any_batch_and_as_on_the_cpu(precision: str, tolerance: float) -> None:
    """In float32 to the last bits only: cuDNN picks its kernel, and so the order of its sums, by the batch's size."""
    path = SHIPPED / "digits-tiny" / "1.0.0" / f"{precision}.onnx"
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    gpu, cpu = (open_session(path, RuntimeSettings(provider=device)) for device in ("cuda", "cpu"))
    expected = cpu.run({"pixels": images})["logits"]
    for size in (1, 2, 7, 16, 64):
        rows = [gpu.run({"pixels": images[at : at + size]})["logits"] for at in range(0, 64, size)]
        assert np.abs(np.concatenate(rows) - expected).max() <= tolerance


LOSE_THE_GPU = """
import asyncio, ctypes, sys
from pipeline.engine import Engine
from pipeline.errors import EngineError
from pipeline.models.store import find_model
from tests.unit.pipeline.helpers import image_request, settings

PTX = b'''
.version 7.0
.target sm_50
.address_size 64
.visible .entry fault() { .reg .b64 %a; mov.u64 %a, 16; st.global.u32 [%a], 1; ret; }
'''

def fault():
    "Write where no memory is: from then on every CUDA call of the process fails."
    cuda = ctypes.CDLL("libcuda.so.1")
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    cuda.cuInit(0)
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    cuda.cuCtxSetCurrent(context)
    assert cuda.cuModuleLoadData(ctypes.byref(module), PTX) == 0
    assert cuda.cuModuleGetFunction(ctypes.byref(function), module, b"fault") == 0
    assert cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 0
    assert cuda.cuCtxSynchronize() == 700

async def main():
    engine = Engine(settings(runtime={"provider": "auto"}), [find_model("digits-tiny", settings())])
    await engine.start()
    print((await engine.submit(image_request())).model.provider)
    fault()
    results = await asyncio.gather(*(engine.submit(image_request()) for _ in range(40)), return_exceptions=True)
    await engine.close()
    print({type(result).__name__ for result in results}, engine.failed.result())

asyncio.run(main())
"""


@pytest.mark.skipif(gpu_count() == 0, reason="no NVIDIA GPU here")
def test_a_gpu_that_is_lost_to_the_process_fails_the_engine_and_blames_no_record() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOSE_THE_GPU], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("cuda\n{'EngineError'} model digits-tiny"), ended.stdout
    assert "illegal memory access" in ended.stdout


@pytest.mark.usefixtures("gpu_that_fails")
@pytest.mark.parametrize("precision", ["int8", "cache"])
def test_a_cache_that_is_not_float16_is_kept_off_the_gpu(tmp_path: Path, precision: str) -> None:
    path = decoder(tmp_path, precision=precision)
    assert OnnxBackend(RuntimeSettings(provider="auto")).open_decoder(path, LAYOUT).provider == "cpu"


@pytest.mark.usefixtures("gpu_that_fails")
@pytest.mark.parametrize(("precision", "cache"), [("int8", "float32"), ("cache", "int8")])
def test_a_gpu_that_is_insisted_on_is_refused_to_a_cache_that_is_not_float16(
    tmp_path: Path, precision: str, cache: str
) -> None:
    path = decoder(tmp_path, precision=precision)
    with pytest.raises(ModelError, match=f"cache is {cache} runs on the CPU alone. Set runtime.provider to auto"):
        OnnxBackend(RuntimeSettings(provider="cuda")).open_decoder(path, LAYOUT)


@pytest.mark.skipif(gpu_count() == 0, reason="no NVIDIA GPU here")
def test_a_session_on_the_gpu_says_so(tmp_path: Path) -> None:
    session = open_session(classifier(tmp_path), RuntimeSettings(provider="cuda"))
    assert session.provider == "cuda"
    assert session.run({"pixels": np.full((3, 4, 4, 1), 8, np.uint8)})["logits"].tolist() == [[8.0] * 4] * 3


@pytest.mark.skipif(gpu_count() > 0, reason="there is a GPU here")
def test_a_gpu_that_is_insisted_on_but_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="CUDA"):
        open_session(classifier(tmp_path), RuntimeSettings(provider="cuda"))
    assert open_session(classifier(tmp_path), RuntimeSettings(provider="auto")).provider == "cpu"


async def serve(model: ServedModel, submits: Callable[[Engine], Any], **sections: dict[str, Any]) -> list[Outcome]:
    engine = Engine(settings(runtime={"provider": "cpu", "threads": 2}, **sections), [model])
    await engine.start()
    try:
        outcomes: list[Outcome] = await asyncio.gather(*submits(engine))
        return outcomes
    finally:
        await engine.close()


async def test_the_engine_classifies_images_with_onnx_runtime(tmp_path: Path) -> None:
    outcomes = await serve(image_model(tmp_path), lambda engine: [engine.submit(image_request(9)) for _ in range(40)])
    assert {outcome.model.provider for outcome in outcomes if outcome.model} == {"cpu"}
    for outcome in outcomes:
        assert isinstance(outcome.output, ClassificationOutput)
        assert [label.score for label in outcome.output.labels] == [0.25] * 4


def reference(folder: Path, file: str, prompt: str, count: int) -> list[int]:
    """Greedy decoding of one prompt alone, step by step."""
    backend = OnnxBackend(CPU)
    session = backend.open_decoder(folder / file, LAYOUT)
    tokens = backend.open_tokenizer(folder / "tokenizer.json").encode(prompt)
    logits = read(session, 0, tokens)
    for _ in range(count - 1):
        tokens.append(int(logits.argmax()))
        logits = session.step(0, np.array([tokens[-1:]], np.int64), np.array([len(tokens) - 1], np.int64))[0].copy()
    return [*tokens, int(logits.argmax())][-count:]


@pytest.mark.parametrize("precision", ["int8", "cache"])
async def test_continuous_batching_says_what_each_prompt_alone_would_get(tmp_path: Path, precision: str) -> None:
    """Sequences end at different times, so those that go on are moved between slots."""
    model = text_model(tmp_path, precision=precision)
    prompts = [chr(97 + i) * (1 + i * 5 % 30) for i in range(12)]
    outcomes = await serve(
        model,
        lambda engine: [engine.submit(text_request(prompt, max_tokens=2 + i % 9)) for i, prompt in enumerate(prompts)],
        batching={"max_slots": 3},
    )
    codec = OnnxBackend(CPU).open_tokenizer(tmp_path / "tokenizer.json")
    for i, (prompt, outcome) in enumerate(zip(prompts, outcomes, strict=True)):
        assert isinstance(outcome.output, TextOutput)
        tokens = reference(tmp_path, f"llama-{precision}.onnx", prompt, 2 + i % 9)
        tokens = tokens[: tokens.index(257)] if 257 in tokens else tokens
        assert outcome.output.text == codec.decode(tokens)
    assert max(outcome.batch_size for outcome in outcomes) > 1


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
@pytest.mark.parametrize("precision", ["int8", "cache"])
async def test_sampled_answers_do_not_depend_on_batch_mates(tmp_path: Path, shape: str, precision: str) -> None:
    model = text_model(tmp_path, shape, precision)
    requests = [text_request(chr(97 + i) * (3 + i), max_tokens=12, temperature=1.0, top_p=0.9) for i in range(8)]
    crowd = await serve(model, lambda engine: [engine.submit(request) for request in requests])
    alone = await serve(
        model, lambda engine: [engine.submit(request) for request in reversed(requests)], batching={"max_slots": 1}
    )
    assert [outcome.output for outcome in crowd] == [outcome.output for outcome in reversed(alone)]
    assert len({str(outcome.output) for outcome in crowd}) > 1
