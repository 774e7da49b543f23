"""One record on which the graph never ends, through a real Kafka and a real worker: it alone becomes a dead letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import KafkaSettings, Settings
from tests.endless_model import ENDLESS, put_endless
from tests.records import committed, produce, read, read_outcomes
from tests.unit.pipeline.helpers import png
from tests.waiting import wait_until
from tests.workers import StartWorker

pytestmark = pytest.mark.integration

CULPRIT, COUNT = 13, 64
WATCHDOG_S = 12.0


def test_a_record_on_which_the_graph_never_ends_is_a_dead_letter_and_63_are_answered_by_the_worker_that_had_it(
    kafka_settings: KafkaSettings, start_worker: StartWorker, tmp_path: Path
) -> None:
    settings = Settings(kafka=kafka_settings)
    images, results = settings.kafka.images, settings.kafka.image_results
    put_endless(tmp_path / "store")
    worker = start_worker(
        models="endless",
        environ={
            "MILLRACE_MODELS__STORE": str(tmp_path / "store"),
            "MILLRACE_WORKER__WATCHDOG_TIMEOUT_S": str(WATCHDOG_S),
            "MILLRACE_BATCHING__MAX_BATCH_SIZE": str(COUNT),
        },
    )
    values = [png(ENDLESS if place == CULPRIT else place % 10) for place in range(COUNT)]
    sent = produce(settings, images, [(str(place), value) for place, value in enumerate(values)])

    def dead_letters() -> list[Any]:
        nonlocal sent
        assert worker.process.poll() is None, (tmp_path / "worker.log").read_text()
        sent += produce(settings, images, [(f"later {sent}", png(sent % 10))])  # so that the watchdog has cause to bark
        return read(settings, settings.kafka.dead_letters, 1, timeout_s=0.5)

    (letter,) = wait_until(dead_letters, "the dead letter", timeout_s=240)
    assert (letter.key(), letter.value()) == (str(CULPRIT).encode(), values[CULPRIT])
    sent += produce(settings, images, [("afterwards", png(7))])
    wait_until(lambda: committed(settings, images) == sent, "all records are committed", timeout_s=120)
    found = read_outcomes(settings, results, sent)
    assert worker.process.poll() is None
    by_key = {outcome["key"]: outcome for outcome in found}
    assert len(found) == len(by_key) == sent
    error = by_key.pop(str(CULPRIT))["error"]
    assert error["code"] == "inference_error"
    assert "the graph endless/1/fp32.onnx ran longer than 6 s and was ended" in error["message"]
    assert {outcome["status"] for outcome in by_key.values()} == {"ok"}
    labels = {key: outcome["output"]["labels"][0]["label"] for key, outcome in by_key.items()}
    assert [labels[str(place)] for place in range(COUNT) if place != CULPRIT] == [
        str(place % 10) for place in range(COUNT) if place != CULPRIT
    ]
    assert labels["afterwards"] == "7"
    assert len(read(settings, settings.kafka.dead_letters, 1)) == 1
