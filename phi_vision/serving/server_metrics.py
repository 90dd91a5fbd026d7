"""Prometheus metrics of a server."""

from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Latency buckets: from an immediate rejection to a large model on a CPU."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class ServerMetrics:
    """The metrics of one server, in a registry of its own.

    metrics.requests.labels(route="/v1/records", status="200").inc()
    metrics.tokens.labels(direction="in").inc(757)
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, namespace="phi_vision", registry=self.registry)
        gauge = partial(Gauge, namespace="phi_vision", registry=self.registry)
        histogram = partial(Histogram, namespace="phi_vision", registry=self.registry)
        self.requests = counter("requests", "HTTP responses.", ["route", "status"])
        self.request_seconds = histogram(
            "request_seconds",
            "Latency in seconds, from a request's headers to the last byte of its response.",
            ["route"],
            buckets=SECONDS,
        )
        self.requests_in_progress = gauge("requests_in_progress", "HTTP requests in progress.")
        self.requests_queued = gauge("requests_queued", "Requests queued for the model.")
        self.requests_running = gauge("requests_running", "Requests in the running batch.")
        self.batch_size = histogram("batch_size", "Requests per batch.", buckets=BATCH_SIZES)
        self.batch_seconds = histogram("batch_seconds", "Seconds per batch.", buckets=SECONDS)
        self.tokens = counter(
            "tokens", "Prompt tokens (in) and generated tokens (out).", ["direction"]
        )
        self.cancelled = counter("cancelled", "Requests whose client disconnected.")
        self.timed_out = counter("timed_out", "Requests that timed out.")
        self.rejected = counter(
            "rejected", "Requests rejected by the middleware or the queue, by error code.", ["code"]
        )

    def text(self) -> str:
        """Format all metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry).decode()
