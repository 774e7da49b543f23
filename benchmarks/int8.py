"""How much faster INT8 is than FP32 on a CPU, at batch 8, and how much memory it takes.

Four networks in the shapes that people know, with random weights, which cost what trained ones cost: ResNet-50 (224 x
224), BERT-base (128 tokens), and one decoding step of GPT-2 (124M) and of SmolLM2-135M behind 128 tokens. They are
built by the factory and quantized as it does. Each run is a process of its own that serves one variant, so its memory
is what a worker's would be; the two variants take turns.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.harness import Arguments, arguments, in_turn, report, run_alone
from pipeline.models.cardfile import read_card
from pipeline.runtime.onnx import OnnxBackend
from pipeline.runtime.session import CacheLayout
from pipeline.settings import RuntimeSettings

BATCH, TOKENS, CONTEXT, VOCABULARY = 8, 128, 128, 30_522
VARIANTS = ("fp32", "int8")
MODELS = {
    "resnet50": "ResNet-50, images",
    "bert": "BERT-base, texts of 128 tokens",
    "gpt2_decode": "GPT-2 (124M), tokens decoded",
    "smollm2_decode": "SmolLM2-135M, tokens decoded",
}
FOLDER, SECONDS = "MILLRACE_BENCH_FOLDER", "MILLRACE_BENCH_SECONDS"


def main() -> None:
    """Build every network, then run its two variants in turn."""
    args = arguments(__doc__)
    if args.side is not None:
        print(json.dumps(_side(args.side)))  # noqa: T201 - what the parent process reads
        return
    runs, seconds = (1, 2) if args.quick else (5, 4)
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        found = {name: _compare(name, Path(folder), runs, seconds) for name in MODELS}
    _report(found, runs, args)


def _compare(name: str, folder: Path, runs: int, seconds: int) -> dict[str, dict[str, float]]:
    environ = {FOLDER: str(folder), SECONDS: str(seconds)}
    run_alone("benchmarks.int8", f"{name}:build", **environ)  # frameworks leave threads and memory behind
    sides = {variant: partial(run_alone, "benchmarks.int8", f"{name}:{variant}", **environ) for variant in VARIANTS}
    return in_turn(sides, runs)


def _report(found: dict[str, dict[str, dict[str, float]]], runs: int, args: Arguments) -> None:
    figures, rows = {}, []
    for name, sides in found.items():
        fp32, int8 = (sides[variant] for variant in VARIANTS)
        figures[f"{name}_speedup"] = speedup = int8["per_second"] / fp32["per_second"]
        figures[f"{name}_memory"] = memory = int8["peak_mb"] / fp32["peak_mb"]
        speeds = f"{fp32['per_second']:,.0f} to {int8['per_second']:,.0f} a second"
        rows.append((MODELS[name], f"{speedup:.2f} times ({speeds}), {memory:.2f} of the memory"))
    threads = RuntimeSettings().threads or len(os.sched_getaffinity(0))
    report("int8", figures, rows, args, f"batch {BATCH}, {threads} threads, medians of {runs}")


def _side(side: str) -> dict[str, float]:
    name, _, what = side.partition(":")
    store = Path(os.environ[FOLDER])
    if what == "build":
        _build(name, store)
        return {}
    serve = _decode if name.endswith("_decode") else _run
    seconds = float(os.environ[SECONDS])
    per_second = _rate(serve(store / name / "1", what), seconds)
    return {"per_second": per_second, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000}


def _rate(run: Callable[[], Any], seconds: float) -> float:
    """Rows a second: the median over runs of one batch, after three to warm up."""
    for _ in range(3):
        run()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return BATCH / statistics.median(times)


def _run(folder: Path, variant: str) -> Callable[[], Any]:
    session = OnnxBackend(RuntimeSettings(provider="cpu")).open_session(folder / f"{variant}.onnx")
    feeds = _texts() if read_card(folder).encoder else _images()
    return partial(session.run, feeds)


def _decode(folder: Path, variant: str) -> Callable[[], Any]:
    """A step behind the same tokens each time: it may be repeated."""
    text = read_card(folder).text
    if text is None:
        raise ValueError(f"{folder} holds no decoder")
    layout = CacheLayout(
        layers=text.layers, slots=BATCH, kv_heads=text.kv_heads, max_length=256, head_size=text.head_size,
        vocabulary=text.vocabulary,
    )  # fmt: skip
    decoder = OnnxBackend(RuntimeSettings(provider="cpu")).open_decoder(folder / f"{variant}.onnx", layout)
    prompt = _ids((1, CONTEXT), text.vocabulary)
    for slot in range(BATCH):
        decoder.step(slot, prompt, np.zeros(1, np.int64))
    return partial(decoder.step, 0, _ids((BATCH, 1), text.vocabulary), np.full(BATCH, CONTEXT, np.int64))


def _ids(shape: tuple[int, int], vocabulary: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, vocabulary, shape)


def _images() -> dict[str, npt.NDArray[Any]]:
    return {"pixels": np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), np.uint8)}


def _texts() -> dict[str, npt.NDArray[Any]]:
    shape = (BATCH, TOKENS)
    return {"input_ids": _ids(shape, VOCABULARY), "attention_mask": np.ones(shape, np.int64)}


def _build(name: str, store: Path) -> None:
    """Build the network ``name`` in ``store`` and quantize it beside its FP32 form."""
    from pipeline.factory.build import build
    from pipeline.factory.quantize import quantize_static_int8
    from pipeline.factory.source import resolve_source
    from pipeline.factory.weight_only import quantize_weights
    from pipeline.settings import ModelSettings, Settings

    raw = store / f"{name}-raw"
    raw.mkdir()
    source = resolve_source("torchvision:resnet50", checkpoint=_resnet(raw)) if name == "resnet50" else None
    source = source or resolve_source(str(_transformer(name, raw)))
    model = build(source, Settings(models=ModelSettings(store=str(store))), name=name, version="1")
    fp32, int8 = model.folder / "fp32.onnx", model.folder / "int8.onnx"
    if name.endswith("_decode"):
        onnx.save(quantize_weights(onnx.load(fp32)), int8)
    else:
        quantize_static_int8(fp32, int8, [_images() if name == "resnet50" else _texts()])


def _resnet(folder: Path) -> Path:
    """Random weights, and the statistics of norms that fit them: with others, activations grow beyond all bounds."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet50

    torch.manual_seed(0)
    network = resnet50(weights=None).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over all batches
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, 224, 224))
    save_file(network.state_dict(), folder / "resnet50.safetensors")
    return folder / "resnet50.safetensors"


def _transformer(name: str, folder: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    network: Any
    if name == "bert":
        network = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=VOCABULARY))
    elif name == "gpt2_decode":
        network = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    else:
        config = transformers.LlamaConfig(
            hidden_size=576, intermediate_size=1_536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, vocab_size=49_152, max_position_embeddings=2_048, tie_word_embeddings=True,
        )  # fmt: skip
        network = transformers.LlamaForCausalLM(config)
    network.save_pretrained(folder)
    _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))  # noqa: S106


if __name__ == "__main__":
    main()
