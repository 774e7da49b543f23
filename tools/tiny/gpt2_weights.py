"""From a trained `GPT2LMHeadModel` to the names that :mod:`pipeline.factory.decoders.graph` wants."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.factory.decoders.graph import DecoderSpec

__all__ = ["decoder_spec", "decoder_weights"]

Floats = npt.NDArray[np.float32]
# Transformers keeps GPT-2's matrices as [in, out].
MATRICES = {"qkv": "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
NORMS = {"attn_norm": "ln_1", "mlp_norm": "ln_2"}


def decoder_spec(model: Any) -> DecoderSpec:
    """The numbers of ``model``."""
    config = model.config
    return DecoderSpec(
        shape="gpt2",
        layers=config.n_layer,
        hidden=config.n_embd,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_size=config.n_embd // config.n_head,
        mlp=4 * config.n_embd,
        vocabulary=config.vocab_size,
        max_length=config.n_positions,
        epsilon=config.layer_norm_epsilon,
    )


def decoder_weights(model: Any) -> dict[str, Floats]:
    """The weights of ``model``, float32, matrices [out, in]."""
    state = {name: tensor.detach().numpy() for name, tensor in model.transformer.state_dict().items()}
    weights = {"embed": state["wte.weight"], "positions": state["wpe.weight"]}
    weights |= _norm(state, "ln_f", "final_norm")
    for i in range(model.config.n_layer):
        for ours, theirs in NORMS.items():
            weights |= _norm(state, f"h.{i}.{theirs}", f"layers.{i}.{ours}")
        for ours, theirs in MATRICES.items():
            weights[f"layers.{i}.{ours}"] = np.ascontiguousarray(state[f"h.{i}.{theirs}.weight"].T)
            weights[f"layers.{i}.{ours}.bias"] = state[f"h.{i}.{theirs}.bias"]
    return weights


def _norm(state: dict[str, Floats], theirs: str, ours: str) -> dict[str, Floats]:
    return {ours: state[f"{theirs}.weight"], f"{ours}.bias": state[f"{theirs}.bias"]}
