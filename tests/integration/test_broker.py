from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from agents.broker import BrokerInfo, EmbeddedBroker
from agents.broker.fetching import JgoFetcher
from agents.broker.jars import cache_path, ensure_jars
from agents.broker.layout import choose_ports
from pipeline.errors import BrokerError
from pipeline.settings import BrokerSettings
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

START = """
import sys
from agents.broker import EmbeddedBroker
from pipeline.settings import BrokerSettings
info = EmbeddedBroker(BrokerSettings(data=sys.argv[1], heap_mib=256)).start(owned=sys.argv[2] == "owned")
print(*info.pids, flush=True)
"""


@pytest.fixture
def broker(broker_settings: BrokerSettings) -> Iterator[EmbeddedBroker]:
    """A broker of this test's own, not started."""
    broker = EmbeddedBroker(broker_settings)
    yield broker
    broker.stop()


def start_elsewhere(settings: BrokerSettings, how: str, then: str = "") -> subprocess.Popen[str]:
    """Start the broker in a Python process of its own, which then runs ``then``."""
    command = [sys.executable, "-c", START + then, settings.data, how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def pids_from(starter: subprocess.Popen[str]) -> list[int]:
    assert starter.stdout is not None
    with starter.stdout:
        return [int(pid) for pid in starter.stdout.readline().split()]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def write(servers: str, topic: str, values: list[bytes], copies: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    if topic not in admin.list_topics(timeout=60).topics:
        admin.create_topics([NewTopic(topic, 1, copies)])[topic].result(20)
    producer = Producer({"bootstrap.servers": servers, "acks": "all"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def read(servers: str, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader", "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value() for message in consumer.consume(count, 20)]
    finally:
        consumer.close()


def test_a_started_broker_serves_groups_and_transactions(kafka: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}prompts"
    write(kafka, topic, [b"plain"])
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic_prefix})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"in a transaction")
    producer.commit_transaction(20)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": topic_prefix, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    messages = consumer.consume(2, 20)
    consumer.close()
    assert [message.value() for message in messages] == [b"plain", b"in a transaction"]


def test_the_probe_leaves_no_topic_behind(kafka: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    wait_until(lambda: "__millrace_ready" not in admin.list_topics(timeout=60).topics, "the probe's topic is gone")


def test_a_second_start_finds_the_first_broker_and_a_restart_keeps_ports_and_records(
    broker: EmbeddedBroker, broker_settings: BrokerSettings
) -> None:
    first = broker.start()
    assert EmbeddedBroker(broker_settings).start() == first == broker.status()
    write(first.bootstrap_servers, "kept", [b"one", b"two"])
    assert broker.stop()
    assert broker.status() is None
    assert not any(map(is_alive, first.pids))
    assert not broker.stop()
    second = broker.start()
    assert second.bootstrap_servers == first.bootstrap_servers
    assert read(second.bootstrap_servers, "kept", 2) == [b"one", b"two"]


def test_a_killed_broker_starts_again_with_its_records(broker: EmbeddedBroker) -> None:
    first = broker.start(owned=True)
    write(first.bootstrap_servers, "kept", [b"one"])
    os.kill(first.pids[0], signal.SIGKILL)
    wait_until(lambda: broker.status() is None, "the broker that was killed is gone")
    second = broker.start(owned=True)
    assert second.pids != first.pids
    assert read(second.bootstrap_servers, "kept", 1) == [b"one"]


def test_processes_that_start_at_once_start_one_broker(broker: EmbeddedBroker, broker_settings: BrokerSettings) -> None:
    starters = [start_elsewhere(broker_settings, "detached") for _ in range(3)]
    found = [pids_from(starter) for starter in starters]
    assert [starter.wait() for starter in starters] == [0, 0, 0]
    assert found[0] == found[1] == found[2]
    running = broker.status()
    assert running is not None
    assert list(running.pids) == found[0]  # and it outlives the processes that started it


def test_an_owned_broker_does_not_outlive_a_sigkill_of_its_owner(broker_settings: BrokerSettings) -> None:
    owner = start_elsewhere(broker_settings, "owned", "import time; time.sleep(300)")
    (pid,) = pids_from(owner)
    assert is_alive(pid)
    owner.kill()
    owner.wait()
    wait_until(lambda: not is_alive(pid), "the broker ends with its owner")


def test_an_owned_broker_ends_when_its_owner_ends(broker_settings: BrokerSettings) -> None:
    owner = start_elsewhere(broker_settings, "owned")
    (pid,) = pids_from(owner)
    assert owner.wait(60) == 0
    assert not is_alive(pid)


def test_a_broker_that_hangs_is_reported_by_start_and_killed_by_stop(
    broker: EmbeddedBroker, broker_settings: BrokerSettings
) -> None:
    (pid,) = broker.start(owned=True).pids
    os.kill(pid, signal.SIGSTOP)
    hasty = msgspec.structs.replace(broker_settings, start_timeout_s=2)
    with pytest.raises(BrokerError, match=r"serves no clients.*millrace broker stop"):
        EmbeddedBroker(hasty).start()
    began = time.monotonic()
    EmbeddedBroker(broker_settings, stop_timeout_s=1).stop()
    assert time.monotonic() - began < broker.stop_timeout_s, "it waited for longer than it was told to"
    assert not is_alive(pid)


def test_lost_bookkeeping_of_a_running_broker_costs_no_record(broker: EmbeddedBroker) -> None:
    first = broker.start(owned=True)
    write(first.bootstrap_servers, "kept", [b"one"])
    (broker.data / "broker.json").unlink()
    second = broker.start(owned=True)
    assert len(second.pids) == 1
    assert second.pids != first.pids
    assert read(second.bootstrap_servers, "kept", 1) == [b"one"]


def test_three_nodes_serve_with_one_killed_and_start_heals_them(broker_settings: BrokerSettings) -> None:
    broker = EmbeddedBroker(broker_settings, nodes=3, stop_timeout_s=3)
    info = broker.start(owned=True)
    try:
        write(info.bootstrap_servers, "kept", [b"one"], copies=3)
        os.kill(info.pids[0], signal.SIGKILL)
        wait_until(lambda: len(alive(broker).pids) == 2, "one node of three is gone")
        write(info.bootstrap_servers, "kept", [b"two"])
        healed = broker.start()
        assert len(healed.pids) == 3
        assert set(info.pids[1:]) < set(healed.pids)
        assert read(healed.bootstrap_servers, "kept", 2) == [b"one", b"two"]
        with pytest.raises(BrokerError, match=r"made with 3 node\(s\), not 1"):
            EmbeddedBroker(broker_settings).start()
    finally:
        broker.stop()


def alive(broker: EmbeddedBroker) -> BrokerInfo:
    info = broker.status()
    assert info is not None
    return info


def test_clients_reach_the_broker_at_the_port_that_was_wished_for(broker_settings: BrokerSettings) -> None:
    (port,) = choose_ports(1)
    broker = EmbeddedBroker(broker_settings, port=port)
    try:
        assert broker.start(owned=True).bootstrap_servers == f"127.0.0.1:{port}"
    finally:
        broker.stop()


def test_extra_properties_reach_kafka(broker_settings: BrokerSettings) -> None:
    broker = EmbeddedBroker(broker_settings, extra_properties={"log.retention.hours": "7"})
    info = broker.start(owned=True)
    admin = AdminClient({"bootstrap.servers": info.bootstrap_servers})
    resource = ConfigResource(ResourceType.BROKER, "1")
    entries = admin.describe_configs([resource])[resource].result(60)
    broker.stop()
    assert entries["log.retention.hours"].value == "7"


def test_a_property_that_kafka_refuses_is_told_in_its_words_and_leaves_nothing_running(
    broker_settings: BrokerSettings,
) -> None:
    broker = EmbeddedBroker(broker_settings, extra_properties={"num.io.threads": "many"})
    with pytest.raises(BrokerError, match=r"num\.io\.threads"):
        broker.start(owned=True)
    assert broker.status() is None


def test_neither_java_nor_maven_of_the_machine_is_used(broker_settings: BrokerSettings) -> None:
    ensure_jars(cache_path(), JgoFetcher())
    environ = {"PATH": "/nowhere", "HOME": os.environ["HOME"], "XDG_CACHE_HOME": str(cache_path().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", START, broker_settings.data, "owned"], env=environ, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_used_is_told_with_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BrokerError, match=r"file/broker.*MILLRACE_BROKER__DATA.*KAFKA_BOOTSTRAP_SERVERS"):
        EmbeddedBroker(BrokerSettings(data=str(tmp_path / "file" / "broker"))).start()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system in memory; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "millrace-test", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system needs root")
        return folder

    yield mount
    with suppress(OSError):
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("options", "why"), [("size=8m", "No space left on device"), ("size=500m,ro", "Read-only file system")]
)
def test_a_full_or_read_only_disk_is_told_before_kafka_starts(
    small_disk: Callable[..., Path], options: str, why: str
) -> None:
    settings = BrokerSettings(data=str(small_disk(options) / "broker"))
    with pytest.raises(BrokerError, match=why):
        EmbeddedBroker(settings).start(owned=True)


def test_a_disk_that_fills_up_under_a_running_broker_ends_it_and_start_says_so(
    small_disk: Callable[..., Path],
) -> None:
    disk = small_disk("size=120m")
    broker = EmbeddedBroker(BrokerSettings(data=str(disk / "broker"), heap_mib=256))
    info = broker.start(owned=True)
    fill(disk / "ballast")
    admin = AdminClient({"bootstrap.servers": info.bootstrap_servers, "log_level": 0})
    with suppress(KafkaException, TimeoutError):
        admin.create_topics([NewTopic("full", 1, 1)])["full"].result(5)
    wait_until(lambda: broker.status() is None, "Kafka ends on a full disk")
    with pytest.raises(BrokerError, match="No space left on device"):
        broker.start(owned=True)
    (disk / "ballast").unlink()
    assert broker.start(owned=True).bootstrap_servers
    broker.stop()


def fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * 4096)


def test_a_removed_folder_of_a_running_broker_is_made_anew(broker: EmbeddedBroker) -> None:
    first = broker.start(owned=True)
    broker.data.rename(broker.data.with_name("elsewhere"))
    second = broker.start(owned=True)
    assert len(second.pids) == 1
    assert not is_alive(first.pids[0])


def run_cli(*arguments: str) -> Any:
    command = [sys.executable, "-m", "console.main", "broker", *arguments, "--json"]
    return msgspec.json.decode(subprocess.run(command, capture_output=True, check=True).stdout)


def test_the_command_starts_tells_and_stops_in_json(tmp_path: Path) -> None:
    data = str(tmp_path / "broker")
    assert run_cli("status", "--data", data) == {"running": False}
    started = run_cli("start", "--data", data)
    try:
        assert started["running"]
        assert started["nodes"] == 1
        assert run_cli("status", "--data", data) == started
    finally:
        assert run_cli("stop", "--data", data) == {"stopped": True, "data": data}
    assert run_cli("stop", "--data", data) == {"stopped": False, "data": data}
