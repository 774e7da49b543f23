"""Versions promoted while a worker serves a steady flow: every record has one outcome, of one version."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from msgspec.structs import replace

from pipeline.models.cardfile import read_card, sha256_of, write_card
from pipeline.models.install import install
from pipeline.models.names import promoted_version
from pipeline.models.pointer import write_pointer
from pipeline.models.promotion import promote
from pipeline.models.store import SHIPPED
from pipeline.settings import KafkaSettings, ModelSettings, Settings
from tests.records import grey_pixel_png, read_whole
from tests.steady_flow import SteadyFlow
from tests.waiting import PATIENCE_S, wait_until
from tests.workers import StartWorker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LOOK_S = 0.1


class Store:
    """A store beside the shipped models, to which versions of one of them are added."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.settings = Settings(models=ModelSettings(store=str(folder)))
        self.first = promoted_version(name, self.settings)

    def install(self, version: str) -> Path:
        """A copy of the shipped version whose graph says another producer, and so has another digest."""
        built = self.folder / ".staging" / "built"
        shutil.copytree(SHIPPED / self.name / self.first, built)
        graph = onnx.load(built / "int8.onnx")
        graph.producer_version = version
        onnx.save(graph, built / "int8.onnx")
        card = read_card(built)
        int8 = replace(card.variants["int8"], sha256=sha256_of(built / "int8.onnx"))
        write_card(replace(card, version=version, variants={"int8": int8}), built)
        install(built, self.folder / self.name / version)
        return self.folder / self.name / version

    def promote(self, version: str) -> None:
        promote(self.name, version, self.settings)

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "MILLRACE_MODELS__STORE": str(self.folder),
            "MILLRACE_MODELS__WATCH_INTERVAL_S": str(LOOK_S),
            **more,
        }


def versions(flow: SteadyFlow) -> Counter[str]:
    return Counter(outcome["model"]["version"] for outcome in flow.outcomes)


def wait_for_answers(flow: SteadyFlow, version: str, more_than: int) -> None:
    wait_until(lambda: versions(flow)[version] > more_than, f"version {version} gives more than {more_than} answers")


def in_order_of_records(flow: SteadyFlow) -> dict[int, list[str]]:
    """The versions that answered each partition's records, in the order of their offsets."""
    found: dict[int, list[tuple[int, str]]] = {}
    for outcome in flow.outcomes:
        source = outcome["source"]
        found.setdefault(source["partition"], []).append((source["offset"], outcome["model"]["version"]))
    return {partition: [version for _, version in sorted(pairs)] for partition, pairs in found.items()}


@pytest.fixture
def start_flow(kafka_settings: KafkaSettings) -> Iterator[Callable[..., SteadyFlow]]:
    flows: list[SteadyFlow] = []

    def start(*args: Any, **kwargs: Any) -> SteadyFlow:
        flows.append(SteadyFlow(kafka_settings, *args, **kwargs))
        flows[-1].start()
        return flows[-1]

    yield start
    for flow in flows:
        flow.stop()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_promoted_classifier_takes_over_without_a_record_lost_or_repeated_and_a_damaged_one_does_not(
    delivery: str, start_worker: StartWorker, kafka_settings: KafkaSettings, start_flow: Any, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store", "digits-tiny")
    environ = store.environ(MILLRACE_WORKER__DELIVERY=delivery)
    worker = start_worker(models="digits-tiny", environ=environ)
    flow = start_flow(0.01, topic=kafka_settings.images, values=[grey_pixel_png()], ahead=200)
    wait_for_answers(flow, store.first, 100)

    store.install("8.0.0")
    promoted = time.monotonic()
    store.promote("8.0.0")
    wait_for_answers(flow, "8.0.0", 100)
    pause_s = max(flow.longest_pause_s(number, promoted, time.monotonic()) for number in flow.sent)

    (store.install("9.0.0") / "labels.txt").write_text("damaged\n")
    write_pointer(store.folder / store.name, "9.0.0")
    log = tmp_path / "worker.log"
    wait_until(lambda: "the promoted version is not taken" in log.read_text(), "the damaged version is refused")
    wait_for_answers(flow, "8.0.0", versions(flow)["8.0.0"] + 100)
    flow.finish(PATIENCE_S)

    assert worker.process.poll() is None
    assert flow.not_once() == []
    assert {outcome["status"] for outcome in flow.outcomes} == {"ok"}
    assert set(versions(flow)) == {store.first, "8.0.0"}
    for answered in in_order_of_records(flow).values():
        assert answered == sorted(answered), "a record was answered by the old version after one by the new"
    said = log.read_text()
    assert f"digits-tiny@8.0.0 serves now; digits-tiny@{store.first} finishes what it has" in said
    assert "digits-tiny@8.0.0 goes on: model digits-tiny@9.0.0: " in said
    assert "labels.txt is damaged" in said
    assert said.count("is not taken") == 1
    assert json.loads(worker.lines.get(timeout=PATIENCE_S))["models"] == ["digits-tiny@8.0.0 int8 cpu"]
    assert pause_s < 20.0, "the flow stood still while the new version was opened"


def test_texts_under_way_finish_on_the_old_version_while_the_new_one_answers(
    start_worker: StartWorker, kafka_settings: KafkaSettings, start_flow: Any, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store", "dialogues-tiny")
    start_worker(models="dialogues-tiny", environ=store.environ(MILLRACE_BATCHING__MAX_SLOTS="4"))
    # Sampled hot, so that answers are long, and always more of them than slots.
    prompts = [
        json.dumps({"prompt": f"Hello {n}", "max_tokens": 100, "temperature": 2.0, "stream": True}).encode()
        for n in range(9)
    ]
    flow = start_flow(0.001, values=prompts, ahead=16)
    wait_for_answers(flow, store.first, 10)
    store.install("8.0.0")
    store.promote("8.0.0")
    wait_for_answers(flow, "8.0.0", 10)
    flow.finish(PATIENCE_S)

    assert flow.not_once() == []
    assert {outcome["status"] for outcome in flow.outcomes} == {"ok"}
    assert set(versions(flow)) == {store.first, "8.0.0"}
    for answered in in_order_of_records(flow).values():
        assert answered == sorted(answered)
    ends = {outcome["id"]: (outcome["model"]["version"], outcome["created_at_ms"]) for outcome in flow.outcomes}
    last_old = max(at for version, at in ends.values() if version == store.first)
    begun = [
        outcome["created_at_ms"] - outcome["timings"]["run_ms"]
        for outcome in flow.outcomes
        if outcome["model"]["version"] == "8.0.0"
    ]
    assert last_old > min(begun), "no text was in a slot of the old version when the new one began"

    told: dict[str, list[dict[str, Any]]] = {}
    for message in read_whole(Settings(kafka=kafka_settings), kafka_settings.tokens):
        piece = json.loads(message.value())
        told.setdefault(piece["outcome_id"], []).append(piece)
    assert set(told) == set(ends)
    for outcome in flow.outcomes:
        pieces = sorted(told[outcome["id"]], key=lambda piece: piece["index"])
        assert [piece["index"] for piece in pieces] == list(range(len(pieces)))
        assert "".join(piece["text"] for piece in pieces) == outcome["output"]["text"]
