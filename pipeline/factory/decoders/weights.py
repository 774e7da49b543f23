"""From the tensors of a Hugging Face checkpoint to the names of :mod:`pipeline.factory.decoders.spec`, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.factory.decoders.spec import DecoderSpec, Weights
from pipeline.factory.sources.safetensors_file import Tensors

__all__ = ["gpt2_weights", "llama_weights"]

Floats = npt.NDArray[np.float32]
# Of each layer: our name, and theirs; the rows of several are put under each other.
LLAMA = {
    "attn_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
LLAMA_HEAD_NORMS = {"q_norm": ("self_attn.q_norm",), "k_norm": ("self_attn.k_norm",)}
GPT2_NORMS = {"attn_norm": "ln_1", "mlp_norm": "ln_2"}
GPT2_MATRICES = {"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}


class _Lazy(Weights):
    def __init__(self, makers: Mapping[str, Callable[[], Floats]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Floats:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def llama_weights(tensors: Tensors, spec: DecoderSpec, body: str, head: str) -> Weights:
    """Of a model that keeps its parts as transformers' Llama, Mistral, Qwen2 and Qwen3 do.

    Args:
        tensors: of the checkpoint.
        spec: what the model is; names that it has no use for are left alone.
        body: what the names of the decoder begin with, such as ``model.``.
        head: the name of the head, such as ``lm_head.weight``.
    """
    makers = {
        "embed": _rows(tensors, f"{body}embed_tokens.weight"),
        "final_norm": _rows(tensors, f"{body}norm.weight"),
    }
    if spec.untied:
        makers["head"] = _rows(tensors, head)
    for layer in range(spec.layers):
        ours, theirs = f"layers.{layer}", f"{body}layers.{layer}"
        for name, parts in (LLAMA | (LLAMA_HEAD_NORMS if spec.qk_norm else {})).items():
            makers[f"{ours}.{name}"] = _rows(tensors, *(f"{theirs}.{part}.weight" for part in parts))
            if name in spec.biased:
                makers[f"{ours}.{name}.bias"] = _rows(tensors, *(f"{theirs}.{part}.bias" for part in parts))
    return _Lazy(makers)


def gpt2_weights(tensors: Tensors, spec: DecoderSpec, body: str) -> Weights:
    """Of transformers' GPT-2, which keeps its matrices as [in, out]; ``body`` as in :func:`llama_weights`."""
    makers = {
        "embed": _rows(tensors, f"{body}wte.weight"),
        "positions": _rows(tensors, f"{body}wpe.weight"),
        "final_norm": _rows(tensors, f"{body}ln_f.weight"),
        "final_norm.bias": _rows(tensors, f"{body}ln_f.bias"),
    }
    if spec.untied:
        makers["head"] = _rows(tensors, "lm_head.weight")
    for layer in range(spec.layers):
        ours, theirs = f"layers.{layer}", f"{body}h.{layer}"
        for name, part in (GPT2_NORMS | GPT2_MATRICES).items():
            turn = name in GPT2_MATRICES
            makers[f"{ours}.{name}"] = _rows(tensors, f"{theirs}.{part}.weight", turn=turn)
            makers[f"{ours}.{name}.bias"] = _rows(tensors, f"{theirs}.{part}.bias")
    return _Lazy(makers)


def _rows(tensors: Tensors, *names: str, turn: bool = False) -> Callable[[], Floats]:
    """Makes one weight of the named tensors when it is called. Raises ModelError for one that is not there."""
    for name in names:
        if name not in tensors:
            raise ModelError(f"decoder: the checkpoint has no tensor {name}. Is its config.json that of another model?")

    def make() -> Floats:
        parts = [tensors[name] for name in names]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole.T if turn else whole

    return make
