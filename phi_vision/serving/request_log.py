"""The server's log on stderr: one JSON object per line and event.

{"time": "2026-11-21T12:00:00.125Z", "level": "info", "event": "request", "id": "req-5f…",
 "method": "POST", "path": "/v1/records", "status": 200, "milliseconds": 412.5, …}

It never contains images, prompts, predictions or keys.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SAFE_MESSAGES = (OSError, RuntimeError, MemoryError)
"""Errors whose messages come from the system or from torch. Others may quote the request."""


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
    """Describe an error for the log, with its message only where that cannot quote a request.

    Output: {"error": "RuntimeError: CUDA out of memory",
             "traceback": ["batcher.py:120 run", "generate.py:88 generate"]}
    """
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return {
        "error": f"{kind}: {str(error)[:500]}" if isinstance(error, SAFE_MESSAGES) else kind,
        "traceback": [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames],
    }


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "phi_vision": {"level": "INFO"},
        # uvicorn's lifecycle and access lines would repeat ours.
        "uvicorn": {"level": "WARNING"},
        # aiohttp's warnings quote URLs of requests.
        "aiohttp": {"level": "ERROR"},
    },
}
"""For `logging.config.dictConfig`: formats every library's log records as such lines."""
