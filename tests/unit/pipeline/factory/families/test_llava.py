"""LLaVA against transformers: the rows of images, the logits, and the tokens that come through the task itself."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError
from pipeline.factory.families.llava import FAMILY
from pipeline.factory.family import Hints
from pipeline.factory.trial import open_variants
from pipeline.models.card import ModelCard
from pipeline.models.cardfile import check_variant, read_card, write_card
from pipeline.models.store import ServedModel
from pipeline.runtime.onnx import OnnxBackend
from pipeline.settings import RuntimeSettings
from pipeline.tasks.make import make_task
from pipeline.tasks.task import Answer, Job, ModelTask
from schemas.messages import InferenceRequest, TextOutput
from tests.unit.pipeline.factory.families.decoders import (
    LENGTH,
    SLOTS,
    VOCABULARY,
    Floats,
    Ids,
    bench_of,
    largest_gap,
    open_built,
    prompt_lengths,
    save_model,
    some_ids,
    source_of,
)
from tests.unit.pipeline.helpers import encoded, image_request, settings

IMAGE, SIDE, PATCH = 258, 16, 8
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.3, 0.35)
TICKETS = itertools.count()
BACKEND = OnnxBackend(RuntimeSettings(provider="cpu", threads=1))


def tiny(tower: str = "CLIP", text: str = "Llama", **more: Any) -> Any:
    import transformers

    numbers = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    vision = getattr(transformers, f"{tower}VisionConfig")(
        **numbers, num_hidden_layers=3, image_size=SIDE, patch_size=PATCH
    )
    words = getattr(transformers, f"{text}Config")(
        **numbers, num_hidden_layers=2, num_key_value_heads=1, head_dim=16, vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH, eos_token_id=257,
    )  # fmt: skip
    config = transformers.LlavaConfig(vision_config=vision, text_config=words, image_token_index=IMAGE, **more)
    return transformers.LlavaForConditionalGeneration(config)


def build(folder: Path, model: Any) -> ModelCard:
    save_model(model, folder)
    pixels = {
        "size": {"height": SIDE, "width": SIDE}, "image_mean": MEAN, "image_std": STD, "resample": 3,
        "do_center_crop": False,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    source = source_of(folder)
    assert FAMILY.accepts(source)
    card = FAMILY.build(source, bench_of(folder))
    write_card(card, folder / "built")
    return card


def some_pixels(count: int) -> Any:
    return np.random.default_rng(11).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


def for_torch(pixels: Any) -> Any:
    import torch

    scaled = (pixels.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32))


def rows_of(card: ModelCard, folder: Path, pixels: Any) -> Floats:
    session = BACKEND.open_session(folder / "built" / card.variants["fp32"].parts["vision"].file)
    return session.run({"pixels": pixels})["image_embeds"]


@pytest.mark.parametrize(
    ("tower", "text", "more"),
    [
        ("CLIP", "Llama", {"vision_feature_layer": -2}),
        ("CLIP", "Llama", {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}),
        ("CLIP", "Mistral", {"vision_feature_layer": 1, "multimodal_projector_bias": False}),
        ("Siglip", "Qwen2", {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}),
        ("Siglip", "Qwen3", {"vision_feature_layer": [-2]}),
    ],
    ids=["clip", "clip-full", "clip-mistral", "siglip-qwen2", "siglip-qwen3"],
)
def test_both_graphs_compute_what_transformers_does(
    tmp_path: Path, tower: str, text: str, more: dict[str, Any]
) -> None:
    model = tiny(tower, text, **more)
    card = build(tmp_path, model)
    pixels = some_pixels(SLOTS)
    rows = rows_of(card, tmp_path, pixels)
    assert np.abs(rows - framework_rows(model, pixels)).max() < 1e-4
    for count in (1, 3):
        assert np.abs(rows_of(card, tmp_path, pixels[:count]) - rows[:count]).max() < 1e-4
    lengths = prompt_lengths(shortest=12)
    ids, images = with_images(some_ids(SLOTS, LENGTH - 8), rows, lengths // 2 - 2)  # those in two halves are cut in two
    wanted = framework_logits(model, ids, pixels)
    assert largest_gap(open_built(card, tmp_path / "built"), ids, wanted, lengths, images) < 1e-4


def with_images(ids: Ids, rows: Floats, begins: Ids) -> tuple[Ids, Floats]:
    """``ids`` with an image in each row from ``begins`` on, and the images' rows in these places."""
    images = np.zeros((*ids.shape, rows.shape[-1]), np.float32)
    for slot, begin in enumerate(begins):
        place = slice(begin, begin + rows.shape[1])
        ids[slot, place], images[slot, place] = IMAGE, rows[slot]
    return ids, images


def framework_rows(model: Any, pixels: Any) -> Floats:
    import torch

    with torch.no_grad():
        seen = model.get_image_features(
            for_torch(pixels),
            vision_feature_layer=model.config.vision_feature_layer,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        )
    rows: Floats = torch.stack(list(seen.pooler_output)).numpy()
    return rows


def framework_logits(model: Any, ids: Ids, pixels: Any) -> Floats:
    import torch

    with torch.no_grad():
        logits: Floats = model(input_ids=torch.from_numpy(ids), pixel_values=for_torch(pixels)).logits.numpy()
    return logits


def opened(card: ModelCard, folder: Path, **batching: int) -> ModelTask[Any]:
    model = ServedModel(card=card, folder=folder / "built")
    task = make_task(model, "fp32", settings(batching=batching), BACKEND, lambda kind, count: None)
    task.open()
    return task


def answers(task: ModelTask[Any], requests: list[InferenceRequest]) -> list[str]:
    jobs = []
    for request in requests:
        prepared, weight = task.prepare(request)
        jobs.append(Job(ticket=next(TICKETS), request=request, prepared=prepared, weight=weight, ready_at=0.0))
    found: dict[str, str] = {}
    while jobs or task.busy():
        task.admit([jobs.pop(0)] if jobs else [])  # one joins at each step
        for settled in task.run(0.0, isolate=False):
            assert isinstance(settled.result, Answer), settled.result
            assert isinstance(settled.result.output, TextOutput)
            found[settled.job.request.id] = settled.result.output.text
    return [found[request.id] for request in requests]


def asked(number: int) -> InferenceRequest:
    from PIL import Image

    picture = encoded(Image.fromarray(some_pixels(8)[number]), "PNG")
    return image_request(data=picture, task="image-to-text", prompt="what? " * (1 + number % 3), max_tokens=6)


def framework(model: Any, task: ModelTask[Any], request: InferenceRequest, codec: Any) -> str:
    """The framework's likeliest tokens after the task's own prompt, without a cache."""
    import torch

    prompt, _ = task.prepare(request)
    ids, said = list(prompt.tokens), list[int]()
    with torch.no_grad():
        for _ in range(6):
            logits = model(input_ids=torch.tensor([ids]), pixel_values=for_torch(prompt.pixels[None])).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == 257:
                break
            said.append(ids[-1])
    text: str = codec.decode(said)
    return text


def test_answers_are_the_frameworks_alone_and_among_others(tmp_path: Path) -> None:
    model = tiny()
    card = build(tmp_path, model)
    task = opened(card, tmp_path, max_slots=4, prefill_chunk_tokens=5)
    codec = BACKEND.open_tokenizer(tmp_path / "built" / "tokenizer.json")
    requests = [asked(number) for number in range(4)]
    wanted = [framework(model, task, request, codec) for request in requests]
    assert len(set(wanted)) > 1, "images and questions that make no difference would prove nothing"
    assert [answers(task, [request])[0] for request in requests] == wanted
    assert answers(task, requests) == wanted


def test_what_the_user_says_of_images_wins(tmp_path: Path) -> None:
    save_model(tiny(), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 99, "image_mean": 0, "image_std": 1}))
    hints = Hints(size=(SIDE, SIDE), mean=MEAN, std=STD)
    hinted = FAMILY.build(replace(source_of(tmp_path), hints=hints), bench_of(tmp_path))
    assert hinted.image is not None
    assert (hinted.image.height, hinted.image.width) == (SIDE, SIDE)
    pixels, said = some_pixels(2), tmp_path / "said"
    np.testing.assert_array_equal(rows_of(hinted, tmp_path, pixels), rows_of(build(said, tiny()), said, pixels))


def test_the_card_is_whole(tmp_path: Path) -> None:
    card = build(tmp_path, tiny())
    assert read_card(tmp_path / "built") == card
    check_variant(card, tmp_path / "built", "fp32")
    assert card.vision is not None
    assert (card.vision.image_token, card.vision.image_tokens, card.vision.hidden) == ("<image>", 4, 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_feature_layer": [-1, -2]}, r"vision_feature_layer \(-1, -2\) is not built"),
        ({"vision_feature_layer": -4}, "vision_feature_layer -4 is not built"),
        ({"vision_feature_select_strategy": "cls"}, "'cls' is not known"),
        ({"image_token_index": 300}, "the image's token is 300, and the vocabulary has 300"),
        ({"image_token_index": 270}, "the tokenizer has no token 270"),
        ({"vision_config": {"model_type": "pixtral"}}, "a vision tower 'pixtral' is not built"),
        ({"projector_hidden_act": "mish"}, "the activation 'mish' is not built"),
        ({"text_config": None}, "text_config"),
    ],
)
def test_what_the_graphs_cannot_compute_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    build(tmp_path, tiny())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    bench = tmp_path / "again"
    bench.mkdir()
    with pytest.raises(ModelError, match=said):
        FAMILY.build(source_of(tmp_path), bench_of(bench))


def test_an_image_of_as_many_rows_as_real_models_have_is_tried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SIDE", 192)
    monkeypatch.setitem(globals(), "LENGTH", 1_024)
    card = build(tmp_path, tiny())
    assert card.vision is not None
    assert card.vision.image_tokens == 576
    open_variants(ServedModel(card=card, folder=tmp_path / "built"), settings(), ["fp32"])
