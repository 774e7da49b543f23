"""docker-compose.yml: accepted by a real compose, safe by its structure, its Kafka settings taken by a real Kafka.

The settings go through the program that the official image runs on its KAFKA_* variables: it is in Kafka's own jars.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from agents.broker import RESERVED_PROPERTIES, EmbeddedBroker
from agents.broker.fetching import JgoFetcher
from agents.broker.jars import KAFKA_VERSION, cache_path, ensure_jars
from agents.broker.java import find_java
from console.main import cli
from pipeline.settings import BrokerSettings, Settings, load_settings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
Service = dict[str, Any]


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    return cast("dict[str, Service]", yaml.safe_load(COMPOSE.read_text())["services"])


def compose_environment(service: Service) -> dict[str, str]:
    """The variables of ``service`` where the caller's environment sets none of them."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text)) for name, text in service["environment"].items()}


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed (apt install it)")
@pytest.mark.parametrize("profile", [[], ["--profile", "gpu"]], ids=["cpu", "gpu"])
def test_a_real_compose_accepts_the_file(profile: list[str]) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("MILLRACE_", "COMPOSE_"))}
    command = ["docker-compose", "-f", str(COMPOSE), *profile, "config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    if profile:
        (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
    assert services["worker-1"]["environment"]["MILLRACE_KAFKA__TOPIC_PREFIX"] == "inference."


def test_nothing_runs_as_root_or_is_reachable_from_another_machine(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["user"] not in ("", "root", "0", "0:0"), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_what_keeps_running_has_a_health_check_and_what_ends_is_waited_for(services: dict[str, Service]) -> None:
    once = {name for name, service in services.items() if service["restart"] == "no"}
    assert once == {"topics", "models"}
    for name, service in services.items():
        assert (service["healthcheck"] == {"disable": True}) == (name in once), name
    for name in ("worker-1", "worker-2", "worker-gpu"):
        conditions = {on: how["condition"] for on, how in services[name]["depends_on"].items()}
        assert conditions == dict.fromkeys(once, "service_completed_successfully")


def test_the_workers_variables_are_settings_that_exist(services: dict[str, Service]) -> None:
    for name in ("topics", "models", "worker-1", "worker-2", "worker-gpu"):
        settings = load_settings(environ=compose_environment(services[name]))
        assert settings.kafka.bootstrap_servers == "kafka:19092", name
    assert load_settings(environ=compose_environment(services["worker-gpu"])).runtime.provider == "cuda"


def test_the_models_that_are_served_are_those_that_are_pulled(services: dict[str, Service]) -> None:
    assert services["models"]["command"] == ["models", "pull"]  # without names: those of models.serve
    for name in ("models", "worker-1", "worker-2", "worker-gpu"):
        environ = compose_environment(services[name])
        assert load_settings(environ=environ).models.serve == Settings().models.serve, name
        assert services[name]["environment"]["MILLRACE_MODELS__SERVE"].startswith("${MILLRACE_MODELS__SERVE:-"), name


def test_a_worker_has_longer_to_end_than_it_takes_to_drain(services: dict[str, Service]) -> None:
    grace_s = float(services["worker-1"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > load_settings(environ=compose_environment(services["worker-1"])).worker.drain_timeout_s


def test_every_command_is_one_that_millrace_has(services: dict[str, Service]) -> None:
    for name in ("topics", "models", "worker-1", "worker-gpu"):
        words = [word for word in services[name]["command"] if word not in Settings().models.serve]
        assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0, name


def test_the_image_is_built_to_run_as_the_user_that_compose_names(services: dict[str, Service]) -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    assert {services[name]["build"]["target"] for name in ("topics", "worker-1", "worker-gpu")} <= set(stages)
    assert re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE) == [services["worker-1"]["user"]]
    store = re.search(r"MILLRACE_MODELS__STORE=(\S+)", dockerfile)
    assert store is not None
    assert services["worker-1"]["volumes"] == [f"models:{store.group(1)}"]


def test_the_image_has_the_version_of_the_embedded_kafka(services: dict[str, Service]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


@pytest.fixture(scope="module")
def rendered(services: dict[str, Service], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """server.properties as the image's own setup makes it of the file's variables, which also formats the storage."""
    folder = tmp_path_factory.mktemp("image")
    folders = {kind: folder / kind for kind in ("default-configs-dir", "mounted-configs-dir", "final-configs-dir")}
    for path in folders.values():
        path.mkdir()
    options = [text for kind, path in folders.items() for text in (f"--{kind}", str(path))]
    jars = os.pathsep.join(map(str, ensure_jars(cache_path(), JgoFetcher())))
    command = [str(find_java().program), "-cp", jars, "kafka.docker.KafkaDockerWrapper", "setup", *options]
    environ = compose_environment(services["kafka"]) | {"KAFKA_LOG_DIRS": str(folder / "data")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folders["final-configs-dir"] / "server.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line)


def test_the_images_own_setup_takes_the_settings_and_formats_the_storage(rendered: dict[str, str]) -> None:
    storage = Path(rendered["log.dirs"]) / "meta.properties"
    assert "node.id=1" in storage.read_text().splitlines()
    assert rendered["advertised.listeners"] == "INTERNAL://kafka:19092,HOST://localhost:9092"


def test_a_real_kafka_serves_our_topics_with_the_settings(rendered: dict[str, str], tmp_path: Path) -> None:
    own = {name: text for name, text in rendered.items() if name not in RESERVED_PROPERTIES}
    broker = EmbeddedBroker(
        BrokerSettings(data=str(tmp_path / "kafka"), heap_mib=384, start_timeout_s=180), extra_properties=own
    )
    servers = broker.start(owned=True).bootstrap_servers
    try:
        environ = {"KAFKA_BOOTSTRAP_SERVERS": servers}
        done = CliRunner().invoke(cli, ["topics", "--json"], env=environ)
        assert done.exit_code == 0, done.output
        document = msgspec.json.decode(done.stdout)
        assert sorted(document["created"]) == sorted(Settings().kafka.topics)
        assert _broker_config(servers).items() >= own.items()
    finally:
        broker.stop()


def _broker_config(servers: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.BROKER, "1")
    admin = AdminClient({"bootstrap.servers": servers})
    entries = admin.describe_configs([resource])[resource].result(30)
    return {name: entry.value for name, entry in entries.items()}
