"""A server in a process of its own: how it starts, and how it stops."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from phi_vision.serving.server import bind, is_loopback, url_of
from phi_vision.serving.settings import Settings

TOKENS = 300
"""Of an answer that is long enough to be interrupted."""

KEY = {"authorization": "Bearer hunter2-hunter2"}
PROGRAM = [sys.executable, "-c", "from phi_vision.cli.main import main; raise SystemExit(main())"]


class Child:
    """`phi-vision serve` in a process, and what it has printed."""

    def __init__(self, words: Sequence[str], errors: IO[str]) -> None:
        self._errors = errors  # A file: a pipe that nobody reads would hold the server up.
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.address = self.first_line.partition(" at ")[2].partition(" ")[0]

    def end(self) -> tuple[int, str]:
        """Wait for the end; tells exit code and what it wrote to stderr."""
        code = self.process.wait(30)
        self._errors.seek(0)
        return code, self._errors.read()


@contextmanager
def child(*words: object) -> Iterator[Child]:
    with tempfile.TemporaryFile("w+") as errors:
        started = Child([str(word) for word in words], errors)
        try:
            yield started
        finally:
            started.process.kill()
            started.process.communicate()


def health_after(client: httpx.Client, status: int) -> httpx.Response:
    """Ask for /health until it has another status."""
    while (health := client.get("/health")).status_code == status:
        time.sleep(0.01)
    return health


def chat_body(tokens: int, *, stream: bool) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "What is it?"}],
        "max_tokens": tokens,
        "stream": stream,
        "stream_options": {"include_usage": True} if stream else None,
    }


class Streamed:
    """An answer that is being streamed; its events come as they are sent."""

    def __init__(self, address: str, tokens: int) -> None:
        self._url = f"{address}/v1/chat/completions"
        self._tokens = tokens
        self._events: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self.events = [self._events.get(timeout=20)]

    def _listen(self) -> None:
        body = chat_body(self._tokens, stream=True)
        with httpx.stream("POST", self._url, json=body, headers=KEY, timeout=30) as response:
            for line in response.iter_lines():
                if line:
                    self._events.put(line.removeprefix("data: "))

    def rest(self) -> list[str]:
        self._thread.join(30)
        while not self._events.empty():
            self.events.append(self._events.get())
        return self.events


def test_the_first_signal_lets_generations_finish(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2-hunter2\n")
    words = (tiny_checkpoint, "--host", "0.0.0.0", "--key-file", tmp_path / "key")
    with child(*words) as server, httpx.Client(base_url=server.address) as client:
        assert server.first_line.startswith(f"serving {tiny_checkpoint} at http://0.0.0.0:")
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/v1/models").status_code == 401
        streamed = Streamed(server.address, TOKENS)
        server.process.send_signal(signal.SIGTERM)
        assert health_after(client, 200).json() == {"status": "draining"}
        # On a connection of its own: the door is still open, to tell those who come.
        refused = httpx.post(
            f"{server.address}/v1/chat/completions", json=chat_body(1, stream=False), headers=KEY
        )
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["type"] == "server_error"
        *_, usage, done = streamed.rest()
        assert done == "[DONE]"
        assert json.loads(usage)["usage"]["completion_tokens"] == TOKENS
        code, written = server.end()
    assert code == 0
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines]
    assert [event for event in events if event != "request"] == ["draining", "drained"]
    assert {line["status"] for line in lines if line["event"] == "request"} == {200, 401, 503}
    assert "warning: anyone" not in written
    for secret in ("What is it", "hunter2"):
        assert secret not in written


def test_the_second_signal_ends_immediately(tiny_checkpoint: Path) -> None:
    words = (tiny_checkpoint, "--host", "0.0.0.0")
    with child(*words) as server, httpx.Client(base_url=server.address) as client:
        streamed = threading.Thread(target=expect_no_response, args=(server.address,))
        streamed.start()
        while "requests_running 0.0" in client.get("/metrics").text:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        assert health_after(client, 200).status_code == 503
        server.process.send_signal(signal.SIGINT)
        code, written = server.end()
        streamed.join(20)
    assert code == -signal.SIGINT
    assert (
        "warning: anyone who can connect to 0.0.0.0 can use this server; set --key-file" in written
    )


def expect_no_response(address: str) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{address}/v1/chat/completions", json=chat_body(1000, stream=False), timeout=30)


# Where it listens


def test_a_host_of_another_machine_is_rejected() -> None:
    with pytest.raises(OSError, match=r"cannot listen on port 0 of 192.0.2.1: .*another --port or"):
        bind(Settings(host="192.0.2.1", port=0))


def test_urls_are_formatted_for_both_ip_versions() -> None:
    for host, expected in (("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")):
        with bind(Settings(host=host, port=0)) as listener:
            assert url_of(listener) == f"{expected}{listener.getsockname()[1]}"
            assert is_loopback(listener)
    with bind(Settings(host="0.0.0.0", port=0)) as listener:
        assert not is_loopback(listener)
