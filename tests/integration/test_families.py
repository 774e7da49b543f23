"""Every family from random weights to an outcome: built, quantized, and served by one worker through Kafka."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import Struct
from PIL import Image

from agents.clients import NewRecord, Sender
from pipeline.factory.build import build
from pipeline.factory.family import Hints
from pipeline.factory.gates.gate import Gate
from pipeline.factory.optimize import optimize
from pipeline.factory.samples import Sample
from pipeline.factory.sources.source import resolve_source
from pipeline.models.store import ServedModel
from pipeline.settings import KafkaSettings, ModelSettings, RuntimeSettings, Settings
from schemas.messages import Task
from tests.records import read_outcomes
from tests.tiny_sources import TINY_SOURCES
from tests.workers import StartWorker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SIDE = 32
LABELS = ("zero", "one", "two")


class Question(Struct, frozen=True, kw_only=True):
    """A record for one of the models, and the type of the answer."""

    model: str
    fields: dict[str, Any]
    answer: str
    image: bool = False


def image_of(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def on_image(model: str, answer: str, **fields: Any) -> Question:
    image = base64.b64encode(image_of(1)).decode()
    return Question(model=model, fields={"image": image, **fields}, answer=answer, image=True)


def on_text(model: str, answer: str, **fields: Any) -> Question:
    return Question(model=model, fields={"prompt": "good day", **fields}, answer=answer)


QUESTIONS = (
    on_text("gpt2", "text", max_tokens=4),
    on_text("llama", "text", max_tokens=4),
    on_text("bert", "classification"),
    on_text("roberta", "classification"),
    on_text("distilbert", "classification"),
    on_text("minilm", "embedding"),
    on_image("resnet", "classification"),
    on_image("torchvision", "classification"),
    on_image("vit", "classification"),
    on_image("detr", "detection", threshold=0.0),
    on_image("yolos", "detection", threshold=0.0),
    on_image("clip", "classification", candidate_labels=LABELS),
    on_image("clip", "embedding", task="embeddings"),
    on_text("clip", "embedding", task="embeddings"),
    on_image("llava", "text", prompt="<image>what is it", max_tokens=4),
)


SAMPLES = {
    "text": [Sample(text=f"sample {number} {'and more ' * number}") for number in range(4)],
    "image": [Sample(image=image_of(number)) for number in range(4)],
    "both": [Sample(image=image_of(number), text="<image>what is it", answer="a cat") for number in range(4)],
}
SAMPLES_OF: dict[Task, tuple[str, ...]] = {
    "image-classification": ("image",),
    "object-detection": ("image",),
    "zero-shot-image-classification": ("image", "text"),
    "image-to-text": ("both",),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every family's tiny model is, in FP32 and INT8."""
    import torch

    root, threads = tmp_path_factory.mktemp("families"), torch.get_num_threads()
    settings = Settings(models=ModelSettings(store=str(root / "store")), runtime=RuntimeSettings(provider="cpu"))
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # It takes a process for each variant, and has tests of its own.
        patch.setattr("pipeline.factory.gates.measure.memory_megabytes", lambda *_: None)
        for name in TINY_SOURCES:
            make_int8(build_tiny(name, root, settings), settings)
    yield root / "store"
    torch.set_num_threads(threads)


def build_tiny(name: str, root: Path, settings: Settings) -> ServedModel:
    made = TINY_SOURCES[name](root / name)
    text, checkpoint = (f"torchvision:{made.stem}", made) if made.is_file() else (str(made), None)
    hints = Hints() if checkpoint is None else Hints(size=(SIDE, SIDE))  # others say it themselves
    source = resolve_source(text, checkpoint=checkpoint, hints=hints)
    return build(source, settings, name=name)


def make_int8(model: ServedModel, settings: Settings) -> None:
    """Random weights say nothing of what INT8 costs, so the gate asks for nothing but batch invariance."""
    samples = [sample for kind in SAMPLES_OF.get(model.card.task, ("text",)) for sample in SAMPLES[kind]]
    card = optimize(model, variants=("int8",), calibration=samples, evaluation=samples, gate=Gate(), settings=settings)
    assert list(card.variants) == ["fp32", "int8"], card.rejected


def test_every_family_answers_through_kafka(
    store: Path, kafka_settings: KafkaSettings, start_worker: StartWorker
) -> None:
    settings = Settings(kafka=kafka_settings)
    start_worker(models=",".join(TINY_SOURCES), environ={"MILLRACE_MODELS__STORE": str(store)})
    ask(settings)
    results = (kafka_settings.prompt_results, kafka_settings.image_results)
    counts = [sum(question.image is kind for question in QUESTIONS) for kind in (False, True)]
    outcomes = [
        outcome
        for topic, count in zip(results, counts, strict=True)
        for outcome in read_outcomes(settings, topic, count)
    ]
    found = {outcome["request_id"]: summary(outcome) for outcome in outcomes}
    assert found == {name_of(question): ("ok", question.answer, question.model, "int8") for question in QUESTIONS}


def ask(settings: Settings) -> None:
    """Send every question."""
    sender = Sender.connect(settings, [settings.kafka.prompts, settings.kafka.images])
    for question in QUESTIONS:
        topic = settings.kafka.images if question.image else settings.kafka.prompts
        value = {"id": name_of(question), "model": question.model, **question.fields}
        sender.send(NewRecord(topic=topic, value=json.dumps(value).encode()))
    assert sender.flush(30) == 0


def name_of(question: Question) -> str:
    return f"{question.model}, {'image' if question.image else 'text'}, {question.answer}"


def summary(outcome: dict[str, Any]) -> Any:
    if outcome["status"] != "ok":
        return outcome["error"]
    model = outcome["model"]
    return outcome["status"], outcome["output"]["type"], model["name"], model["precision"]
