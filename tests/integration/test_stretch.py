"""A stretch of a real topic becomes samples for calibration."""

from __future__ import annotations

import json
import time

import pytest
from confluent_kafka import Producer

from console.models.samples import load_samples
from console.output import Output
from pipeline.errors import TransportError
from pipeline.settings import KafkaSettings, Settings
from tests.records import grey_pixel_png, produce

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of this test's topics, in the environment too, where commands find them."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_settings.bootstrap_servers)
    monkeypatch.setenv("MILLRACE_KAFKA__TOPIC_PREFIX", kafka_settings.topic_prefix)
    return Settings(kafka=kafka_settings)


def test_prompts_and_images_become_samples_and_the_rest_is_passed_over(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    topics, output = settings.kafka, Output(as_json=False)
    values = [json.dumps({"prompt": f"question {number}"}).encode() for number in range(20)]
    produce(settings, topics.prompts, [("same", value) for value in [*values, b"\xff"]])
    elsewhere = json.dumps({"dataref": "file:///somewhere/cat.png"}).encode()
    produce(settings, topics.images, [(None, grey_pixel_png()), (None, elsewhere)])

    texts = load_samples([f"kafka:{topics.prompts}"], "embeddings", output)
    assert [sample.text for sample in texts] == [f"question {number}" for number in range(20)]
    images = load_samples([f"kafka:{topics.images}"], "image-classification", output)
    assert [sample.image for sample in images] == [grey_pixel_png()]
    said = capsys.readouterr()
    assert "20 samples, 1 records passed over" in said.out
    assert "passed over, for example: " in said.err


def test_offsets_choose_the_records_and_an_empty_choice_is_an_error(settings: Settings) -> None:
    topic, output = settings.kafka.prompts, Output(as_json=False)
    produce(settings, topic, [("same", b"%d" % number) for number in range(9)])
    chosen = [load_samples([f"kafka:{topic}:{ends}"], "text-generation", output) for ends in ("2-4", "7-")]
    assert [[sample.messages[0].content for sample in samples] for samples in chosen] == [["2", "3", "4"], ["7", "8"]]
    with pytest.raises(TransportError, match=r"no record is there\. The topic holds [01]:0-8\."):
        load_samples([f"kafka:{topic}:50-60"], "text-generation", output)
    with pytest.raises(TransportError, match="has no such partition"):
        load_samples([f"kafka:{topic}/9"], "text-generation", output)


def test_markers_of_transactions_at_the_end_do_not_make_it_wait(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.stretch.READ_TIMEOUT_S", 60.0)
    topic = settings.kafka.prompts
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(20)
    for _ in range(3):
        producer.begin_transaction()
        producer.produce(topic, b"hello", "same")
        producer.commit_transaction(20)
    started = time.monotonic()
    assert len(load_samples([f"kafka:{topic}"], "text-generation", Output(as_json=False))) == 3
    assert time.monotonic() - started < 60


def test_a_topic_that_is_missing_is_named(settings: Settings) -> None:
    with pytest.raises(TransportError, match=r"topic nowhere at "):
        load_samples(["kafka:nowhere"], "text-generation", Output(as_json=False))
