"""The measurements for Prometheus: requests, latencies by stage, how many wait, and what the process takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

WATCH_STATES = ("watching", "indexing", "failing")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One registry a server, so that two in one process do not share their counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "mmsearch_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "mmsearch_request_seconds",
            "Time to answer, by route.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "mmsearch_stage_seconds", "Time of a stage.", ["stage"], buckets=_BUCKETS, registry=self._registry
        )
        self._waiting = Gauge(
            "mmsearch_queue_length", "Requests that wait, by lane.", ["lane"], registry=self._registry
        )
        self._items = Gauge(
            "mmsearch_index_items", "Searchable items of the index, by kind.", ["kind"], registry=self._registry
        )
        self._failures = Gauge(
            "mmsearch_index_failures", "Failures in the ledger of the index.", registry=self._registry
        )
        self._watch = Gauge(
            "mmsearch_watch_state", "1 for what --watch is doing, else 0.", ["state"], registry=self._registry
        )
        self._watch_files = Gauge(
            "mmsearch_watch_files",
            "Files of the run that goes on: done, and changed.",
            ["count"],
            registry=self._registry,
        )
        threads = Gauge("mmsearch_threads", "Threads of the server.", registry=self._registry)
        threads.set_function(threading.active_count)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(name).observe(time.perf_counter() - began)

    def queue(self, lane: str, length: int) -> None:
        """How many wait in a lane."""
        self._waiting.labels(lane).set(length)

    def index(self, items: Mapping[str, int], failures: int) -> None:
        """How many items of each kind the index has, and how many failures are in its ledger."""
        for kind, count in items.items():
            self._items.labels(kind).set(count)
        self._failures.set(failures)

    def watching(self, state: str, done: int, total: int) -> None:
        """What `serve --watch` is doing: its state is one of `WATCH_STATES`."""
        for name in WATCH_STATES:
            self._watch.labels(name).set(name == state)
        self._watch_files.labels("done").set(done)
        self._watch_files.labels("changed").set(total)

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)
