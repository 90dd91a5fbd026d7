"""What a server writes down: one line of JSON for each thing that happened, to stderr.

{"time": "2026-11-21T12:00:00.125Z", "level": "info", "what": "request", "id": "req-5f…",
 "method": "POST", "path": "/v1/records", "status": 200, "milliseconds": 412.5, …}

Never in it: images, questions, answers, keys.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from phi_vision.serving.errors import name_of, places_of


class JsonLines(logging.Formatter):
    """Writes what is logged as JSON: one object on one line, whatever the words contain."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line.

        Input:  LOG.info("request", extra={"facts": {"id": "req-1", "status": 200}})
        Output: {"time": "…Z", "level": "info", "what": "request", "id": "req-1", "status": 200}
        """
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "what": record.getMessage(),
        }
        if record.name.partition(".")[0] != "phi_vision":
            line["from"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            # Not as Python prints it: the words of an error may quote what was asked.
            line["error"] = name_of(record.exc_info[1])
            line["at"] = places_of(record.exc_info[1])
        return json.dumps(line | vars(record).get("facts", {}), ensure_ascii=False, default=str)


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": JsonLines}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "lines",
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "phi_vision": {"level": "INFO"},
        # What uvicorn says of its own life is said better here; of requests Guards tells.
        "uvicorn": {"level": "WARNING"},
        # Its warnings quote addresses that callers gave.
        "aiohttp": {"level": "ERROR"},
    },
}
"""For `logging.config.dictConfig`: everything that anybody logs becomes such lines."""
