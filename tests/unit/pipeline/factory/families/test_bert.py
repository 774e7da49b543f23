"""BERT, RoBERTa and DistilBERT as classifiers, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from pipeline.errors import ModelError
from pipeline.factory.families import find_family
from pipeline.models.cardfile import read_card, write_card
from tests.unit.pipeline.factory.families.decoders import bench_of, source_of
from tests.unit.pipeline.factory.families.encoders import (
    LENGTH,
    PAD,
    VOCABULARY,
    largest_gap,
    open_graph,
    save_encoder,
    texts,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
COMMON = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "id2label": {0: "bad", 1: "so so", 2: "good"}}


def bert(**more: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    numbers = {**SIZES, **COMMON, "max_position_embeddings": LENGTH, **more}
    return BertForSequenceClassification(BertConfig(**numbers))


def roberta(**more: Any) -> Any:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    numbers = {**SIZES, **COMMON, "max_position_embeddings": LENGTH + 2, "layer_norm_eps": 1e-5, **more}
    return RobertaForSequenceClassification(RobertaConfig(**numbers))


def distilbert(**more: Any) -> Any:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    numbers = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": LENGTH, **more}
    return DistilBertForSequenceClassification(DistilBertConfig(**COMMON, **numbers))


@pytest.mark.parametrize(
    ("make", "family"),
    [
        (bert, "bert"),
        (lambda: bert(hidden_act="gelu_new"), "bert"),
        (lambda: bert(hidden_act="relu"), "bert"),
        (roberta, "roberta"),
        (distilbert, "distilbert"),
    ],
    ids=["bert", "tanh", "relu", "roberta", "distilbert"],
)
def test_the_graph_computes_what_transformers_does(tmp_path: Path, make: Any, family: str) -> None:
    model = save_encoder(make(), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    found = find_family(source)
    assert found.name == family
    card = found.build(source, bench)
    session = open_graph(card, bench.folder)
    assert largest_gap(session, model, "logits") < 1e-4
    assert largest_gap(session, model, "logits", places=LENGTH) < 1e-4


def test_padding_and_the_rows_beside_it_change_nothing_in_a_row(tmp_path: Path) -> None:
    save_encoder(roberta(), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    session = open_graph(find_family(source).build(source, bench), bench.folder)
    feeds = texts(32, 16)
    together = session.run(feeds)["logits"]
    alone = [session.run({name: value[row : row + 1] for name, value in feeds.items()}) for row in range(32)]
    np.testing.assert_array_equal(np.concatenate([one["logits"] for one in alone]), together)
    other = {**feeds, "input_ids": np.where(feeds["attention_mask"] == 1, feeds["input_ids"], 17)}
    np.testing.assert_array_equal(session.run(other)["logits"], together)


def test_the_card_says_how_texts_are_read_and_what_the_classes_are_called(tmp_path: Path) -> None:
    save_encoder(roberta(problem_type="multi_label_classification"), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    card = find_family(source).build(source, bench)
    write_card(card, bench.folder)
    assert read_card(bench.folder) == card
    assert card.task == "text-classification"
    assert card.encoder is not None
    assert (card.encoder.max_length, card.encoder.pad_token_id, card.encoder.multi_label) == (LENGTH, PAD, True)
    assert (bench.folder / "labels.txt").read_text() == "bad\nso so\ngood\n"
    assert set(card.files) == {"tokenizer.json", "labels.txt"}


def test_norms_under_the_names_of_the_first_checkpoints_are_found(tmp_path: Path) -> None:
    model = save_encoder(bert(), tmp_path)
    file = tmp_path / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(file).items()
    }
    save_file(renamed, file)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    assert largest_gap(open_graph(find_family(source).build(source, bench), bench.folder), model, "logits") < 1e-4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "swish"}, "the activation 'swish' is not built"),
        ({"is_decoder": True}, "only encoders with absolute positions"),
        ({"position_embedding_type": "relative_key"}, "only encoders with absolute positions"),
        ({"num_hidden_layers": "two"}, "not one of this architecture: .*num_hidden_layers"),
        ({"num_hidden_layers": -1}, r"config\.json is not .*>= 1 - at `\$\.num_hidden_layers`"),
        ({"num_attention_heads": 0}, r"config\.json is not .*>= 1 - at `\$\.num_attention_heads`"),
        ({"num_attention_heads": 5}, r"config\.json has 5 heads in a width of 32"),
        ({"max_position_embeddings": 0}, r"config\.json is not .*>= 1 - at `\$\.max_position_embeddings`"),
        ({"num_hidden_layers": 3}, r"no tensor bert\.encoder\.layer\.2"),
        ({"intermediate_size": 64}, r"layer\.0\.intermediate\.dense\.weight is \[48, 32\], .* wants \[64, 32\]"),
        ({"vocab_size": 61}, r"word_embeddings\.weight is \[60, 32\], .* wants \[61, 32\]"),
    ],
)
def test_what_is_not_built_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    save_encoder(bert(), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    changed = replace(source, config=source.config | change)
    with pytest.raises(ModelError, match=said):
        find_family(changed).build(changed, bench)


def test_a_folder_without_a_whole_tokenizer_says_how_to_make_one(tmp_path: Path) -> None:
    save_encoder(bert(), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    source = source_of(tmp_path)
    with pytest.raises(ModelError, match=r"AutoTokenizer\.from_pretrained\(folder\)\.save_pretrained\(folder\)"):
        find_family(source).build(source, bench_of(tmp_path))


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    save_encoder(bert(), tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["too-many"] = VOCABULARY
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    source = source_of(tmp_path)
    with pytest.raises(ModelError, match="has a token 60, and the model knows 60"):
        find_family(source).build(source, bench_of(tmp_path))


def test_a_classifier_is_not_built_for_embeddings(tmp_path: Path) -> None:
    save_encoder(bert(), tmp_path)
    source = replace(source_of(tmp_path), task="embeddings")
    with pytest.raises(ModelError, match="does text-classification, not embeddings"):
        find_family(source).build(source, bench_of(tmp_path))


@pytest.mark.parametrize(("make", "pad"), [(bert, VOCABULARY), (roberta, VOCABULARY), (roberta, -1), (distilbert, 99)])
def test_a_padding_token_that_has_no_row_is_refused_by_its_key(tmp_path: Path, make: Any, pad: int) -> None:
    save_encoder(make(), tmp_path)
    source = source_of(tmp_path)
    source = replace(source, config=source.config | {"pad_token_id": pad})
    with pytest.raises(
        ModelError, match=rf"config\.json: pad_token_id is {pad}, and the model knows the tokens 0 to 59"
    ):
        find_family(source).build(source, bench_of(tmp_path))


def test_a_token_that_the_tokenizer_adds_and_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    save_encoder(bert(), tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["post_processor"]["special_tokens"]["[END]"]["ids"] = [5_000]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    source = source_of(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer\.json: its post_processor adds the token 5,000, .* knows 60"):
        find_family(source).build(source, bench_of(tmp_path))


def test_layers_of_distilbert_below_one_are_refused_by_their_key(tmp_path: Path) -> None:
    save_encoder(distilbert(), tmp_path)
    source = source_of(tmp_path)
    changed = replace(source, config=source.config | {"n_layers": 0})
    with pytest.raises(ModelError, match=r"config\.json .*Expected `int` >= 1 - at `\$\.n_layers`"):
        find_family(changed).build(changed, bench_of(tmp_path))
