from __future__ import annotations

import pytest

from agents.topics import topic_config
from pipeline.settings import KafkaSettings


@pytest.mark.parametrize("name", KafkaSettings().topics)
def test_with_three_replicas_a_record_is_taken_only_when_two_have_it(name: str) -> None:
    assert topic_config(name, KafkaSettings(replication_factor=3))["min.insync.replicas"] == "2"


@pytest.mark.parametrize("replicas", [1, 2])
def test_with_fewer_replicas_topics_still_serve_while_one_is_away(replicas: int) -> None:
    kafka = KafkaSettings(replication_factor=replicas)
    assert "min.insync.replicas" not in topic_config(kafka.prompts, kafka)
