"""The server's counters, for Prometheus; a registry per application, so that tests can have several."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from genrec.serve.live import Live

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_REFUSED = {401: "key", 408: "slow", 413: "size", 421: "host", 429: "overload", 504: "timeout"}


class Metrics:
    """What is counted.

    Args:
        live: whose queue is measured, and whose batches.
    """

    def __init__(self, live: Live) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "genrec_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "genrec_request_seconds",
            "From the request's first byte to the answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge("genrec_requests_running", "Requests now.", registry=registry)
        self.rejected = Counter(
            "genrec_rejected", "Requests turned away.", ["reason"], registry=registry
        )
        self.batch_size = Histogram(
            "genrec_batch_size", "Requests per batch.", buckets=_SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            "genrec_batch_seconds", "Time per batch.", buckets=_SECONDS, registry=registry
        )
        queue = Gauge("genrec_queue_depth", "Requests that wait for a batch.", registry=registry)
        queue.set_function(lambda: live.waiting)
        kept = Gauge("genrec_prompt_cache_bytes", "Prompts kept computed.", registry=registry)
        kept.set_function(lambda: live.prompt_bytes)
        live.watch = self.batch

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` is a path of the API, never what a client wrote."""
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)
        if status in _REFUSED:
            self.rejected.labels(_REFUSED[status]).inc()

    def batch(self, size: int, seconds: float) -> None:
        """Counts a computed batch."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)
