"""Llama, Mistral, Qwen2 and Qwen3: RMS norms, rotary positions, gated SiLU; decoders that chat."""

from __future__ import annotations

from pipeline.factory.decoders.file import write_fp32
from pipeline.factory.decoders.llama import llama_spec
from pipeline.factory.decoders.text import text_card
from pipeline.factory.decoders.weights import llama_weights
from pipeline.factory.family import Family, Source, Workbench
from pipeline.factory.sources.safetensors_file import read_safetensors
from pipeline.models.card import ModelCard

__all__ = ["FAMILY"]

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def _build(source: Source, bench: Workbench) -> ModelCard:
    spec = llama_spec(source.config, source.origin)
    weights = llama_weights(read_safetensors(source.folder), spec, "model.", "lm_head.weight")
    bench.progress("writing the FP32 graph")
    return text_card(source, bench, spec, write_fp32(spec, weights, bench.folder))


FAMILY = Family(
    name="llama",
    tasks=("text-generation",),
    architectures=ARCHITECTURES,
    hints=("tokenizer",),
    build=_build,
)
