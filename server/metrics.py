"""The measurements for Prometheus: requests, latencies by stage, how many wait, and what the process takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

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

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)
