from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.factory.families.llama import FAMILY
from tests.unit.pipeline.factory.families.decoders import (
    LENGTH,
    VOCABULARY,
    bench_of,
    check_against_framework,
    open_built,
    save_model,
    source_of,
)

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def tiny(kind: str, **more: Any) -> Any:
    import transformers

    numbers: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": LENGTH,
        "vocab_size": VOCABULARY,
        "bos_token_id": 256,
        "eos_token_id": [257, 258],
    }
    config = getattr(transformers, f"{kind}Config")(**numbers | more)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Llama", {"rope_parameters": LLAMA3}),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
        ("Mistral", {"sliding_window": None}),
        ("Qwen2", {"hidden_size": 64}),
        ("Qwen3", {}),
    ],
    ids=["tied", "biased", "llama3", "linear", "mistral", "qwen2", "qwen3"],
)
def test_the_graph_computes_what_transformers_does(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    model = tiny(kind, **more)
    source, bench = source_of(save_model(model, tmp_path)), bench_of(tmp_path)
    assert FAMILY.accepts(source)
    card = FAMILY.build(source, bench)
    assert check_against_framework(open_built(card, bench.folder), model) < 1e-4


def test_every_token_that_ends_an_answer_is_in_the_card(tmp_path: Path) -> None:
    save_model(tiny("Llama"), tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 259]}))
    card = FAMILY.build(source_of(tmp_path), bench_of(tmp_path))
    assert card.text is not None
    assert card.text.eos_token_ids == (257, 258, 259)


def test_a_window_of_attention_bounds_the_length(tmp_path: Path) -> None:
    model = tiny("Mistral", sliding_window=20)
    card = FAMILY.build(source_of(save_model(model, tmp_path)), bench_of(tmp_path))
    assert card.text is not None
    assert card.text.max_length == 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not built"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rotary scaling 'yarn' is not built"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "'llama3' lacks 'low_freq_factor'"),
        ({"partial_rotary_factor": 0.5}, "a part of each head"),
        ({"head_dim": 8}, "heads of 8"),
        ({"num_hidden_layers": 0}, r"config\.json is not .*>= 1 - at `\$\.num_hidden_layers`"),
        ({"num_key_value_heads": 3}, r"config\.json has 4 heads and 3 of keys and values"),
        ({"head_dim": None, "num_attention_heads": 5, "num_key_value_heads": 5}, r"has 5 heads in a width of 32"),
        ({"model_type": "phi"}, "no decoder 'phi' is built"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ],
)
def test_what_the_graph_cannot_compute_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    save_model(tiny("Llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=said):
        FAMILY.build(source_of(tmp_path), bench_of(tmp_path))
