"""The two real models, pulled as a user would, and asked things with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.factory.gates.decoders import greedy
from pipeline.factory.recipes.pull import pull
from pipeline.factory.sources.photos import CHELSEA, FLOWER, read_photos
from pipeline.models.store import ServedModel, find_model
from pipeline.runtime.onnx import OnnxBackend, OnnxDecoder, open_session
from pipeline.runtime.session import CacheLayout
from pipeline.settings import ModelSettings, RuntimeSettings, Settings
from pipeline.tasks.pixels import decode_image
from pipeline.tasks.prompts import PromptReader, load_chat_template
from schemas.messages import ChatMessage, TextInput

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(600)]
CPU = RuntimeSettings(provider="cpu")
SLOTS, LENGTH = 8, 128


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = Settings(models=ModelSettings(store=str(tmp_path_factory.mktemp("store"))))
    for name in ("smollm2-135m", "efficientnet-lite0"):
        pull(name, found)
    return found


@pytest.fixture(scope="module")
def chat(settings: Settings) -> ServedModel:
    return find_model("smollm2-135m", settings)


@pytest.fixture(scope="module")
def decoder(chat: ServedModel) -> OnnxDecoder:
    text = chat.card.text
    assert text is not None
    layout = CacheLayout.of(text, slots=SLOTS, max_length=LENGTH)
    return OnnxBackend(CPU).open_decoder(chat.path("int8"), layout)


def ask(model: ServedModel, decoder: OnnxDecoder, question: str) -> str:
    text = model.card.text
    assert text is not None
    assert text.chat_template is not None
    codec = OnnxBackend(CPU).open_tokenizer(model.folder / text.tokenizer)
    reader = PromptReader(text, codec, load_chat_template(model.folder / text.chat_template), LENGTH)
    prompt = reader.read(TextInput(messages=(ChatMessage(role="user", content=question),)))
    return codec.decode(greedy(decoder, prompt, 48, lambda token: token in text.eos_token_ids))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "Paris"),
        ("What is the capital of Japan?", "Tokyo"),
        ("What color is the sky on a clear day?", "blue"),
    ],
)
def test_the_chat_model_answers(chat: ServedModel, decoder: OnnxDecoder, question: str, answer: str) -> None:
    assert answer in ask(chat, decoder, question)


def test_a_sequence_is_bit_equal_alone_and_in_company(decoder: OnnxDecoder) -> None:
    ids = np.random.default_rng(0).integers(100, 40_000, (SLOTS, 6))
    together = [decoder.step(0, ids[:, [at]], np.full(SLOTS, at)).copy() for at in range(6)]
    for row in (0, SLOTS - 1):
        for at in range(6):
            alone = decoder.step(row, ids[row : row + 1, [at]], np.array([at]))
            np.testing.assert_array_equal(alone[0], together[at][row])


def test_the_cat_is_a_cat_and_the_flower_a_daisy_alone_and_together(settings: Settings, tmp_path: Path) -> None:
    model = find_model("efficientnet-lite0", settings)
    spec = model.card.image
    assert spec is not None
    assert spec.labels is not None
    labels = (model.folder / spec.labels).read_text().splitlines()
    assert len(set(labels)) == len(labels) == 1_000
    photos = read_photos((CHELSEA, FLOWER), tmp_path, lambda _: None)
    pixels = np.stack([decode_image(data, spec, max_pixels=1_000_000) for data in photos])
    session = open_session(model.path("int8"), CPU)
    together = session.run({"pixels": pixels})["logits"]
    assert labels[together[0].argmax()] in {"tabby", "tiger cat", "Egyptian cat"}
    assert labels[together[1].argmax()] == "daisy"
    for row in range(2):
        np.testing.assert_array_equal(session.run({"pixels": pixels[row : row + 1]})["logits"][0], together[row])
