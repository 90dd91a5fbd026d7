"""Settings, error responses, log lines and metrics."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable

import pytest

from phi_vision.serving.errors import TEXTS, ApiError, internal_error
from phi_vision.serving.settings import LIMITS, Settings
from phi_vision.serving.telemetry import JsonFormatter, RareLines, ServerMetrics

# Settings


@pytest.mark.parametrize(("name", "least", "most"), [(n, *r) for n, r in LIMITS.items()])
def test_a_setting_out_of_range_is_rejected(name: str, least: float, most: float) -> None:
    for value in (least - 1, most + 1, float("nan")):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is"):
            Settings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["", "https://shop.example", "shop.example/coats", "*.example"])
def test_a_host_is_a_name(host: str) -> None:
    with pytest.raises(ValueError, match="which is not a host"):
        Settings(allow_hosts=(host,))


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "https://a b", "null"])
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    Settings(allow_origins=("*", "https://shop.example", "http://[::1]:3000"))
    with pytest.raises(ValueError, match=r"--allow-origins has .* which is not an origin"):
        Settings(allow_origins=(origin,))


# The key


@pytest.mark.parametrize("key", ["", "with blank", "line\nend", "clé"])
def test_a_key_that_no_header_can_carry_is_rejected(key: str) -> None:
    with pytest.raises(ValueError, match="the key is empty or has spaces"):
        Settings(key=key)


def test_the_key_is_not_shown() -> None:
    assert "hunter2" not in repr(Settings(key="hunter2"))


# What a caller is told


def test_an_error_has_the_shape_of_openai() -> None:
    error = ApiError(429, "64 wait", code="queue_full", retry_after=1.2)
    response = error.response()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert json.loads(bytes(response.body)) == {
        "error": {
            "message": "64 wait",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
    }


class Found:
    """A value of a message, whatever its format."""

    def __format__(self, form: str) -> str:
        return form


def test_every_error_has_a_status_and_a_message() -> None:
    for case, (status, message) in TEXTS["errors"].items():
        assert 400 <= status < 600, case
        assert message.format_map(defaultdict(Found)), case


# What is written down


def logged(caplog: pytest.LogCaptureFixture, happen: Callable[[], object]) -> dict[str, object]:
    with caplog.at_level(logging.INFO):
        happen()
    line = JsonFormatter().format(caplog.records[-1])
    assert "\n" not in line
    read: dict[str, object] = json.loads(line)
    return read


def test_unexpected_errors_are_logged_without_their_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        try:
            raise ValueError("a wool coat")
        except ValueError as error:
            internal_error(error, "req-1")

    line = logged(caplog, fail)
    assert (line["level"], line["id"], line["error"]) == ("error", "req-1", "ValueError")
    assert str(line["traceback"]).startswith("['test_settings_and_errors.py:")


def test_library_errors_are_logged_without_their_message(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server started by another test keeps these records from the root logger.
    for name in ("uvicorn", "uvicorn.error"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.INFO, name)

    def fail() -> None:
        try:
            raise KeyError("a wool coat")
        except KeyError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")

    line = logged(caplog, fail)
    assert line["event"] == "Exception in ASGI application\n"
    assert (line["logger"], line["error"]) == ("uvicorn.error", "KeyError")


def test_messages_of_system_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(caplog, lambda: internal_error(MemoryError("of 3 GiB"), "req-1"))
    assert line["error"] == "MemoryError: of 3 GiB"


def test_metrics_are_in_prometheus_format() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics, others = ServerMetrics(), ServerMetrics()
    metrics.tokens.labels(direction="in").inc(757)
    families = {family.name: family for family in text_string_to_metric_families(metrics.text())}
    (total, *_) = families["phi_vision_tokens"].samples
    assert (total.labels, total.value) == ({"direction": "in"}, 757)
    # Not the number itself: clocks and memory may contain it.
    assert "phi_vision_tokens_total{" in metrics.text()
    assert "phi_vision_tokens_total{" not in others.text()


def test_a_place_in_a_library_logs_one_line_a_second() -> None:
    rare = RareLines()

    def is_logged(name: str, line: int, created: float) -> bool:
        record = logging.LogRecord(name, logging.ERROR, "events.py", line, "out of files", (), None)
        record.created = created
        return rare.filter(record)

    assert [is_logged("asyncio", 7, time) for time in (100.0, 100.5, 101.2)] == [True, False, True]
    assert is_logged("asyncio", 8, 101.3)
    assert all(is_logged("phi_vision.serving.middleware", 9, 100.0) for _ in range(3))
