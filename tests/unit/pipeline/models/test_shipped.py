"""The models that come with the package are what their cards say, and do what their pages say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.models.card import ModelCard
from pipeline.models.cardfile import check_variant, read_card
from pipeline.models.heldout import read_held_out_digits
from pipeline.models.store import SHIPPED
from pipeline.runtime.huggingface import open_tokenizer
from pipeline.runtime.onnx import OnnxBackend, open_session
from pipeline.runtime.session import CacheLayout, DecoderSession
from pipeline.settings import RuntimeSettings, Settings
from pipeline.tasks.pixels import decode_image
from pipeline.tasks.prompts import PromptReader, load_chat_template
from schemas.messages import ChatMessage, TextInput

FOLDERS = sorted(path.parent for path in SHIPPED.glob("*/*/model.toml"))
RUNTIME = RuntimeSettings(provider="cpu", threads=1)


def folder_of(name: str) -> Path:
    (folder,) = [folder for folder in FOLDERS if folder.parent.name == name]
    return folder


def prompt_reader(folder: Path, card: ModelCard) -> PromptReader:
    assert card.text is not None
    assert card.text.chat_template is not None
    codec = open_tokenizer(folder / card.text.tokenizer)
    template = load_chat_template(folder / card.text.chat_template)
    return PromptReader(card.text, codec, template, card.text.max_length)


def open_dialogues(folder: Path, card: ModelCard, slots: int) -> DecoderSession:
    spec = card.text
    assert spec is not None
    layout = CacheLayout.of(spec, slots=slots, max_length=spec.max_length)
    return OnnxBackend(RUNTIME).open_decoder(card.variant_path(folder, "int8"), layout)


def answer(folder: Path, text: TextInput) -> tuple[str, bool]:
    """The likeliest answer, and whether the model ended it within 96 tokens."""
    card = read_card(folder)
    assert card.text is not None
    session = open_dialogues(folder, card, slots=1)
    step, length, written = prompt_reader(folder, card).read(text), 0, list[int]()
    while len(written) < 96:
        token = int(session.step(0, np.array([step], np.int64), np.array([length], np.int64))[0].argmax())
        if token in card.text.eos_token_ids:
            break
        written.append(token)
        step, length = [token], length + len(step)
    return open_tokenizer(folder / card.text.tokenizer).decode(written), len(written) < 96


def test_the_tiny_models_are_shipped_and_weigh_less_than_eight_megabytes() -> None:
    names = [
        "dialogues-tiny",
        "digit-clip-tiny",
        "digit-finder-tiny",
        "digit-reader-tiny",
        "digits-tiny",
        "intents-tiny",
    ]
    assert [folder.parent.name for folder in FOLDERS] == names
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 8_000_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_every_shipped_file_has_the_digest_in_its_card(folder: Path) -> None:
    card = read_card(folder)
    for precision in card.variants:
        check_variant(card, folder, precision)
    parts = {part.file for variant in card.variants.values() for part in variant.parts.values()}
    named = {variant.file for variant in card.variants.values()} | parts | set(card.files) | {"model.toml"}
    assert {path.name for path in folder.iterdir()} == named


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_digits_held_out_are_read_right_as_the_card_says(precision: str) -> None:
    folder = folder_of("digits-tiny")
    card = read_card(folder)
    variant = card.variants["int8" if precision == "int8" else "fp32"]
    digits = read_held_out_digits()
    logits = open_session(folder / variant.file, RUNTIME).run({"pixels": digits.pixels[..., None]})["logits"]
    accuracy = float((logits.argmax(axis=1) == digits.labels).mean())
    assert accuracy >= 0.97
    assert accuracy == pytest.approx(variant.measured["accuracy"], abs=0.006)


def test_a_digit_gets_the_same_logits_alone_as_in_a_batch() -> None:
    folder = folder_of("digits-tiny")
    session = open_session(read_card(folder).variant_path(folder, "int8"), RUNTIME)
    pixels = read_held_out_digits().pixels[:32, :, :, None]
    alone = np.concatenate([session.run({"pixels": pixels[i : i + 1]})["logits"] for i in range(len(pixels))])
    np.testing.assert_array_equal(alone, session.run({"pixels": pixels})["logits"])


def test_a_held_out_digit_sent_as_png_arrives_as_the_same_pixels() -> None:
    image = read_card(folder_of("digits-tiny")).image
    assert image is not None
    digits = read_held_out_digits()
    decoded = decode_image(digits.png(7), image, Settings().images.max_pixels)
    np.testing.assert_array_equal(decoded[..., 0], digits.pixels[7])


def test_all_ten_digits_are_held_out_in_their_share() -> None:
    digits = read_held_out_digits()
    counts = np.bincount(digits.labels)
    assert len(digits) == 360
    assert len(counts) == 10
    assert counts.min() >= 30


@pytest.mark.parametrize("text", ["Where is order 48213?", "我想退货，订单48213。", "Grüße, naïve 龘 🎉\n\ttabs"])
def test_the_dialogues_tokenizer_writes_back_what_it_read(text: str) -> None:
    folder = folder_of("dialogues-tiny")
    codec = open_tokenizer(folder / "tokenizer.json")
    assert codec.decode(codec.encode(text)) == text


def test_the_dialogues_tokenizer_knows_no_token_outside_the_graph() -> None:
    folder = folder_of("dialogues-tiny")
    spec = read_card(folder).text
    assert spec is not None
    model = json.loads((folder / spec.tokenizer).read_text(encoding="utf-8"))["model"]
    assert max(model["vocab"].values()) < spec.vocabulary


def test_messages_are_rendered_with_the_marks_the_model_was_trained_on() -> None:
    folder = folder_of("dialogues-tiny")
    template = load_chat_template(folder / "chat_template.jinja")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi\n"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "你好"},
    ]
    assert template.render(messages=messages, add_generation_prompt=True) == (
        "<|system|>Be brief.<|user|>Hi<|assistant|>Hello!<|end|><|user|>你好<|assistant|>"
    )


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What are your opening hours?", "Monday"),
        ("I forgot my password.", "link"),
        ("忘记密码了怎么办？", "邮箱"),
        ("支持哪些付款方式？", "银行卡"),
    ],
)
def test_a_common_question_gets_an_answer_on_its_topic(question: str, expected: str) -> None:
    message = ChatMessage(role="user", content=question)
    text, ended = answer(folder_of("dialogues-tiny"), TextInput(messages=(message,)))
    assert ended
    assert expected in text


def test_a_plain_prompt_is_answered_like_a_message() -> None:
    text, ended = answer(folder_of("dialogues-tiny"), TextInput(prompt="What are your opening hours?"))
    assert ended
    assert "Monday" in text


def test_a_dialogue_gets_the_same_logits_alone_as_beside_others() -> None:
    folder = folder_of("dialogues-tiny")
    card = read_card(folder)
    ids = np.array([[9, 40], [300, 12], [77, 1500]], np.int64)
    together, alone = open_dialogues(folder, card, slots=3), open_dialogues(folder, card, slots=1)
    for at in range(ids.shape[1]):
        full = together.step(0, ids[:, at : at + 1].copy(), np.full(3, at, np.int64)).copy()
        one = alone.step(0, ids[1:2, at : at + 1].copy(), np.array([at], np.int64))
        np.testing.assert_array_equal(one[0], full[1])
