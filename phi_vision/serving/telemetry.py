"""The server's log, one JSON object per line and event, and its Prometheus metrics.

{"time": "2026-11-21T12:00:00.125Z", "level": "info", "event": "request", "id": "req-5f…",
 "method": "POST", "path": "/v1/records", "status": 200, "milliseconds": 412.5, …}

The log never contains images, prompts, predictions or keys. logging.yaml puts the parts together.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

# Errors whose messages come from the system or from torch. Others may quote the request.
SAFE_MESSAGES = (OSError, RuntimeError, MemoryError)
# Latency buckets: from an immediate rejection to a large model on a CPU.
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class RareLines(logging.Filter):
    """Drops lines of libraries that come from the same place more than once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        place = record.pathname, record.lineno
        is_rare = record.created >= self._last.get(place, 0) + 1
        if is_rare:
            self._last[place] = record.created
        return is_rare or record.name.startswith("phi_vision")


class JsonFormatter(logging.Formatter):
    """Formats log records as JSON, one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; its further fields are given as `extra={"fields": {...}}`."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name.partition(".")[0] != "phi_vision":
            line["logger"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            line |= error_fields(record.exc_info[1])
        return json.dumps(line | vars(record).get("fields", {}), ensure_ascii=False, default=str)


def error_fields(error: BaseException) -> dict[str, Any]:
    """Describe an error for the log, with its message only where that cannot quote a request."""
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return {
        "error": f"{kind}: {str(error)[:500]}" if isinstance(error, SAFE_MESSAGES) else kind,
        "traceback": [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames],
    }


class ServerMetrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, namespace="phi_vision", registry=self.registry)
        gauge = partial(Gauge, namespace="phi_vision", registry=self.registry)
        histogram = partial(Histogram, namespace="phi_vision", registry=self.registry)
        self.requests = counter("requests", "HTTP responses.", ["route", "status"])
        seconds = "Latency in seconds, from a request's headers to the last byte of its response."
        self.request_seconds = histogram("request_seconds", seconds, ["route"], buckets=SECONDS)
        self.requests_in_progress = gauge("requests_in_progress", "HTTP requests in progress.")
        self.requests_queued = gauge("requests_queued", "Requests queued for the model.")
        self.requests_running = gauge("requests_running", "Requests in the running batch.")
        self.batch_size = histogram("batch_size", "Requests per batch.", buckets=BATCH_SIZES)
        self.batch_seconds = histogram("batch_seconds", "Seconds per batch.", buckets=SECONDS)
        tokens = "Prompt tokens (in) and generated tokens (out)."
        self.tokens = counter("tokens", tokens, ["direction"])
        self.cancelled = counter("cancelled", "Requests whose client disconnected.")
        self.timed_out = counter("timed_out", "Requests that timed out.")
        rejected = "Requests rejected by the middleware or the queue, by error code."
        self.rejected = counter("rejected", rejected, ["code"])

    def text(self) -> str:
        """Format all metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry).decode()
