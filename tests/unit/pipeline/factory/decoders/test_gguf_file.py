"""A GGUF file of a very small Llama, written with the gguf package's own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.factory.decoders.gguf_file import read_gguf
from pipeline.factory.decoders.spec import weight_shapes

gguf = pytest.importorskip("gguf")

CONTROL, NORMAL = 3, 1
BYTES = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "\u0120a", "he", "hel"]
MERGES = ["\u0120 a", "h e", "he l"]
LAYER = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64), "attn_norm": (64,)}
LAYER |= {"ffn_norm": (64,), "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}


def write(path: Path, *, architecture: str = "llama", pre: str = "smollm", head: bool = False) -> dict[str, Any]:
    """Write the file and return its tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([CONTROL] * 3 + [NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(TOKENS), 64), "output_norm": (64,)}
    shapes |= {f"blk.0.{name}": shape for name, shape in LAYER.items()} | (
        {"output": (len(TOKENS), 64)} if head else {}
    )
    rng = np.random.default_rng(1)
    tensors = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_numbers_weights_and_texts_come_out(tmp_path: Path) -> None:
    tensors = write(tmp_path / "toy.gguf")
    model = read_gguf(tmp_path / "toy.gguf")
    assert {name: weight.shape for name, weight in model.weights.items()} == weight_shapes(model.spec)
    assert (model.spec.heads, model.spec.kv_heads, model.spec.head_size) == (4, 2, 16)
    assert model.spec.rope_interleaved
    q, k = tensors["blk.0.attn_q.weight"], tensors["blk.0.attn_k.weight"]
    np.testing.assert_array_equal(model.weights["layers.0.qkv"][:96], np.concatenate([q, k]))
    assert model.special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def test_the_tokenizer_merges_splits_digits_and_knows_its_special_tokens(tmp_path: Path) -> None:
    write(tmp_path / "toy.gguf")
    tokenizer = read_gguf(tmp_path / "toy.gguf").tokenizer
    assert tokenizer.encode("<|im_start|>hel a12").tokens == ["<|im_start|>", "hel", "\u0120a", "1", "2"]
    for text in ("hel a12", "na\u00efve \u9f98 \U0001f389\n\ttabs"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.decode([1, *tokenizer.encode("he").ids, 2]) == "he"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    write(path, architecture="qwen2")
    with pytest.raises(ModelError, match="'qwen2', only 'llama'"):
        read_gguf(path)
    write(path, pre="llama-bpe")
    with pytest.raises(ModelError, match="'llama-bpe', only 'smollm'"):
        read_gguf(path)
    write(path, head=True)
    with pytest.raises(ModelError, match="head of its own"):
        read_gguf(path)
    path.write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ModelError, match="not a GGUF file"):
        read_gguf(path)
