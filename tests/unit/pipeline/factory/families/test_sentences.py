"""Bare encoders as sentence-transformers uses them, against transformers and its pooling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.encoders import file as encoder_file
from pipeline.factory.families import find_family
from pipeline.factory.family import Hints
from tests.unit.pipeline.factory.families.decoders import bench_of, source_of
from tests.unit.pipeline.factory.families.encoders import (
    BATCHES,
    LENGTH,
    PAD,
    VOCABULARY,
    Floats,
    framework,
    open_graph,
    save_encoder,
    texts,
    unit,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(**SIZES, vocab_size=VOCABULARY, max_position_embeddings=LENGTH), add_pooling_layer=False
    )


def roberta() -> Any:
    from transformers import RobertaConfig, RobertaModel

    return RobertaModel(RobertaConfig(**SIZES, vocab_size=VOCABULARY, max_position_embeddings=LENGTH + 2))


def distilbert() -> Any:
    from transformers import DistilBertConfig, DistilBertModel

    numbers = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": LENGTH}
    return DistilBertModel(DistilBertConfig(vocab_size=VOCABULARY, **numbers))


def say_pooling(folder: Path, pooling: dict[str, Any], *more: str) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"} | {kind: kind for kind in more}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))


def mean(rows: Floats, mask: npt.NDArray[np.int64]) -> Floats:
    found: Floats = (rows * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return found


@pytest.mark.parametrize("make", [bert, roberta, distilbert])
@pytest.mark.parametrize("pooling", ["mean", "cls", "unsaid"])
def test_the_graph_computes_what_sentence_transformers_does(tmp_path: Path, make: Any, pooling: str) -> None:
    model = save_encoder(make(), tmp_path)
    if pooling != "unsaid":
        named = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
        say_pooling(tmp_path, named)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    card = find_family(source).build(source, bench)
    session = open_graph(card, bench.folder)
    for rows in BATCHES:
        feeds = texts(rows, 12)
        states = framework(model, feeds)["last_hidden_state"].numpy()
        wanted = states[:, 0] if pooling == "cls" else mean(states, feeds["attention_mask"])
        np.testing.assert_allclose(session.run(feeds)["embedding"], unit(wanted), atol=1e-4, rtol=0)


def test_a_sentence_is_bit_for_bit_the_same_alone_and_in_company(tmp_path: Path) -> None:
    """ONNX Runtime's ReduceSum adds up the places of one row in another order than those of several."""
    save_encoder(bert(), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    session = open_graph(find_family(source).build(source, bench), bench.folder)
    feeds = texts(32, 16)
    together = session.run(feeds)["embedding"]
    alone = [session.run({name: value[[row]] for name, value in feeds.items()})["embedding"][0] for row in range(32)]
    assert np.array(alone).tobytes() == together.tobytes()


def test_the_card_says_how_long_a_sentence_may_be(tmp_path: Path) -> None:
    save_encoder(bert(), tmp_path)
    say_pooling(tmp_path, {"pooling_mode": "mean"})
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    card = find_family(source).build(source, bench)
    assert card.task == "embeddings"
    assert card.encoder is not None
    assert (card.encoder.max_length, card.encoder.dimensions, card.encoder.labels) == (24, 32, None)


def test_a_sentence_never_has_more_tokens_than_there_are_positions(tmp_path: Path) -> None:
    save_encoder(roberta(), tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 512}')
    source = source_of(tmp_path)
    card = find_family(source).build(source, bench_of(tmp_path))
    assert card.encoder is not None
    assert (card.encoder.max_length, card.encoder.pad_token_id) == (LENGTH, PAD)


@pytest.mark.parametrize(
    ("pooling", "more", "said"),
    [
        ({"pooling_mode_max_tokens": True}, (), "pooling by pooling_mode_max_tokens is not built"),
        ({}, (), "pooling by nothing is not built"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "pooling_mode_cls_token and pooling"),
        ({"pooling_mode_mean_tokens": True}, ("Dense",), "the module Dense is not built"),
    ],
)
def test_what_is_not_built_is_named(tmp_path: Path, pooling: dict[str, Any], more: tuple[str, ...], said: str) -> None:
    save_encoder(bert(), tmp_path)
    say_pooling(tmp_path, pooling, *more)
    source = source_of(tmp_path)
    with pytest.raises(ModelError, match=said):
        find_family(source).build(source, bench_of(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", '{"a": 1}', r"modules\.json: it holds something else than a list of objects"),
        ("1_Pooling/config.json", "[]", r"config\.json: it holds a list, not an object"),
        ("sentence_bert_config.json", "[512]", r"sentence_bert_config\.json: it holds a list, not an object"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, file: str, content: str, said: str) -> None:
    save_encoder(bert(), tmp_path)
    say_pooling(tmp_path, {"pooling_mode": "mean"})
    (tmp_path / file).write_text(content)
    source = source_of(tmp_path)
    with pytest.raises(ModelError, match=said):
        find_family(source).build(source, bench_of(tmp_path))


def test_labels_are_refused_where_sentences_are_embedded(tmp_path: Path) -> None:
    save_encoder(bert(), tmp_path)
    source = replace(source_of(tmp_path), hints=Hints(labels=tmp_path / "names.txt"))
    with pytest.raises(ModelError, match="BertModel, which embeds, has no use for --labels"):
        find_family(source).build(source, bench_of(tmp_path))


def test_weights_that_one_file_cannot_hold_go_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_encoder(bert(), tmp_path)
    monkeypatch.setattr(encoder_file, "LARGEST_FILE", 1_000)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    card = find_family(source).build(source, bench)
    assert card.variants["fp32"].parts["data"].file == "fp32.onnx.data"
    assert (bench.folder / "fp32.onnx").stat().st_size < (bench.folder / "fp32.onnx.data").stat().st_size
    feeds = texts(3, 12)
    states = framework(model, feeds)["last_hidden_state"].numpy()
    wanted = unit(mean(states, feeds["attention_mask"]))
    np.testing.assert_allclose(open_graph(card, bench.folder).run(feeds)["embedding"], wanted, atol=1e-4, rtol=0)
