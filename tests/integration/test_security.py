"""A Kafka that asks for a name and a password: a worker serves through it, or says why it is not let in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.broker import EmbeddedBroker
from agents.broker.layout import choose_ports
from agents.broker.properties import server_properties
from agents.clients import NewRecord, Sender, Tailer
from agents.topics import create_topics
from pipeline.errors import TransportError
from pipeline.settings import BrokerSettings, KafkaSettings, Settings
from tests.waiting import wait_until
from tests.workers import running_worker, worker_environ

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LOGIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"


@pytest.fixture(scope="module")
def guarded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker with one more listener, on which only millrace with the password secret is let in."""
    address = f"127.0.0.1:{choose_ports(1)[0]}"

    def guarded(*args: Any) -> dict[str, str]:
        properties = server_properties(*args)
        for name in ("listeners", "advertised.listeners"):
            properties[name] += f",GUARDED://{address}"
        properties["listener.security.protocol.map"] += ",GUARDED:SASL_PLAINTEXT"
        properties["sasl.enabled.mechanisms"] = "PLAIN"
        properties["listener.name.guarded.plain.sasl.jaas.config"] = f'{LOGIN_MODULE} required user_millrace="secret";'
        return properties

    broker = EmbeddedBroker(
        BrokerSettings(data=str(tmp_path_factory.mktemp("guarded")), heap_mib=256, start_timeout_s=180)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.broker.nodes.server_properties", guarded)
        broker.start(owned=True)
    yield address
    broker.stop()


def guarded_settings(address: str, password: str, topic_prefix: str = "inference.") -> Settings:
    client = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "millrace",
        "sasl.password": password,
    }
    kafka = KafkaSettings(
        bootstrap_servers=address, topic_prefix=topic_prefix, group_id=topic_prefix, partitions=2, client=client
    )
    return Settings(kafka=kafka)


def environ(settings: Settings, delivery: str) -> dict[str, str]:
    client = ",".join(f"{name}={value}" for name, value in settings.kafka.client.items())
    return {
        **os.environ,
        **worker_environ(settings.kafka, "none"),
        "MILLRACE_KAFKA__CLIENT": client,
        "MILLRACE_WORKER__DELIVERY": delivery,
    }


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_worker_with_the_password_serves(
    delivery: str, guarded_kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = guarded_settings(guarded_kafka, "secret", topic_prefix)
    create_topics(settings)
    with (
        Tailer.connect(settings, [settings.kafka.prompt_results]) as tailer,
        running_worker(sys.executable, environ(settings, delivery), tmp_path, ["-m", "tests.engines", "0"]),
    ):
        sender = Sender.connect(settings, [settings.kafka.prompts])
        sender.send(NewRecord(topic=settings.kafka.prompts, value=b"a prompt"))
        assert sender.flush(30) == 0
        found = wait_until(lambda: tailer.read(1), "the prompt is answered", poll_s=0)
    assert len(found) == 1


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_worker_with_a_wrong_password_ends_soon_and_says_where_and_why(delivery: str, guarded_kafka: str) -> None:
    settings = guarded_settings(guarded_kafka, "wrong")
    worker = subprocess.run(
        [sys.executable, "-m", "tests.engines", "0"],
        env=environ(settings, delivery),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert worker.returncode == 1
    assert f"Kafka at {guarded_kafka} does not let this worker in" in worker.stderr
    assert "kafka.client" in worker.stderr
    assert "Traceback" not in worker.stderr
    assert "wrong" not in worker.stderr, "a password is nobody's business"


def test_the_topics_command_with_a_wrong_password_names_the_setting(guarded_kafka: str) -> None:
    with pytest.raises(TransportError, match=r"kafka\.client"):
        create_topics(guarded_settings(guarded_kafka, "wrong"))
