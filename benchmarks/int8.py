"""INT8 beside FP32 on this machine's CPU, at batch 8: times the speed, and share of the memory, of both forms in turn.

Networks of the real sizes with random weights: ResNet-50 (224 pixels) and BERT-base (128 tokens) in static INT8, GPT-2
(124M) and SmolLM2-135M decoding behind 256 tokens, and reading these of one text in chunks, as prompts are read. Speed
does not depend on what the weights are, but on the INT8 form that their quality admits: SmolLM2 takes that of its
recipe, GPT-2 the fastest; both have an INT8 cache. Processors with VNNI (or AVX-VNNI, AMX) multiply integers several
times faster than those without.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.harness import arguments, in_turn, report
from pipeline.factory.decoders.graph import build_decoder
from pipeline.factory.decoders.spec import DecoderSpec, weight_shapes
from pipeline.factory.families import find_family
from pipeline.factory.family import Source, Workbench
from pipeline.factory.gates.speed import memory_megabytes
from pipeline.factory.quantize.cache import quantize_cache
from pipeline.factory.quantize.decoder_channels import channel_maxima, decoder_feeds
from pipeline.factory.quantize.rows import quantize_rows
from pipeline.factory.quantize.static import quantize_static_int8
from pipeline.factory.recipes import smollm2
from pipeline.runtime.onnx import OnnxBackend, open_session
from pipeline.runtime.session import CacheLayout, DecoderSession, IntArray
from pipeline.settings import BatchingSettings, RuntimeSettings

BATCH, TOKENS, PAST = 8, 128, 256
CPU = RuntimeSettings(provider="cpu")
SIDES = ("fp32", "int8")
DECODERS = {
    "gpt2_decode": DecoderSpec(
        shape="gpt2", layers=12, hidden=768, heads=12, kv_heads=12, head_size=64, mlp=3072, vocabulary=50257,
        max_length=1024,
    ),
    "smollm2_decode": DecoderSpec(
        shape="llama", layers=30, hidden=576, heads=9, kv_heads=3, head_size=64, mlp=1536, vocabulary=49152,
        max_length=1024,
    ),
}  # fmt: skip
# Products that widen less are done in blocks of 64: see pipeline.factory.quantize.rows.
LEAST_WIDENING = {"gpt2_decode": 0.0, "smollm2_decode": smollm2.LEAST_WIDENING}
Feeds = Mapping[str, npt.NDArray[Any]]
Sides = dict[str, Callable[[], dict[str, float]]]
Contest = Callable[[Path], Sides]
RNG = np.random.default_rng(7)


def main() -> None:
    """Build each network, then run its two forms in turn."""
    args = arguments(__doc__)
    runs = 2 if args.quick else 7
    figures: dict[str, float] = {}
    rows: list[tuple[str, str]] = []
    contests: dict[str, Contest] = {
        "resnet50": partial(_encoder, build=_resnet50, feeds=_images),
        "bert": partial(_encoder, build=_bert, feeds=_texts),
        **{name: partial(_decoder, name=name) for name in DECODERS},
    }
    for name, contest in contests.items():
        found = _contest(contest, runs, _images(1) if name == "resnet50" else _texts(1) if name == "bert" else None)
        figures |= {f"{name}_{key}": value for key, value in found.items()}
        times = f"{found['fp32_ms']:,.1f} ms to {found['int8_ms']:,.1f} ms, {found['speedup']:.2f} times"
        rows.append((name, f"{times}; memory {found['memory']:.2f}"))
        if "read_speedup" in found:
            times = f"{found['fp32_read_ms']:,.1f} ms to {found['int8_read_ms']:,.1f} ms"
            rows.append((f"{name}, reading before", f"{times}, {found['read_speedup']:.2f} times"))
    report("int8", figures, rows, args, f"batch {BATCH}; medians of {runs} runs in turn")


def _contest(contest: Contest, runs: int, feeds: Feeds | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        medians = in_turn(contest(Path(folder)), runs)
        memory = _memory(Path(folder), feeds)
    gc.collect()
    figures = {f"{side}_{key}": value for side, found in medians.items() for key, value in found.items()}
    figures |= {f"{side}_mb": value for side, value in memory.items()}
    ratios = {key: value / medians["int8"][key] for key, value in medians["fp32"].items()}
    speedups = {f"{key.removesuffix('ms')}speedup": ratio for key, ratio in ratios.items()}
    return figures | speedups | {"memory": memory["int8"] / memory["fp32"]}


def _encoder(folder: Path, build: Callable[[Path], None], feeds: Callable[[int], Feeds]) -> Sides:
    build(folder)
    quantize_static_int8(folder / "fp32.onnx", folder / "int8.onnx", [feeds(1) for _ in range(4)])
    sessions = {side: open_session(folder / f"{side}.onnx", CPU) for side in SIDES}
    batch = feeds(BATCH)
    return {side: partial(_timed, partial(session.run, batch)) for side, session in sessions.items()}


def _decoder(folder: Path, name: str) -> Sides:
    spec = DECODERS[name]
    weights = {key: RNG.normal(0, 0.02, size).astype(np.float32) for key, size in weight_shapes(spec).items()}
    full = build_decoder(spec, weights)
    onnx.save(full, folder / "fp32.onnx")
    texts = RNG.integers(0, spec.vocabulary, (BATCH, PAST))
    maxima = channel_maxima(folder / "fp32.onnx", decoder_feeds(texts[:2], np.full(2, PAST), spec))
    rows = quantize_rows(full, least_widening=LEAST_WIDENING[name])
    onnx.save(quantize_cache(rows, maxima.cached), folder / "int8.onnx")
    layout = CacheLayout.of(spec, slots=BATCH, max_length=spec.max_length)
    decoders = {side: OnnxBackend(CPU).open_decoder(folder / f"{side}.onnx", layout) for side in SIDES}
    # Memory that nobody has written to is read faster than a cache that is full.
    for decoder in decoders.values():
        for slot, text in enumerate(texts):
            decoder.step(slot, text[None], np.zeros(1, np.int64))
    return {side: partial(_decode_and_read, decoder, texts[:1]) for side, decoder in decoders.items()}


def _decode_and_read(decoder: DecoderSession, text: IntArray) -> dict[str, float]:
    """A step of all slots behind :data:`PAST` tokens, and reading ``text`` [1, PAST] again, which leaves them as is."""
    chunk = BatchingSettings().prefill_chunk_tokens

    def read() -> None:
        for at in range(0, PAST, chunk):
            decoder.step(0, text[:, at : at + chunk], np.array([at]))

    step = np.ones((BATCH, 1), np.int64), np.full(BATCH, PAST, np.int64)
    return _timed(partial(decoder.step, 0, *step)) | {"read_ms": _timed(read)["ms"]}


def _timed(run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of the second of two runs: the first brings the caches back from the other side."""
    run()
    start = time.perf_counter()
    run()
    return {"ms": 1_000 * (time.perf_counter() - start)}


def _memory(folder: Path, feeds: Feeds | None) -> dict[str, float]:
    found = {side: memory_megabytes(folder / f"{side}.onnx", feeds) for side in SIDES}
    return {side: float("nan") if value is None else value for side, value in found.items()}


def _resnet50(folder: Path) -> None:
    import torch
    import torchvision

    checkpoint = folder / "checkpoint.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), checkpoint)
    _build(Source(kind="torchvision", origin="resnet50", path=checkpoint, architecture="resnet50"), folder)


def _bert(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertForSequenceClassification

    source = folder / "source"
    BertForSequenceClassification(BertConfig(num_labels=4)).save_pretrained(source)
    words = {"[PAD]": 0, "[UNK]": 1, "word": 2}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(source / "tokenizer.json"))  # noqa: S106
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    _build(
        Source(
            kind="huggingface", origin="bert-base", path=source, config=config, architecture=config["architectures"][0]
        ),
        folder,
    )


def _build(source: Source, folder: Path) -> None:
    bench = Workbench(name="bench", version="1", folder=folder, scratch=folder, progress=lambda _: None)
    find_family(source).build(source, bench)


def _images(count: int) -> Feeds:
    return {"pixels": RNG.integers(0, 256, (count, 224, 224, 3), np.uint8)}


def _texts(count: int) -> Feeds:
    return {
        "input_ids": RNG.integers(0, 30_000, (count, TOKENS)),
        "attention_mask": np.ones((count, TOKENS), np.int64),
    }


if __name__ == "__main__":
    main()
