"""All settings: one frozen object, read once from a TOML file and the environment, checked before anything starts.

Order, later wins: the defaults here, ``millrace.toml`` (or the file named by ``MILLRACE_CONFIG``), the environment.
``MILLRACE_<SECTION>__<KEY>`` sets one key, such as ``MILLRACE_BATCHING__MAX_BATCH_SIZE=16``; lists are written with
commas. ``KAFKA_BOOTSTRAP_SERVERS`` sets ``kafka.bootstrap_servers``.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from platformdirs import user_cache_path

from pipeline.errors import SettingsError
from pipeline.numbers import Positive

__all__ = [
    "BatchingSettings",
    "BrokerSettings",
    "ImageSettings",
    "KafkaSettings",
    "ModelSettings",
    "ResultSettings",
    "RuntimeSettings",
    "Settings",
    "WorkerSettings",
    "load_settings",
]

PositiveSeconds = Annotated[float, Meta(gt=0)]
MEBIBYTE = 1024 * 1024


class KafkaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the topics are. Empty ``bootstrap_servers`` means the embedded broker.

    ``client`` is passed to every Kafka client unchanged: librdkafka's own names, such as ``security.protocol``;
    ``schema_registry_client`` to confluent-kafka's registry client, such as ``basic.auth.user.info``.
    """

    bootstrap_servers: str = ""
    group_id: str = "millrace"
    topic_prefix: str = "inference."
    partitions: Positive = 4
    replication_factor: Positive = 1
    max_message_bytes: Annotated[int, Meta(ge=1_024, le=100 * MEBIBYTE)] = 20 * MEBIBYTE
    session_timeout_s: Annotated[float, Meta(ge=6, le=300)] = 10.0
    group_protocol: Literal["classic", "consumer"] = "classic"
    group_instance_id: str = ""
    delivery_timeout_s: PositiveSeconds = 120.0
    transaction_timeout_s: Annotated[float, Meta(ge=1, le=900)] = 30.0
    schema_registry_url: str = ""
    schema_registry_client: dict[str, str] = {}
    client: dict[str, str] = {}

    @property
    def prompts(self) -> str:
        """Topic of prompt records."""
        return f"{self.topic_prefix}prompts"

    @property
    def images(self) -> str:
        """Topic of image records."""
        return f"{self.topic_prefix}images"

    @property
    def prompt_results(self) -> str:
        """Topic of the outcomes of prompts."""
        return f"{self.topic_prefix}prompts.results"

    @property
    def image_results(self) -> str:
        """Topic of the outcomes of images."""
        return f"{self.topic_prefix}images.results"

    @property
    def tokens(self) -> str:
        """Topic of streamed pieces of text."""
        return f"{self.topic_prefix}tokens"

    @property
    def dead_letters(self) -> str:
        """Topic of the records that could not be served, with their original bytes."""
        return f"{self.topic_prefix}dead-letters"

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic, inputs first."""
        return (self.prompts, self.images, self.prompt_results, self.image_results, self.tokens, self.dead_letters)


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which models a worker serves. The first of each task answers what names no model.

    A name may carry a version, ``name@version``; without one it means the promoted version, and a running worker looks
    every ``watch_interval_s`` (0: never) which that is. ``store`` is searched first, then the models shipped with
    Millrace.
    """

    serve: Annotated[tuple[str, ...], Meta(min_length=1)] = ("smollm2-135m", "efficientnet-lite0", "digits-tiny")
    store: str = ""
    watch_interval_s: Annotated[float, Meta(ge=0, le=3_600)] = 2.0

    @property
    def store_path(self) -> Path:
        """The folder of the store: ``store``, or the user's cache."""
        return Path(self.store).expanduser() if self.store else user_cache_path("millrace") / "models"


class BatchingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of a batch. An idle device never waits for a batch to fill.

    ``max_slots`` is how many sequences are generated at once, each with a KV cache of ``max_length`` tokens (or the
    model's own bound, if lower). A prompt is read in chunks of ``prefill_chunk_tokens``, so it never stalls the others.
    """

    max_batch_size: Annotated[int, Meta(ge=1, le=1_024)] = 32
    max_slots: Annotated[int, Meta(ge=1, le=1_024)] = 16
    max_length: Annotated[int, Meta(ge=16, le=131_072)] = 2_048
    prefill_chunk_tokens: Annotated[int, Meta(ge=1, le=8_192)] = 128


class RuntimeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The device. ``threads`` 0 and ``precision`` ``auto`` leave it to what was measured here.

    While nothing was, they mean every core, and INT8 on a CPU or FP16 on a GPU where the model has it.

    A failed batch runs again ``max_retries`` times, after ``retry_backoff_ms`` that doubles up to ``max_backoff_ms``;
    then it is divided to find the record that is to blame.
    """

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "int8", "fp16", "fp32"] = "auto"
    threads: Annotated[int, Meta(ge=0, le=512)] = 0
    prepare_threads: Annotated[int, Meta(ge=1, le=64)] = 2
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 1
    retry_backoff_ms: Annotated[int, Meta(ge=0, le=60_000)] = 50
    max_backoff_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1_000


class ImageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What images are accepted. ``dataref`` may only point under ``dataref_roots``."""

    max_pixels: Positive = 50_000_000
    max_bytes: Positive = 20 * MEBIBYTE
    dataref_roots: tuple[str, ...] = ()


class WorkerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process: how much it holds at once, how it stops, where it reports. ``metrics_port`` 0 takes a free one."""

    max_in_flight_records: Positive = 2_048
    max_in_flight_bytes: Positive = 256 * MEBIBYTE
    drain_timeout_s: PositiveSeconds = 20.0
    watchdog_timeout_s: PositiveSeconds = 120.0
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    commit_interval_s: PositiveSeconds = 0.5
    transaction_interval_s: PositiveSeconds = 0.1
    transaction_max_records: Positive = 500
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=-1, le=65_535)] = -1


class ResultSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where computed outcomes are kept for a repeat; empty ``store`` keeps none. ``max_bytes`` is for SQLite alone."""

    store: str = ""
    keep_s: PositiveSeconds = 86_400.0
    max_bytes: Annotated[int, Meta(ge=65_536)] = 1_024 * MEBIBYTE
    timeout_s: PositiveSeconds = 0.5


class BrokerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The embedded broker. ``data`` holds its logs and records; empty means the user's cache."""

    data: str = ""
    heap_mib: Annotated[int, Meta(ge=128, le=32_768)] = 512
    start_timeout_s: PositiveSeconds = 60.0

    @property
    def data_path(self) -> Path:
        """The broker's own folder."""
        return Path(self.data).expanduser() if self.data else user_cache_path("millrace") / "broker"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set, by section."""

    kafka: KafkaSettings = KafkaSettings()
    models: ModelSettings = ModelSettings()
    batching: BatchingSettings = BatchingSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    images: ImageSettings = ImageSettings()
    worker: WorkerSettings = WorkerSettings()
    results: ResultSettings = ResultSettings()
    broker: BrokerSettings = BrokerSettings()


_SECTION_PREFIXES = tuple(f"MILLRACE_{field.upper()}_" for field in Settings.__struct_fields__)


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: a TOML file; ``None`` looks at ``MILLRACE_CONFIG``, then for ``millrace.toml`` in the current folder.
        environ: the environment; ``None`` is this process's.

    Raises:
        SettingsError: a file cannot be read, or a key or value is wrong. The message names the key and its source.
    """
    environ = os.environ if environ is None else environ
    file = _file(path, environ)
    tree = _read_toml(file) if file is not None else {}
    _check(tree, f"{file}, ")
    for section, key, text, variable in _environment(environ):
        tree.setdefault(section, {})[key] = _parse(section, key, text, variable)
    return _check(tree, "")


def _check(tree: Mapping[str, Any], source: str) -> Settings:
    """The settings in ``tree``; ``source`` says in an error where it comes from."""
    _refuse_unknown(tree, source)
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        where = place.rstrip("`") or "the whole"
        raise SettingsError(f"settings: {source}{where}: {what}. See docs/settings.md for every key.") from error


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None or environ.get("MILLRACE_CONFIG"):
        return path or Path(environ["MILLRACE_CONFIG"])
    default = Path("millrace.toml")
    return default if default.exists() else None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings: cannot read {file}: {error}") from error


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """(section, key, text, variable) of each variable that sets a key."""
    if servers := environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield "kafka", "bootstrap_servers", servers, "KAFKA_BOOTSTRAP_SERVERS"
    for variable, text in environ.items():
        if variable.startswith("MILLRACE_") and "__" in variable:
            section, _, key = variable.removeprefix("MILLRACE_").lower().partition("__")
            yield section, key, text, variable
        elif variable.startswith(_SECTION_PREFIXES):
            raise SettingsError(
                f"settings: {variable} sets nothing: section and key are joined by two underscores, as in "
                "MILLRACE_BATCHING__MAX_BATCH_SIZE."
            )


def _field_types(struct: type[Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def _parse(section: str, key: str, text: str, variable: str) -> Any:
    """The value of an environment variable, by the type of the key it sets. Unknown keys pass as text."""
    kind = _field_types(_field_types(Settings).get(section, Struct)).get(key, str)
    try:
        match msgspec.inspect.type_info(kind):
            case msgspec.inspect.VarTupleType():
                value: Any = tuple(part.strip() for part in text.split(",") if part.strip())
            case msgspec.inspect.DictType():
                value = dict(part.split("=", 1) for part in text.split(",") if part.strip())
            case _:
                value = text
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(f"settings: {variable}={text!r}: {error}") from error


def _refuse_unknown(tree: Mapping[str, Any], source: str) -> None:
    sections = _field_types(Settings)
    for section, keys in tree.items():
        _refuse_unknown_name(section, sections, f"{source}unknown section [{section}]")
        if not isinstance(keys, Mapping):
            raise SettingsError(f"settings: {source}[{section}] must be a table of keys, not {keys!r}.")
        known = _field_types(sections[section])
        for key in keys:
            _refuse_unknown_name(key, known, f"{source}unknown key {section}.{key}")


def _refuse_unknown_name(name: str, known: Mapping[str, Any], what: str) -> None:
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(known)}."
    raise SettingsError(f"settings: {what}. {hint}")
