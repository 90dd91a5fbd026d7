"""A `phi-vision serve` in a process of its own: started, watched, read, and asked to leave.

Holds nothing of what it is asked (`serve_requests.py`) or by whom (`serve_clients.py`).
"""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

START_SECONDS = 180.0
"""So long a server may take until it is ready: it imports torch and loads a model."""

LEAVE_SECONDS = 60.0
"""So long it may take to end what it is answering."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Other cores are for the clients, and figures do not depend on how many there are."""

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Name of a metric and its labels -> value."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that is ready."""

    address: str
    """Such as http://127.0.0.1:8000."""

    key: str
    """What it wants to be shown as a bearer token."""

    process: subprocess.Popen[bytes]
    """Where it lives."""

    log: Path
    """What it has printed, until the server is gone."""


class Look(NamedTuple):
    """Operating-system metrics of the server at one moment."""

    second: float
    memory: int
    """Resident bytes."""
    files: int
    """Open file descriptors, connections among them."""
    threads: int


@contextmanager
def serving(model: str, options: Sequence[str] = ()) -> Iterator[Server]:
    """Run a server on a free port of this machine until the block is left.

    Args:
        model: What `phi-vision serve` takes.
        options: More words of its command line.

    Raises:
        RuntimeError: It ended, or was not ready in time; shows what it printed.
    """
    port, key = _free_port(), secrets.token_urlsafe()
    words = ["serve", model, "--port", str(port), *options]
    command = [str(Path(sys.executable).with_name("phi-vision")), *words]
    environment = os.environ | ONE_THREAD | {"PHI_VISION_KEY": key}
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        address = f"http://127.0.0.1:{port}"
        try:
            server = Server(address=address, key=key, process=process, log=Path(log.name))
            asyncio.run(_until_ready(server))
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def leave(server: Server) -> tuple[int | None, float]:
    """Ask a server to end, as an operating system does: its exit code and how long it took.

    Returns:
        None as the exit code where it did not end in time.
    """
    started = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    try:
        code: int | None = server.process.wait(LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        code = None
    return code, time.perf_counter() - started


async def watch(server: Server, looks: list[Look], every: float = 0.25) -> None:
    """Look at a server's process again and again, until cancelled."""
    process = psutil.Process(server.process.pid)
    started = time.perf_counter()
    while True:
        looks.append(look(process, time.perf_counter() - started))
        await asyncio.sleep(every)


def look(process: psutil.Process, second: float = 0.0) -> Look:
    """Ask the system about a process."""
    with process.oneshot():
        memory = process.memory_info().rss
        return Look(second, memory, process.num_fds(), process.num_threads())


async def read_figures(server: Server, session: aiohttp.ClientSession) -> Figures:
    """Read what the server says of itself at /metrics.

    Output: {("phi_vision_requests_total", (("route", "/v1/models"), ("status", "200"))): 3.0, ...}
    """
    headers = {"Authorization": f"Bearer {server.key}"}
    async with session.get(f"{server.address}/metrics", headers=headers) as answer:
        answer.raise_for_status()
        text = await answer.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(figures: Figures, name: str) -> float:
    """Add a metric up over all its labels.

    Raises:
        ValueError: The server does not count that.
    """
    values = [value for (found, _), value in figures.items() if found == name]
    if not values:
        known = ", ".join(sorted({found for found, _ in figures}))
        raise ValueError(f"/metrics has no {name}; found {known}; the names have changed")
    return sum(values)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def _until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and server.process.poll() is None:
            try:
                async with session.get(f"{server.address}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass  # not listening yet
            await asyncio.sleep(0.1)
    raise RuntimeError(
        f"the server was not ready (exit code {server.process.poll()}): {server.log.read_text()}"
    )
