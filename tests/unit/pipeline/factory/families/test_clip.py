from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.families import find_family
from pipeline.models.cardfile import read_card, write_card
from tests.unit.pipeline.factory.families.decoders import bench_of, source_of
from tests.unit.pipeline.factory.families.encoders import (
    BATCHES,
    END,
    LENGTH,
    PAD,
    VOCABULARY,
    framework,
    normalized,
    open_graph,
    pixels_of,
    save_encoder,
    texts,
    unit,
)


def clip(end: int = END, **more: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, **more}
    ends = {"bos_token_id": 2, "eos_token_id": end, "pad_token_id": PAD}
    text = {**sizes, **ends, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH}
    vision = {**sizes, "hidden_size": 40, "image_size": 24, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))


@pytest.mark.parametrize("more", [{}, {"hidden_act": "gelu"}, {"end": 2}], ids=["quick", "gelu", "unknown-end"])
def test_both_graphs_compute_what_transformers_does(tmp_path: Path, more: dict[str, Any]) -> None:
    import torch

    model = save_encoder(clip(**more), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    card = find_family(source).build(source, bench)
    images, words = open_graph(card, bench.folder), open_graph(card, bench.folder, "text")
    for rows in BATCHES:
        pixels, feeds = pixels_of(rows), texts(rows, 12)
        with torch.no_grad():
            seen = model.get_image_features(normalized(pixels)).pooler_output
        np.testing.assert_allclose(images.run({"pixels": pixels})["embedding"], unit(seen), atol=1e-4, rtol=0)
        read = framework(model.get_text_features, feeds).pooler_output
        np.testing.assert_allclose(words.run(feeds)["embedding"], unit(read), atol=1e-4, rtol=0)


def test_a_row_of_text_is_the_same_alone_and_in_any_batch(tmp_path: Path) -> None:
    save_encoder(clip(), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    session = open_graph(find_family(source).build(source, bench), bench.folder, "text")
    feeds = texts(32, 16)
    alone = [session.run({name: value[row : row + 1] for name, value in feeds.items()}) for row in range(32)]
    np.testing.assert_array_equal(np.concatenate([one["embedding"] for one in alone]), session.run(feeds)["embedding"])


def test_the_card_holds_both_graphs_and_the_factor_on_cosines(tmp_path: Path) -> None:
    model = save_encoder(clip(), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    card = find_family(source).build(source, bench)
    write_card(card, bench.folder)
    assert read_card(bench.folder) == card
    assert card.tasks == ("zero-shot-image-classification", "embeddings")
    assert card.zero_shot is not None
    assert card.zero_shot.logit_scale == pytest.approx(math.exp(model.logit_scale.item()))
    assert card.encoder is not None
    assert (card.encoder.max_length, card.encoder.dimensions) == (LENGTH, 24)
    assert card.variants["fp32"].parts["text"].file == "fp32.text.onnx"


def test_a_tokenizer_that_does_not_end_texts_is_refused(tmp_path: Path) -> None:
    save_encoder(clip(), tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    source = source_of(tmp_path)
    with pytest.raises(ModelError, match="does not end a text with the token 3"):
        find_family(source).build(source, bench_of(tmp_path))


@pytest.mark.parametrize("key", ["pad_token_id", "eos_token_id"])
def test_a_token_that_the_text_tower_does_not_know_is_refused_by_its_key(tmp_path: Path, key: str) -> None:
    save_encoder(clip(), tmp_path)
    source = source_of(tmp_path)
    config = source.config | {"text_config": source.config["text_config"] | {key: VOCABULARY}}
    with pytest.raises(ModelError, match=rf"config\.json: text_config\.{key} is 60, and the model knows"):
        find_family(source).build(replace(source, config=config), bench_of(tmp_path))
