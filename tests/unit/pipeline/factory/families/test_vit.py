from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.families import find_family
from pipeline.factory.family import Hints
from pipeline.models.cardfile import read_card, write_card
from tests.unit.pipeline.factory.families.decoders import bench_of, source_of
from tests.unit.pipeline.factory.families.encoders import BATCHES, normalized, open_graph, pixels_of, save_encoder


def vit(**more: Any) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    numbers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = ViTConfig(**numbers, image_size=24, patch_size=8, id2label={0: "cat", 1: "dog", 2: "hen"}, **more)
    return ViTForImageClassification(config)


@pytest.mark.parametrize("more", [{}, {"qkv_bias": False, "hidden_act": "gelu_pytorch_tanh"}], ids=["plain", "other"])
def test_the_graph_computes_what_transformers_does(tmp_path: Path, more: dict[str, Any]) -> None:
    import torch

    model = save_encoder(vit(**more), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    session = open_graph(find_family(source).build(source, bench), bench.folder)
    for rows in BATCHES:
        pixels = pixels_of(rows)
        with torch.no_grad():
            wanted = model(normalized(pixels)).logits.numpy()
        np.testing.assert_allclose(session.run({"pixels": pixels})["logits"], wanted, atol=1e-4, rtol=0)


def test_the_card_says_what_images_are_read_and_what_the_classes_are_called(tmp_path: Path) -> None:
    save_encoder(vit(), tmp_path)
    source, bench = source_of(tmp_path), bench_of(tmp_path)
    card = find_family(source).build(source, bench)
    write_card(card, bench.folder)
    assert read_card(bench.folder) == card
    assert card.task == "image-classification"
    assert card.image is not None
    assert (card.image.height, card.image.width, card.image.fit) == (24, 24, "stretch")
    assert (bench.folder / "labels.txt").read_text() == "cat\ndog\nhen\n"


def test_images_of_another_size_than_the_positions_are_refused(tmp_path: Path) -> None:
    save_encoder(vit(), tmp_path)
    source = replace(source_of(tmp_path), hints=Hints(size=(32, 32)))
    with pytest.raises(
        ModelError, match="an image of 32 x 32 has 16 patches of 8 x 8, and the model has positions for 9"
    ):
        find_family(source).build(source, bench_of(tmp_path))
