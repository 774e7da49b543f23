"""A worker killed in the middle of its work, with a result store: what it has computed is not computed again."""

from __future__ import annotations

import json
import re
import sqlite3
import urllib.request
from pathlib import Path

import pytest

from pipeline.settings import KafkaSettings, Settings
from tests.records import committed, grey_pixel_png, produce, read_outcomes, read_whole, sources
from tests.waiting import wait_until
from tests.workers import StartWorker, Worker, wait_until_committed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RECORDS = 2_000
FIRST_PART = 200


def figure(worker: Worker, sample: str) -> float:
    """A sample of the worker's metrics page."""
    url = f"http://127.0.0.1:{worker.ready['metrics_port']}/metrics"
    with urllib.request.urlopen(url, timeout=60) as response:
        page = response.read().decode()
    found = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
    assert found, f"no {sample} among {sorted(set(re.findall('^millrace_[^ ]+', page, re.MULTILINE)))}"
    return float(found[1])


def model_of(worker: Worker) -> str:
    """The label of its first model."""
    name: str = worker.ready["models"][0].split()[0]
    return name


def kept(path: Path) -> int:
    connection = sqlite3.connect(path)
    count: int = connection.execute("SELECT count(*) FROM outcome").fetchone()[0]
    connection.close()
    return count


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_killed_worker_leaves_what_it_has_computed_to_the_next(
    delivery: str, start_worker: StartWorker, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    settings, store = Settings(kafka=kafka_settings), tmp_path / "results.db"
    environ = {
        "MILLRACE_RESULTS__STORE": f"sqlite:{store}",
        "MILLRACE_RESULTS__TIMEOUT_S": "20",  # a machine under load must not make it a test of being slow
        "MILLRACE_WORKER__DELIVERY": delivery,
        "MILLRACE_KAFKA__SESSION_TIMEOUT_S": "6",
        "MILLRACE_WORKER__MAX_IN_FLIGHT_RECORDS": "256",
        "MILLRACE_WORKER__COMMIT_INTERVAL_S": "1",
        "MILLRACE_WORKER__TRANSACTION_INTERVAL_S": "1",
        "MILLRACE_WORKER__TRANSACTION_MAX_RECORDS": "1000",
    }
    records = [(f"k{i % 50}", grey_pixel_png()) for i in range(RECORDS)]
    sent = produce(settings, kafka_settings.images, records[:FIRST_PART])
    first = start_worker(models="digits-tiny", environ=environ)
    wait_until_committed(first, settings, kafka_settings.images, FIRST_PART)
    sent += produce(settings, kafka_settings.images, records[FIRST_PART:])  # a commit has just been: the next is far
    wait_until(lambda: kept(store) >= FIRST_PART + 50, "some of the rest is computed", poll_s=0.005)
    first.process.kill()
    first.process.wait()
    kept_before, committed_before = kept(store), committed(settings, kafka_settings.images)
    assert committed_before < kept_before < sent, "the worker was not killed in the middle"

    second = start_worker(models="digits-tiny", environ=environ)
    wait_until_committed(second, settings, kafka_settings.images, sent)
    found = read_outcomes(settings, kafka_settings.image_results, sent)
    per_record = sources(found)
    assert len(per_record) == sent
    assert {outcome["status"] for outcome in found} == {"ok"}
    assert delivery == "at_least_once" or len(found) == sent
    # What differs between two lives is only the time of publishing: the outcomes are the same ones.
    assert len({(outcome["id"], outcome["created_at_ms"]) for outcome in found}) == sent
    computed = figure(second, f'millrace_batch_size_sum{{kind="batch",model="{model_of(second)}"}}')
    hits = figure(second, "millrace_result_store_hits_total")
    assert computed == sent - kept_before, "each record was computed in one of the two lives, and in one alone"
    assert 0 < hits <= kept_before - committed_before
    assert kept(store) == sent


def test_a_streamed_answer_that_is_repeated_has_the_same_pieces_to_its_end(
    start_worker: StartWorker, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    settings = Settings(kafka=kafka_settings)
    environ = {
        "MILLRACE_RESULTS__STORE": f"sqlite:{tmp_path / 'results.db'}",
        "MILLRACE_RESULTS__TIMEOUT_S": "20",
        "MILLRACE_KAFKA__SESSION_TIMEOUT_S": "6",
        "MILLRACE_WORKER__COMMIT_INTERVAL_S": "600",
    }
    prompt = {"prompt": "The capital of France", "max_tokens": 12, "temperature": 1.5, "stream": True}
    produce(settings, kafka_settings.prompts, [("k", json.dumps(prompt).encode())])
    first = start_worker(models="dialogues-tiny", environ=environ)
    outcome = read_outcomes(settings, kafka_settings.prompt_results, 1)[0]
    pieces = [json.loads(message.value()) for message in read_whole(settings, kafka_settings.tokens)]
    first.process.kill()
    first.process.wait()

    second = start_worker(models="dialogues-tiny", environ=environ)
    outcomes = read_outcomes(settings, kafka_settings.prompt_results, 2)
    assert [(found["id"], found["output"], found["usage"]) for found in outcomes] == [
        (outcome["id"], outcome["output"], outcome["usage"])
    ] * 2
    assert "".join(piece["text"] for piece in pieces) == outcome["output"]["text"]
    assert [json.loads(message.value()) for message in read_whole(settings, kafka_settings.tokens)] == 2 * pieces
    assert figure(second, f'millrace_generated_tokens_total{{model="{model_of(second)}"}}') == 0
