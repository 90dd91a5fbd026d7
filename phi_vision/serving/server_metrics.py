"""Figures: what a server counts and times, in the form Prometheus reads.

Knows no requests; whoever does something counts it here.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Bounds of what is timed: from an answer refused at once to one of a large model on a CPU."""

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Bounds of what is answered together."""


class Figures:
    """The figures of one server, in a registry of its own.

    figures.requests.labels(route="/v1/records", status="200").inc()
    figures.tokens.labels(direction="in").inc(757)
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "phi_vision_requests",
            "Requests answered.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "phi_vision_request_seconds",
            "Seconds from a request's first line to the last byte of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.requests_running = self._gauge("requests_running", "Requests under way.")
        self.waiting = self._gauge("questions_waiting", "Questions waiting for the model.")
        self.running = self._gauge("questions_running", "Questions the model is answering.")
        self.batch_sizes = self._histogram(
            "batch_questions", "Questions answered together.", BATCHES
        )
        self.batch_seconds = self._histogram(
            "batch_seconds", "Seconds the model took for a batch.", SECONDS
        )
        self.tokens = Counter(
            "phi_vision_tokens",
            "Tokens read (in) and written (out).",
            ["direction"],
            registry=self.registry,
        )
        self.cancelled = self._counter("cancelled", "Questions whose caller hung up.")
        self.timed_out = self._counter("timed_out", "Questions that took too long.")
        self.refused = Counter(
            "phi_vision_refused",
            "Requests turned away at the door or the queue, by the code that was told.",
            ["code"],
            registry=self.registry,
        )

    def text(self) -> str:
        """Write all figures as Prometheus reads them; the type is `text/plain; version=0.0.4`."""
        return generate_latest(self.registry).decode()

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"phi_vision_{name}", words, registry=self.registry)

    def _counter(self, name: str, words: str) -> Counter:
        return Counter(f"phi_vision_{name}", words, registry=self.registry)

    def _histogram(self, name: str, words: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"phi_vision_{name}", words, buckets=bounds, registry=self.registry)
