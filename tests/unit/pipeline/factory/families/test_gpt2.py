from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.factory.families.gpt2 import FAMILY
from pipeline.models.cardfile import read_card, write_card
from tests.unit.pipeline.factory.families.decoders import (
    LENGTH,
    VOCABULARY,
    bench_of,
    check_against_framework,
    open_built,
    save_model,
    source_of,
)


def tiny(**more: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    numbers = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": LENGTH, "vocab_size": VOCABULARY}
    return GPT2LMHeadModel(GPT2Config(**numbers, bos_token_id=256, eos_token_id=257, **more))


@pytest.mark.parametrize("more", [{}, {"n_inner": 40}, {"tie_word_embeddings": False}], ids=["tied", "odd", "untied"])
def test_the_graph_computes_what_transformers_does(tmp_path: Path, more: dict[str, Any]) -> None:
    model = tiny(**more)
    source, bench = source_of(save_model(model, tmp_path)), bench_of(tmp_path)
    assert FAMILY.accepts(source)
    card = FAMILY.build(source, bench)
    assert check_against_framework(open_built(card, bench.folder), model) < 1e-4


def test_the_card_is_whole_and_says_how_texts_begin_and_end(tmp_path: Path) -> None:
    source, bench = source_of(save_model(tiny(), tmp_path)), bench_of(tmp_path)
    card = FAMILY.build(source, bench)
    write_card(card, bench.folder)
    assert read_card(bench.folder) == card
    assert card.text is not None
    assert (card.text.bos_token_id, card.text.eos_token_ids) == (256, (257,))
    assert card.text.special == {"bos_token": "<s>", "eos_token": "</s>"}
    assert set(card.files) == {"tokenizer.json", "chat_template.jinja"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation_function": "relu"}, "activation_function 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "attention scaled in another way"),
        ({"add_cross_attention": True}, "cross attention"),
        ({"n_layer": "two"}, r"not one of GPT-2: .*n_layer"),
        ({"n_layer": -1}, r"config\.json is not one of GPT-2: .*>= 1 - at `\$\.n_layer`"),
        ({"n_head": 5}, r"config\.json has 5 heads in a width of 32"),
        ({"n_layer": 3}, r"no tensor transformer\.h\.2"),
        ({"n_inner": 64}, r"weight layers\.0\.up is \[128, 32\], it must be \[64, 32\]"),
    ],
)
def test_what_the_graph_cannot_compute_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    save_model(tiny(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=said):
        FAMILY.build(source_of(tmp_path), bench_of(tmp_path))
