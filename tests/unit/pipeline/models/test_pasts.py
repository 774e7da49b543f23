"""What a decoder's graph caches keys and values in, found without reading the graph, and held against the card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.models.card import CacheType, ModelCard, TextSpec, Variant
from pipeline.models.cardfile import check_variant, sha256_of
from pipeline.models.pasts import types_of_pasts
from pipeline.models.store import SHIPPED, read_folder

FLOAT32, FLOAT16, INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8


def decoder(folder: Path, *types: int, weights: int = 4) -> Path:
    """A graph with an ``input_ids`` and a past input of each of ``types``."""
    shape = ["N", 1, "L", 8]
    pasts = [helper.make_tensor_value_info(f"past_key_{at}", kind, shape) for at, kind in enumerate(types)]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "S"])
    constant = numpy_helper.from_array(np.ones(weights, np.float32), "weights")
    graph = helper.make_graph([], "decoder", [ids, *pasts], [], [constant])
    path = folder / "int8.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def card_of(graph: Path, cache: CacheType | None) -> ModelCard:
    text = TextSpec(tokenizer="t.json", layers=1, kv_heads=1, head_size=8, vocabulary=9, max_length=9, eos_token_ids=())
    variant = Variant(file=graph.name, sha256=sha256_of(graph), cache=cache)
    return ModelCard(
        name="tiny", version="1", task="text-generation", description="", license="", source="", text=text,
        variants={"int8": variant, "fp16": replace(variant, cache=None)},
    )  # fmt: skip


@pytest.mark.parametrize("weights", [0, 4, 300, 70_000])
def test_the_types_are_found_behind_weights_of_any_size(tmp_path: Path, weights: int) -> None:
    found = types_of_pasts(decoder(tmp_path, FLOAT32, FLOAT16, INT8, TensorProto.BFLOAT16, weights=weights))
    assert found == {"past_key_0": "float32", "past_key_1": "float16", "past_key_2": "int8", "past_key_3": None}


def test_a_graph_without_a_cache_and_what_is_no_graph_have_none(tmp_path: Path) -> None:
    whole = decoder(tmp_path, FLOAT32).read_bytes()
    assert types_of_pasts(decoder(tmp_path)) == {}
    cut = [whole[:end] for end in range(len(whole) - 60)]
    for content in (b"", b"graph", b"\xff" * 100, b"\x3a\xff\xff\x03", *cut):
        (tmp_path / "other").write_bytes(content)
        assert types_of_pasts(tmp_path / "other") == {}


@pytest.mark.parametrize("model", ["dialogues-tiny", "digit-reader-tiny", "digits-tiny"])
def test_what_is_found_is_what_onnx_reads_and_the_card_says(model: str) -> None:
    found = read_folder(SHIPPED / model / "1.0.0")
    path = found.path("int8")
    inputs = onnx.load(path).graph.input
    pasts = [value.name for value in inputs if value.name.startswith("past_")]
    assert list(types_of_pasts(path)) == pasts
    assert bool(pasts) == (model != "digits-tiny")
    found.verify("int8")


@pytest.mark.parametrize(
    ("types", "cache", "said"),
    [
        (
            (INT8, INT8),
            "float32",
            'past_key_0 is int8, and the card says float32. .*write cache = "int8" into .*Build it',
        ),
        ((INT8, INT8), None, "past_key_0 is int8, and the card says float32"),
        ((FLOAT32, FLOAT32), "int8", "past_key_0 is float32, and the card says int8"),
        ((INT8, FLOAT32), "int8", "past_key_1 is float32, and the card says int8"),
        ((TensorProto.BFLOAT16,), "int8", "past_key_0 is of a type that no KV cache has: .*Build it again"),
    ],
    ids=["int8", "int8-unsaid", "float32", "mixed", "unknown"],
)
def test_a_card_that_says_another_cache_than_the_graph_has_is_refused_with_what_where_and_what_to_do(
    tmp_path: Path, types: tuple[int, ...], cache: CacheType | None, said: str
) -> None:
    card = card_of(decoder(tmp_path, *types), cache)
    with pytest.raises(ModelError, match=rf"^model tiny@1: {tmp_path}/int8\.onnx: its input {said}"):
        check_variant(card, tmp_path, "int8")


def test_a_card_that_says_what_the_graph_has_or_leaves_out_what_goes_without_saying_is_taken(tmp_path: Path) -> None:
    for kind, cache in ((INT8, "int8"), (FLOAT32, "float32"), (FLOAT32, None), (FLOAT16, "float16")):
        check_variant(card_of(decoder(tmp_path, kind), cache), tmp_path, "int8")  # type: ignore[arg-type]
    check_variant(card_of(decoder(tmp_path, FLOAT16), None), tmp_path, "fp16")
