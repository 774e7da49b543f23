from __future__ import annotations

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from agents.topics import client_config, create_topics
from pipeline.errors import BrokerError, TransportError
from pipeline.settings import BrokerSettings, KafkaSettings, Settings

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return Settings(kafka=KafkaSettings(bootstrap_servers=kafka, topic_prefix=topic_prefix, partitions=2))


def change(settings: Settings, **changes: object) -> Settings:
    return msgspec.structs.replace(settings, kafka=msgspec.structs.replace(settings.kafka, **changes))


def client(settings: Settings) -> AdminClient:
    return AdminClient({**client_config(settings)})


def partitions(settings: Settings) -> dict[str, int]:
    topics = client(settings).list_topics(timeout=60).topics
    return {name: len(topics[name].partitions) for name in settings.kafka.topics}


def max_message_bytes(settings: Settings, topic: str) -> int:
    admin, resource = client(settings), ConfigResource(ResourceType.TOPIC, topic)
    entries = admin.describe_configs([resource])[resource].result(60)
    return int(entries["max.message.bytes"].value)


def test_every_topic_of_the_settings_is_made_with_its_partitions(settings: Settings) -> None:
    assert create_topics(settings) == list(settings.kafka.topics)
    assert partitions(settings) == dict.fromkeys(settings.kafka.topics, 2)


def test_topics_take_large_images_and_a_dead_letter_takes_any_record(settings: Settings) -> None:
    create_topics(settings)
    assert max_message_bytes(settings, settings.kafka.images) == 20 * 1024 * 1024
    assert max_message_bytes(settings, settings.kafka.dead_letters) == 80 * 1024 * 1024


def test_making_them_again_makes_nothing(settings: Settings) -> None:
    create_topics(settings)
    assert create_topics(settings) == []


def test_topics_are_grown_and_never_shrunk(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    create_topics(settings)
    grown = change(settings, partitions=4)
    create_topics(grown)
    assert set(partitions(grown).values()) == {4}
    assert f"topic {settings.kafka.prompts} grew from 2 to 4 partitions" in caplog.text
    with caplog.at_level("INFO"):
        create_topics(settings)
    assert set(partitions(settings).values()) == {4}
    assert f"topic {settings.kafka.prompts} keeps its 4 partitions" in caplog.text


def test_a_raised_limit_reaches_topics_that_exist_and_a_lowered_one_does_not(settings: Settings) -> None:
    create_topics(settings)
    create_topics(change(settings, max_message_bytes=30_000_000))
    create_topics(change(settings, max_message_bytes=1_000_000))
    assert max_message_bytes(settings, settings.kafka.images) == 30_000_000
    assert max_message_bytes(settings, settings.kafka.dead_letters) == 120_000_000


def test_more_copies_than_nodes_is_an_error_that_names_the_topic(settings: Settings) -> None:
    with pytest.raises(TransportError, match=f"Topic {settings.kafka.prompts} cannot be made"):
        create_topics(change(settings, replication_factor=3))


def test_a_kafka_that_does_not_answer_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.topics.TIMEOUT_S", 1.0)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1"):
        create_topics(change(settings, bootstrap_servers="127.0.0.1:1"))


def test_without_any_kafka_the_error_names_the_ways_to_one(broker_settings: BrokerSettings) -> None:
    with pytest.raises(BrokerError, match=r"millrace up.*KAFKA_BOOTSTRAP_SERVERS"):
        client_config(Settings(broker=broker_settings))


def test_the_client_settings_are_passed_through(settings: Settings) -> None:
    security = {"security.protocol": "PLAINTEXT"}
    assert client_config(change(settings, client=security)) == {
        "bootstrap.servers": settings.kafka.bootstrap_servers,
        **security,
    }


def test_client_settings_that_librdkafka_does_not_know_are_named(settings: Settings) -> None:
    with pytest.raises(TransportError, match=r"kafka\.client.*no\.such\.key"):
        create_topics(change(settings, client={"no.such.key": "1"}))
