from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SettingsError
from pipeline.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "millrace.toml") -> Path:
    Path(name).write_text(text)
    return Path(name)


def test_without_file_and_environment_everything_has_its_default() -> None:
    assert load_settings(environ={}) == Settings()


def test_a_file_in_the_current_folder_is_read() -> None:
    write("[batching]\nmax_batch_size = 7\n")
    settings = load_settings(environ={})
    assert settings.batching.max_batch_size == 7
    assert settings.kafka == Settings().kafka


def test_the_file_named_by_the_environment_is_read_instead() -> None:
    write("[batching]\nmax_batch_size = 7\n")
    other = write("[batching]\nmax_batch_size = 8\n", "other.toml")
    assert load_settings(environ={"MILLRACE_CONFIG": str(other)}).batching.max_batch_size == 8


def test_the_file_given_by_the_caller_wins_over_the_one_named_by_the_environment() -> None:
    mine, other = write("[worker]\nmetrics_port = 1\n", "a.toml"), write("[worker]\nmetrics_port = 2\n", "b.toml")
    assert load_settings(mine, {"MILLRACE_CONFIG": str(other)}).worker.metrics_port == 1


def test_the_environment_wins_over_the_file() -> None:
    write("[batching]\nmax_batch_size = 7\nmax_slots = 3\n")
    settings = load_settings(environ={"MILLRACE_BATCHING__MAX_BATCH_SIZE": "9"})
    assert (settings.batching.max_batch_size, settings.batching.max_slots) == (9, 3)


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2", "kafka", "bootstrap_servers", "a:1,b:2"),
        ("MILLRACE_KAFKA__PARTITIONS", "12", "kafka", "partitions", 12),
        ("MILLRACE_KAFKA__SESSION_TIMEOUT_S", "7.5", "kafka", "session_timeout_s", 7.5),
        ("MILLRACE_RUNTIME__PRECISION", "fp32", "runtime", "precision", "fp32"),
        ("MILLRACE_MODELS__SERVE", "a, b@2 ,", "models", "serve", ("a", "b@2")),
        ("MILLRACE_IMAGES__DATAREF_ROOTS", "/a,/b", "images", "dataref_roots", ("/a", "/b")),
        ("MILLRACE_IMAGES__DATAREF_ROOTS", "", "images", "dataref_roots", ()),
        ("MILLRACE_KAFKA__CLIENT", "sasl.mechanism=PLAIN,ssl.ca=x=y", "kafka", "client",
         {"sasl.mechanism": "PLAIN", "ssl.ca": "x=y"}),
    ],
)  # fmt: skip
def test_a_variable_sets_its_key_by_the_keys_type(variable: str, text: str, section: str, key: str, value: Any) -> None:
    assert getattr(getattr(load_settings(environ={variable: text}), section), key) == value


def test_other_variables_are_nobodys_business() -> None:
    assert load_settings(environ={"MILLRACE_HOME": "x", "KAFKA_BROKERS": "y", "PATH": "z__z"}) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[batchin]\n", r"millrace.toml, unknown section \[batchin\]. Did you mean 'batching'\?"),
        ("[xyz]\n", r"unknown section \[xyz\]. Known: kafka, models"),
        ("[batching]\nmax_batchsize = 1\n", r"unknown key batching.max_batchsize. Did you mean 'max_batch_size'\?"),
        ("[runtime]\nxyz = 1\n", r"unknown key runtime.xyz. Known: provider, precision"),
        ("batching = 3\n", r"\[batching\] must be a table of keys, not 3"),
        ("[batching]\nmax_batch_size = 'many'\n", r"max_batch_size"),
        ("[batching]\nmax_batch_size = 0\n", r"settings: millrace.toml, batching.max_batch_size: .*>= 1"),
        ("[runtime]\nprecision = 'int4'\n", r"millrace.toml, runtime.precision: .*int4"),
        ("[models]\nserve = []\n", r"models.serve"),
        ("[images]\ndataref_roots = 'x'\n", r"dataref_roots"),
        ("[batching\n", r"cannot read millrace.toml"),
    ],
)
def test_a_mistake_in_the_file_stops_the_start_and_says_where(text: str, message: str) -> None:
    write(text)
    with pytest.raises(SettingsError, match=message):
        load_settings(environ={})


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("MILLRACE_BATCHING__MAX_BATCH_SIZ", "1", r"Did you mean 'max_batch_size'"),
        ("MILLRACE_BATCH__MAX_SLOTS", "1", r"Did you mean 'batching'"),
        ("MILLRACE_BATCHING__MAX_BATCH_SIZE", "many", r"MILLRACE_BATCHING__MAX_BATCH_SIZE='many'"),
        ("MILLRACE_BATCHING__MAX_BATCH_SIZE", "0", r"MILLRACE_BATCHING__MAX_BATCH_SIZE='0'.*>= 1"),
        ("MILLRACE_MODELS__SERVE", ",", r"MILLRACE_MODELS__SERVE"),
        ("MILLRACE_KAFKA__CLIENT", "no-equals", r"MILLRACE_KAFKA__CLIENT='no-equals'"),
    ],
)
def test_a_mistake_in_a_variable_stops_the_start_and_names_it(variable: str, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(environ={variable: text})


def test_a_named_file_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(SettingsError, match=r"cannot read none\.toml"):
        load_settings(environ={"MILLRACE_CONFIG": "none.toml"})
    with pytest.raises(SettingsError, match=r"cannot read none\.toml"):
        load_settings(Path("none.toml"), {})


def test_a_file_that_is_not_utf_8_stops_the_start() -> None:
    Path("millrace.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"cannot read millrace\.toml"):
        load_settings(environ={})


def test_every_topic_bears_the_prefix() -> None:
    kafka = load_settings(environ={"MILLRACE_KAFKA__TOPIC_PREFIX": "x."}).kafka
    assert kafka.topics == (
        "x.prompts",
        "x.images",
        "x.prompts.results",
        "x.images.results",
        "x.tokens",
        "x.dead-letters",
    )


def test_a_variable_with_one_underscore_too_few_is_refused() -> None:
    with pytest.raises(SettingsError, match="two underscores"):
        load_settings(environ={"MILLRACE_BATCHING_MAX_BATCH_SIZE": "3"})
