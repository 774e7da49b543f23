"""Reads a GGUF file of the Llama shape: weights and tokenizer.

The layout and the metadata keys are those of llama.cpp's GGUF specification. Its converter stores the rows of q and k
so that rotary pairs are neighbours (``rope_interleaved``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pipeline.errors import ModelError
from pipeline.factory.decoders.rope import Rope
from pipeline.factory.decoders.spec import DecoderSpec

__all__ = ["GgufModel", "read_gguf"]

CONTROL_TOKEN = 3
Weights = dict[str, npt.NDArray[np.float32]]


class GgufModel(Struct, frozen=True, kw_only=True):
    """What a GGUF file holds. ``special`` are the strings of the begin and end tokens."""

    spec: DecoderSpec
    weights: Weights
    tokenizer: Tokenizer
    eos_token_id: int
    special: dict[str, str]


def read_gguf(path: Path) -> GgufModel:
    """Read ``path``; quantized tensors come out as float32.

    Raises:
        ModelError: it is not a GGUF file, not of the Llama shape, or its tokenizer is not SmolLM's.
    """
    import gguf  # 0.5 s, and a worker that only serves never needs it

    try:
        reader = gguf.GGUFReader(path)
        fields = _Fields(reader, path)
        tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path.name}: not a GGUF file that can be read: {error}") from error
    spec = _spec(fields, tensors)
    tokens = fields["tokenizer.ggml.tokens"]
    begin, end = (int(fields[f"tokenizer.ggml.{name}_token_id"]) for name in ("bos", "eos"))
    return GgufModel(
        spec=spec,
        weights=_weights(tensors, spec.layers),
        tokenizer=_tokenizer(fields, tokens),
        eos_token_id=end,
        special={"bos_token": tokens[begin], "eos_token": tokens[end]},
    )


class _Fields:
    def __init__(self, reader: Any, path: Path) -> None:
        self._reader = reader
        self._path = path

    def __getitem__(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise ModelError(f"{self._path.name}: the GGUF file has no {key}.")
        return field.contents()

    def expect(self, key: str, value: str) -> None:
        if self[key] != value:
            raise ModelError(f"{self._path.name}: {key} is {self[key]!r}, only {value!r} can be read.")


def _spec(fields: _Fields, tensors: dict[str, Any]) -> DecoderSpec:
    fields.expect("general.architecture", "llama")
    if "output.weight" in tensors:
        raise ModelError("the GGUF file has a head of its own; only a head tied to the embedding can be written.")
    heads = int(fields["llama.attention.head_count"])
    hidden = int(fields["llama.embedding_length"])
    return DecoderSpec(
        shape="llama",
        layers=int(fields["llama.block_count"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(fields["llama.attention.head_count_kv"]),
        head_size=hidden // heads,
        mlp=int(fields["llama.feed_forward_length"]),
        vocabulary=int(fields["llama.vocab_size"]),
        max_length=int(fields["llama.context_length"]),
        epsilon=float(fields["llama.attention.layer_norm_rms_epsilon"]),
        rope=Rope(theta=float(fields["llama.rope.freq_base"])),
        rope_interleaved=True,
    )


def _weights(tensors: dict[str, Any], layers: int) -> Weights:
    """By the names of :mod:`pipeline.factory.decoders.spec`; takes them out of ``tensors``, to hold them once."""

    def take(*names: str) -> npt.NDArray[np.float32]:
        parts = [np.asarray(tensors.pop(f"{name}.weight"), np.float32) for name in names]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    weights = {"embed": take("token_embd"), "final_norm": take("output_norm")}
    for layer in range(layers):
        here, there = f"blk.{layer}", f"layers.{layer}"
        weights[f"{there}.attn_norm"] = take(f"{here}.attn_norm")
        weights[f"{there}.qkv"] = take(f"{here}.attn_q", f"{here}.attn_k", f"{here}.attn_v")
        weights[f"{there}.o"] = take(f"{here}.attn_output")
        weights[f"{there}.mlp_norm"] = take(f"{here}.ffn_norm")
        weights[f"{there}.gate_up"] = take(f"{here}.ffn_gate", f"{here}.ffn_up")
        weights[f"{there}.down"] = take(f"{here}.ffn_down")
    return weights


def _tokenizer(fields: _Fields, tokens: list[str]) -> Tokenizer:
    """Byte-level BPE that splits digits one by one, as SmolLM's ``tokenizer.json`` does."""
    fields.expect("tokenizer.ggml.model", "gpt2")
    fields.expect("tokenizer.ggml.pre", "smollm")
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    special = [token for token, kind in kinds if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer
