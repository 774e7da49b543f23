"""The sender and the tailer on a real Kafka: the cases of tests/unit/agents/test_memory_log.py that Kafka decides."""

from __future__ import annotations

import os

import pytest

from agents.clients import NewRecord, RecordTooLargeError, Sender, Tailer
from agents.topics import create_topics, delete_topics
from pipeline.errors import TransportError
from pipeline.settings import KafkaSettings, Settings
from schemas.messages import Source
from schemas.records import RawRecord
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(
        kafka=KafkaSettings(
            bootstrap_servers=kafka, topic_prefix=topic_prefix, partitions=2, max_message_bytes=2_000_000
        )
    )
    create_topics(settings)
    return settings


def read_all(tailer: Tailer) -> list[RawRecord]:
    found: list[RawRecord] = []
    wait_until(tailer.caught_up, "the topics are read to their end", busy=lambda: found.extend(tailer.read(0.2)))
    return found


def test_what_is_sent_is_read_back_with_key_and_headers(settings: Settings) -> None:
    topic, sources = settings.kafka.prompts, []
    sender = Sender.connect(settings, [topic])
    for number in range(50):
        sender.send(
            NewRecord(topic=topic, value=b"%d" % number, key=b"k%d" % number, headers=(("id", b"%d" % number),)),
            lambda report: sources.append(report.source),
        )
    assert sender.flush(30) == 0
    with Tailer.connect(settings, [topic], start="beginning") as tailer:
        found = read_all(tailer)
    assert sorted(record.value or b"" for record in found) == sorted(b"%d" % number for number in range(50))
    assert {record.source for record in found} == set(sources)
    assert all(record.headers == (("id", record.value),) and record.timestamp_ms > 0 for record in found)


def test_a_tailer_from_the_end_sees_only_later_records_and_can_be_rewound(settings: Settings) -> None:
    topic = settings.kafka.prompts
    sender = Sender.connect(settings, [topic])
    sender.send(NewRecord(topic=topic, value=b"before", key=b"same"))
    sender.flush(30)
    with Tailer.connect(settings, [topic]) as tailer:
        assert read_all(tailer) == []
        sender.send(NewRecord(topic=topic, value=b"after", key=b"same"))
        sender.flush(30)
        assert [record.value for record in tailer.read(60)] == [b"after"]
        tailer.rewind(1)
        assert [record.value for record in read_all(tailer)] == [b"before", b"after"]


def test_a_record_at_the_limit_is_taken_and_one_over_it_refused(settings: Settings) -> None:
    topic, limit = settings.kafka.images, settings.kafka.max_message_bytes
    sender = Sender.connect(settings, [topic])
    with pytest.raises(RecordTooLargeError):
        sender.send(NewRecord(topic=topic, value=os.urandom(limit)))
    sender.send(NewRecord(topic=topic, value=os.urandom(limit - 128)))
    sender.flush(30)
    assert (sender.delivered, sender.failures) == (1, [])


def test_a_missing_topic_is_named_at_once(settings: Settings) -> None:
    with pytest.raises(TransportError, match=r"nowhere.*millrace up"):
        Sender.connect(settings, ["nowhere"])


def test_a_kafka_that_is_away_is_named_with_the_way_out() -> None:
    away = Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    with pytest.raises(TransportError, match=r"no Kafka answers at 127\.0\.0\.1:1.*KAFKA_BOOTSTRAP_SERVERS"):
        Tailer.connect(away, [away.kafka.prompts])


def test_deleted_topics_are_gone_and_deleting_again_does_nothing(settings: Settings) -> None:
    def gone() -> bool:
        try:
            Tailer.connect(settings, [settings.kafka.prompts]).close()
        except TransportError:
            return True
        return False

    delete_topics(settings)
    wait_until(gone, "the topic is gone")
    delete_topics(settings)


def test_sources_name_topic_partition_and_offset(settings: Settings) -> None:
    topic, sources = settings.kafka.images, []
    sender = Sender.connect(settings, [topic])
    sender.send(NewRecord(topic=topic, value=b"x", key=b"a"), lambda report: sources.append(report.source))
    sender.flush(30)
    assert [(source.topic, source.offset) for source in sources if isinstance(source, Source)] == [(topic, 0)]
