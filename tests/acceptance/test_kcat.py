"""Upstream and downstream apps need nothing of ours: Debian's kcat feeds the topics and reads the outcomes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.settings import KafkaSettings
from tests.workers import StartWorker

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (Debian: apt install kcat)"),
]


def kcat(servers: str, *arguments: str, stdin: bytes = b"") -> bytes:
    command = ["kcat", "-b", servers, "-q", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout


def read_outcomes(servers: str, topic: str, count: int) -> list[dict[str, Any]]:
    out = kcat(servers, "-C", "-t", topic, "-o", "beginning", "-c", str(count), "-X", "isolation.level=read_committed")
    return [json.loads(line) for line in out.splitlines()]


def write_digit(path: Path, index: int) -> int:
    """One handwritten digit as a PNG file; returns which digit it is."""
    digits = load_digits()
    pixels = np.clip(digits.images[index] * (255 / 16), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return int(digits.target[index])


def test_a_line_of_text_sent_by_kcat_is_answered_on_the_results_topic(
    start_worker: StartWorker, kafka_settings: KafkaSettings
) -> None:
    start_worker()
    servers = kafka_settings.bootstrap_servers
    kcat(servers, "-P", "-t", kafka_settings.prompts, "-k", "ticket-7", stdin=b"Where is my parcel?\n")
    (outcome,) = read_outcomes(servers, kafka_settings.prompt_results, 1)
    assert outcome["status"] == "ok", outcome
    assert outcome["key"] == "ticket-7"
    assert outcome["source"]["topic"] == kafka_settings.prompts
    assert outcome["model"]["name"] == "dialogues-tiny"
    assert outcome["output"]["text"].strip()
    assert outcome["usage"]["completion_tokens"] >= 1


def test_a_png_file_sent_by_kcat_is_classified_on_the_results_topic(
    start_worker: StartWorker, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    digit = write_digit(tmp_path / "digit.png", index=0)
    start_worker()
    servers = kafka_settings.bootstrap_servers
    kcat(servers, "-P", "-t", kafka_settings.images, str(tmp_path / "digit.png"))
    (outcome,) = read_outcomes(servers, kafka_settings.image_results, 1)
    assert outcome["status"] == "ok", outcome
    assert outcome["model"]["name"] == "digits-tiny"
    assert outcome["output"]["labels"][0]["label"] == str(digit)


def test_a_broken_png_sent_by_kcat_gets_an_error_and_a_dead_letter_with_its_bytes(
    start_worker: StartWorker, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    write_digit(tmp_path / "digit.png", index=0)
    broken = (tmp_path / "digit.png").read_bytes()[:60]
    (tmp_path / "broken.png").write_bytes(broken)
    start_worker()
    servers = kafka_settings.bootstrap_servers
    kcat(servers, "-P", "-t", kafka_settings.images, str(tmp_path / "broken.png"))
    (outcome,) = read_outcomes(servers, kafka_settings.image_results, 1)
    assert outcome["status"] == "error", outcome
    assert outcome["error"]["message"]
    letter = kcat(servers, "-C", "-t", kafka_settings.dead_letters, "-o", "beginning", "-c", "1", "-D", "")
    assert letter == broken


def test_a_header_whose_name_is_not_utf8_costs_only_its_own_record(
    start_worker: StartWorker, kafka_settings: KafkaSettings
) -> None:
    start_worker()
    servers = kafka_settings.bootstrap_servers
    command = [b"kcat", b"-P", b"-b", servers.encode(), b"-t", kafka_settings.prompts.encode(), b"-p", b"0"]
    subprocess.run([*command, b"-H", b"\xff\xfe=x"], input=b"bad\n", check=True, timeout=90)
    subprocess.run(command, input=b"Hello\n", check=True, timeout=90)
    outcomes = read_outcomes(servers, kafka_settings.prompt_results, 2)
    assert sorted(outcome["status"] for outcome in outcomes) == ["error", "ok"]
