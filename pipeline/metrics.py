"""What a worker reports to Prometheus.

The engine fills in what happens inside it; whoever feeds it counts records, outcomes and lag, because only there is it
known what was delivered.
"""

from __future__ import annotations

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from pipeline.errors import SettingsError

__all__ = ["Metrics"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one worker, in a registry of their own, so that two in one process do not clash.

    Attributes:
        records: records read, by ``topic`` (set by the agents).
        outcomes: outcomes delivered, by ``topic`` of the record and ``status`` (set by the agents).
        lag: records behind the end of the log, by ``topic`` and ``partition`` (set by the agents).
        held: 1 while nothing is fetched of a partition because nobody can tell where it starts, by ``topic`` and
            ``partition`` (set by the agents).
        end_to_end: seconds from a record's timestamp to its delivered outcome, by ``topic`` (set by the agents).
        in_flight: requests inside the engine, by ``model``.
        results: what the engine made of its requests, by ``model`` and ``status``: ``ok``, ``expired``, ``cancelled``
            or a record error's code.
        steps: seconds a request spent, by ``model`` and ``step``: ``prepare``, ``queue`` and ``run``; ``publish`` is
            set by the agents.
        batch_size: records in each run of the device, by ``model`` and ``kind``: ``batch`` or ``decode``; failed runs
            are not counted.
        prompt_tokens: tokens read, by ``model``.
        generated_tokens: tokens written, by ``model``.
        device_seconds: time the device worked, by ``model``.
        retries: failed batches that were run again, by ``model``.
        bisections: failed batches that were divided to find the record to blame, by ``model``.
        rebuilds: sessions rebuilt after a failure, by ``model``.
        model_info: 1 for each version that takes requests, by ``model``, ``variant`` and ``provider``.
        swaps: promoted versions that a running worker found, by ``model`` (the name alone) and ``result``: ``ok``, or
            ``refused`` when the version before goes on.
        store_hits, store_misses: requests that the result store had an outcome for, and had none for.
        store_puts: outcomes that the result store took.
        store_errors: calls that the result store failed, by ``operation``: ``get`` or ``put``.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self._server: tuple[WSGIServer, threading.Thread] | None = None
        self.records = Counter("millrace_records", "Records read.", ["topic"], registry=registry)
        self.outcomes = Counter("millrace_outcomes", "Outcomes delivered.", ["topic", "status"], registry=registry)
        self.lag = Gauge("millrace_lag_records", "Records not read yet.", ["topic", "partition"], registry=registry)
        self.held = Gauge("millrace_partition_held", "Not fetched yet.", ["topic", "partition"], registry=registry)
        self.end_to_end = _seconds("millrace_end_to_end_seconds", "Record to outcome.", ["topic"], registry)
        self.in_flight = Gauge("millrace_in_flight_requests", "Requests in the engine.", ["model"], registry=registry)
        self.results = Counter("millrace_results", "Requests answered.", ["model", "status"], registry=registry)
        self.steps = _seconds("millrace_step_seconds", "Time a request spent in a step.", ["model", "step"], registry)
        self.batch_size = Histogram(
            "millrace_batch_size", "Records in one run.", ["model", "kind"], buckets=SIZES, registry=registry
        )
        self.prompt_tokens = Counter("millrace_prompt_tokens", "Tokens read.", ["model"], registry=registry)
        self.generated_tokens = Counter("millrace_generated_tokens", "Tokens written.", ["model"], registry=registry)
        self.device_seconds = Counter("millrace_device_seconds", "Device at work.", ["model"], registry=registry)
        self.retries = Counter("millrace_batch_retries", "Failed batches run again.", ["model"], registry=registry)
        self.bisections = Counter("millrace_batch_bisections", "Failed batches divided.", ["model"], registry=registry)
        self.rebuilds = Counter("millrace_session_rebuilds", "Sessions rebuilt.", ["model"], registry=registry)
        self.model_info = Gauge(
            "millrace_model_info", "What is served.", ["model", "variant", "provider"], registry=registry
        )
        self.swaps = Counter("millrace_model_swaps", "Promoted versions.", ["model", "result"], registry=registry)
        self.store_hits = Counter("millrace_result_store_hits", "Outcomes found.", registry=registry)
        self.store_misses = Counter("millrace_result_store_misses", "Outcomes not found.", registry=registry)
        self.store_puts = Counter("millrace_result_store_puts", "Outcomes kept.", registry=registry)
        self.store_errors = Counter("millrace_result_store_errors", "Calls failed.", ["operation"], registry=registry)
        ProcessCollector(registry=registry)

    def forget(self, model: str) -> None:
        """Drop every series of ``model``, a version that is served no more: the labels must not grow for ever."""
        labelled: list[tuple[Counter | Gauge | Histogram, tuple[str, ...]]] = [
            (self.in_flight, ("model",)),
            (self.results, ("model", "status")),
            (self.steps, ("model", "step")),
            (self.batch_size, ("model", "kind")),
            (self.prompt_tokens, ("model",)),
            (self.generated_tokens, ("model",)),
            (self.device_seconds, ("model",)),
            (self.retries, ("model",)),
            (self.bisections, ("model",)),
            (self.rebuilds, ("model",)),
        ]
        for metric, names in labelled:
            samples = [sample.labels for family in metric.collect() for sample in family.samples]
            for values in {tuple(labels[name] for name in names) for labels in samples if labels["model"] == model}:
                metric.remove(*values)

    def serve(self, host: str, port: int) -> int:
        """Answer ``GET /metrics`` on a thread of its own.

        Args:
            host: the address to listen on.
            port: 0 takes a free one.

        Returns:
            The port.

        Raises:
            SettingsError: the address cannot be listened on, or it is served already.
        """
        if self._server is not None:
            raise SettingsError(f"metrics are already served on port {self._server[0].server_port}.")
        try:
            self._server = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise SettingsError(
                f"metrics cannot be served on {host}:{port}: {error}. Set worker.metrics_port to 0 for a free port, "
                "or to -1 for none."
            ) from error
        return int(self._server[0].server_port)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None


def _seconds(name: str, text: str, labels: list[str], registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, labels, buckets=SECONDS, registry=registry)
