"""`millrace up`, `down` and `status`: everything on this machine, in one go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import click

from agents.broker import KAFKA_PORT, EmbeddedBroker
from agents.topics import create_topics
from console.cluster import at
from console.detach import detach
from console.models_needed import ensure_models
from console.output import Output, json_option
from console.processes import ProcessId, end_all
from console.progress import byte_progress
from console.state import AlreadyUpError, StateFile, UpState, WorkerState
from console.supervisor import Place, Supervisor
from console.worker_process import WorkerProcess, worker_environ
from pipeline.errors import MillraceError
from pipeline.models.store import find_model
from pipeline.settings import Settings, load_settings

__all__ = ["down", "status", "up"]

READY_TIMEOUT_S = 180.0
STOP_MARGIN_S = 5.0
TICK_S = 0.2


@click.command()
@click.option("-w", "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many workers.")
@click.option("-d", "--detach", "detached", is_flag=True, help="Return once all is ready; `millrace down` stops it.")
@json_option
def up(*, workers: int, detached: bool, as_json: bool) -> None:
    """Start the embedded broker (unless KAFKA_BOOTSTRAP_SERVERS names one), the topics and the workers.

    It restarts workers that die, until Ctrl-C or `millrace down`. Starting it twice changes nothing.
    """
    output, state = Output(as_json=as_json), StateFile()
    if not state.held():
        settings = load_settings()
        ensure_models(settings, output)
        for name in settings.models.serve:
            find_model(name, settings)  # a misspelt one is told before Kafka starts
        if not detached:
            _run(settings, workers, state, output)
            return
        detach(workers, state, output)
    else:
        output.say("already up")
    report(state.read(), output)


@click.command()
@json_option
def down(*, as_json: bool) -> None:
    """Stop what `millrace up` started, and what is left of one that was killed."""
    output, state = Output(as_json=as_json), StateFile()
    found = state.read()
    running = state.held()
    if running and found is not None:
        drain_s = load_settings().worker.drain_timeout_s + 2 * STOP_MARGIN_S + 10.0
        if not end_all([found.supervisor], drain_s):
            raise MillraceError(f"`millrace up` (pid {found.supervisor.pid}) does not end. Look at {state.log}.")
    leftovers = _stop_leftovers(state, output)
    stopped = running or leftovers
    if as_json:
        output.document({"stopped": stopped})
    else:
        output.say("stopped" if stopped else "nothing was running")


@click.command()
@json_option
def status(*, as_json: bool) -> None:
    """Say what runs here: the broker, the supervisor and its workers."""
    output, state = Output(as_json=as_json), StateFile()
    report(state.read() if state.held() else None, output)


def report(state: UpState | None, output: Output) -> None:
    """The one document (or few lines) about what is up; ``state`` is ``None`` when no `up` runs."""
    broker = EmbeddedBroker(load_settings().broker).status()
    document = {
        "running": state is not None,
        "ready": state is not None and state.ready,
        "supervisor_pid": state.supervisor.pid if state else None,
        "bootstrap_servers": state.bootstrap_servers if state else broker.bootstrap_servers if broker else None,
        "embedded_broker": {"pids": broker.pids, "bootstrap_servers": broker.bootstrap_servers} if broker else None,
        "workers": [_worker_report(worker) for worker in state.workers] if state else [],
    }
    if output.as_json:
        output.document(document)
        return
    _say_report(state, document["bootstrap_servers"] if broker or state else None, output)


def _worker_report(worker: WorkerState) -> dict[str, object]:
    return {
        "number": worker.number,
        "pid": worker.process.pid,
        "alive": worker.process.alive(),
        "ready": worker.ready,
        "models": worker.models,
        "metrics_port": worker.metrics_port,
        "restarts": worker.restarts,
    }


def _say_report(state: UpState | None, servers: object, output: Output) -> None:
    output.say(f"Kafka     {servers}" if servers else "Kafka     not running")
    if state is None:
        output.say("workers   not running; `millrace up` starts them")
        return
    output.say(f"up        pid {state.supervisor.pid}, {'ready' if state.ready else 'starting'}")
    for worker in state.workers:
        condition = "serves " + ", ".join(worker.models) if worker.ready else "starting"
        metrics = f", metrics on port {worker.metrics_port}" if worker.metrics_port else ""
        restarts = f", restarted {worker.restarts} times" if worker.restarts else ""
        output.say(f"worker {worker.number}  pid {worker.process.pid}, {condition}{metrics}{restarts}")


def _run(settings: Settings, workers: int, state: StateFile, output: Output) -> None:
    """Start all, keep it running until interrupted, and stop it in the opposite order."""
    with ExitStack() as stack:
        try:
            stack.enter_context(state.locked())
        except AlreadyUpError:
            output.say("already up")
            return
        _stop_leftovers(state, output)
        stack.callback(state.remove)
        settings, owned = stack.enter_context(_kafka(settings, output))
        create_topics(settings)
        supervisor = _supervisor(settings, workers, output)
        stack.callback(_stop, supervisor, settings, output)
        record = partial(_record, state, supervisor, settings, owned)
        _serve(supervisor, record, output, state)


def _serve(supervisor: Supervisor, record: partial[None], output: Output, state: StateFile) -> None:
    try:
        supervisor.start()
        record()
        supervisor.wait_ready(READY_TIMEOUT_S)
        record()
        if output.as_json:
            report(state.read(), output)
        else:
            output.say("ready. Ctrl-C stops everything.", style="bold green")
        while True:
            if supervisor.tick():
                record()
            time.sleep(TICK_S)
    except KeyboardInterrupt:
        output.say("stopping")


@contextmanager
def _kafka(settings: Settings, output: Output) -> Iterator[tuple[Settings, bool]]:
    """The settings with a running Kafka, and whether it was started here; if so it is stopped at the end."""
    if settings.kafka.bootstrap_servers:
        yield settings, False
        return
    broker = EmbeddedBroker(settings.broker, port=KAFKA_PORT)
    started = broker.status() is None
    with byte_progress(output, "Fetching Kafka") as progress:
        info = broker.start(progress, owned=True)
    output.say(f"Kafka {'started' if started else 'runs'} at {info.bootstrap_servers}")
    try:
        yield at(settings, info.bootstrap_servers), started
    finally:
        if started:
            broker.stop()


def _supervisor(settings: Settings, workers: int, output: Output) -> Supervisor:
    environ = worker_environ(settings, os.environ, workers=workers)
    if settings.worker.metrics_port < 0 or workers > 1:
        environ["MILLRACE_WORKER__METRICS_PORT"] = "0"
    member = settings.kafka.group_instance_id

    def start(number: int) -> WorkerProcess:
        # Two members of one name would fence each other for ever.
        own = {"MILLRACE_KAFKA__GROUP_INSTANCE_ID": f"{member}-{number}"} if member and workers > 1 else {}
        return WorkerProcess({**environ, **own})

    return Supervisor(workers, start, say=output.say)


def _stop(supervisor: Supervisor, settings: Settings, output: Output) -> None:
    if not supervisor.stop(settings.worker.drain_timeout_s + STOP_MARGIN_S):
        output.warn("a worker did not end in time and was killed; what it had in flight will be served again")


def _record(state: StateFile, supervisor: Supervisor, settings: Settings, started_broker: bool) -> None:
    workers = tuple(filter(None, map(_worker_state, supervisor.places)))
    state.write(
        UpState(
            supervisor=ProcessId.of(os.getpid()),
            bootstrap_servers=settings.kafka.bootstrap_servers,
            started_broker=started_broker,
            ready=supervisor.all_ready(),
            workers=workers,
        )
    )


def _worker_state(place: Place) -> WorkerState | None:
    if place.handle is None:
        return None
    ready = place.handle.ready()
    return WorkerState(
        number=place.number,
        process=ProcessId.of(place.handle.pid),
        ready=ready is not None,
        models=ready.models if ready else (),
        metrics_port=ready.metrics_port if ready else None,
        restarts=place.restarts,
    )


def _stop_leftovers(state: StateFile, output: Output) -> bool:
    """End what an `up` that was killed left behind; whether there was anything."""
    found = state.read()
    if found is None:
        return False
    processes = [worker.process for worker in found.workers if worker.process.alive()]
    if processes:
        output.say(f"stopping {len(processes)} workers that an earlier `millrace up` left behind")
        end_all(processes, STOP_MARGIN_S)
    state.remove()
    return bool(processes)
