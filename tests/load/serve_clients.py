"""The clients of a load test: valid requests, invalid ones, disconnects and slow senders.

Each client repeats random actions until the time is over. All share one `ClientPool`, which knows
the expected responses and counts deviations.
"""

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp
from yarl import URL

from tests.load.serve_process import Server
from tests.load.serve_requests import Request, response_text

HANG_SECONDS = 60.0
"""An answer that takes longer counts as none."""

SOONEST, LATEST = 0.02, 0.25
"""Seconds after which a client that was rejected with 429 does: sooner than it was asked to, so
that the queue stays full."""

DAWDLE_SECONDS = 2.0
"""So long a slow sender takes over a body."""

FAULTS_KEPT = 50


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(kw_only=True)
class Counts:
    """What all clients saw."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(route, status) -> answers."""

    unseen: Counter[str] = field(default_factory=Counter)
    """Route -> requests whose end nobody waited for."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """What was done -> how long each took."""

    right: int = 0
    """Answers that were compared with the known ones, and equal."""

    wrong: int = 0
    """Those that were not."""

    overloads: int = 0
    """Correct rejections with 429."""

    faults: list[str] = field(default_factory=list)
    """What should not have come; the first so many."""

    fault_count: int = 0

    def record_fault(self, fault: str) -> None:
        """Note what should not have come."""
        self.fault_count += 1
        if len(self.faults) < FAULTS_KEPT:
            self.faults.append(fault)


@dataclass(frozen=True, kw_only=True)
class ClientPool:
    """What the clients have in common."""

    server: Server
    session: aiohttp.ClientSession
    good: Sequence[Request]
    known: Mapping[str, str]
    """Name of a valid request -> its response without load."""
    refused: Sequence[Request]
    huge: Request
    counts: Counts = field(default_factory=Counts)

    async def ask(self, request: Request) -> Answer | None:
        """Send a request and check the response; None if there is none."""
        started = time.perf_counter()
        try:
            answer = await send(self.session, self.server, request)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.counts.record_fault(f"{request.name}: no answer but {error!r:.300}")
            return None
        self.counts.seconds[kind_of(answer)].append(time.perf_counter() - started)
        self.check(request, answer)
        return answer

    def check(self, request: Request, answer: Answer) -> None:
        """Count an answer, and record_fault where it is not what it should be."""
        self.counts.answers[request.route, answer.status] += 1
        fault = find_fault(request, answer)
        if fault is None and answer.status == 429:
            self.counts.overloads += 1
        elif fault is None and answer.status == 200 and request.name in self.known:
            fault = self._compare(request, answer)
        if fault is not None:
            self.counts.record_fault(f"{request.name}: {fault}")

    def _compare(self, request: Request, answer: Answer) -> str | None:
        try:
            found = response_text(request, answer.body)
        except ValueError as error:
            return str(error)
        if found != self.known[request.name]:
            self.counts.wrong += 1
            return f"a wrong answer: {found:.400} instead of {self.known[request.name]:.400}"
        self.counts.right += 1
        return None


Behaviour = Callable[[ClientPool, random.Random], Awaitable[None]]


async def live(pool: ClientPool, rng: random.Random, until: float) -> None:
    """Be one client: do one thing after another until the clock (`time.monotonic`) says so."""
    names, shares = list(BEHAVIOURS), [share for share, _ in BEHAVIOURS.values()]
    while time.monotonic() < until:
        (name,) = rng.choices(names, shares)
        try:
            await asyncio.wait_for(BEHAVIOURS[name][1](pool, rng), HANG_SECONDS)
        except (OSError, EOFError, TimeoutError) as error:
            pool.counts.record_fault(f"{name}: {error!r:.300}")


def open_session() -> aiohttp.ClientSession:
    """Open connections without end, each forgotten before the server does so."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
    timeout = aiohttp.ClientTimeout(total=HANG_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


async def send(session: aiohttp.ClientSession, server: Server, request: Request) -> Answer:
    """Send a request and wait for all of the answer."""
    headers = {"Authorization": f"Bearer {server.key}", **request.headers}
    # As it stands: a client that means mischief does not tidy up its paths.
    url = URL(server.address + request.path, encoded=True)
    async with session.request(request.method, url, data=request.body, headers=headers) as answer:
        return Answer(answer.status, dict(answer.headers), await answer.read())


def find_fault(request: Request, answer: Answer) -> str | None:
    """Say what is wrong with an answer, whatever it says; None where nothing is."""
    status = answer.status
    headers = {name.lower(): value for name, value in answer.headers.items()}
    shown = f"{status} {answer.body[:300]!r}"
    if status not in request.expected and (status != 429 or request.expected == {401}):
        return f"{shown} instead of {sorted(request.expected)}"
    if status < 400:
        return None
    if status == 429 and not headers.get("retry-after", "").isdecimal():
        return f"rejected with 429, but not when: {headers}"
    try:
        error = json.loads(answer.body)["error"]
        shaped = error.keys() == {"message", "type", "param", "code"} and error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        shaped = False
    return None if shaped else f"an error in another shape: {shown}"


def kind_of(answer: Answer) -> str:
    """Under which name the seconds of an answer are kept."""
    return {200: "answered", 429: "overload"}.get(answer.status, "refused")


async def ask_rightly(pool: ClientPool, rng: random.Random) -> None:
    """Send a valid request; retry after 429."""
    answer = await pool.ask(rng.choice(pool.good))
    if answer is not None and answer.status == 429:
        await asyncio.sleep(rng.uniform(SOONEST, LATEST))


async def ask_wrongly(pool: ClientPool, rng: random.Random) -> None:
    """Send what has to be refused."""
    await pool.ask(rng.choice(pool.refused))


async def send_too_much(pool: ClientPool, rng: random.Random) -> None:
    """Send an oversized body with Content-Length."""
    await pool.ask(pool.huge)


async def send_without_end(pool: ClientPool, rng: random.Random) -> None:
    """Send an oversized body without Content-Length."""

    async def pieces() -> None:
        for start in range(0, len(pool.huge.body), 2**16):
            piece = pool.huge.body[start : start + 2**16]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    reader, writer = await _connect(pool)
    try:
        writer.write(_head(pool, pool.huge, "Transfer-Encoding: chunked"))
        sending = asyncio.create_task(pieces())
        pool.check(pool.huge, await _read(reader))
        await asyncio.gather(sending, return_exceptions=True)  # it may close when it has answered
    finally:
        writer.close()


async def leave_while_waiting(pool: ClientPool, rng: random.Random) -> None:
    """Ask, and hang up before anything comes."""
    request = rng.choice(pool.good)
    pool.counts.unseen[request.route] += 1
    _, writer = await _connect(pool)
    writer.write(_whole(pool, request))
    await writer.drain()
    await asyncio.sleep(rng.uniform(0, 0.5))
    _hang_up(writer, rng)


async def leave_while_reading(pool: ClientPool, rng: random.Random) -> None:
    """Ask for an answer in pieces, and hang up in the middle of it."""
    request = rng.choice([each for each in pool.good if each.streams])
    pool.counts.unseen[request.route] += 1
    reader, writer = await _connect(pool)
    writer.write(_whole(pool, request))
    for _ in range(rng.randint(2, 5)):  # the head comes first
        await reader.read(2**16)
    _hang_up(writer, rng)


async def send_half(pool: ClientPool, rng: random.Random) -> None:
    """Begin to send a body, and hang up in the middle of it."""
    request = rng.choice([each for each in pool.good if each.body])
    pool.counts.unseen[request.route] += 1
    _, writer = await _connect(pool)
    whole = _whole(pool, request)
    writer.write(whole[: rng.randrange(20, len(whole))])
    await writer.drain()
    await asyncio.sleep(rng.uniform(0, 0.5))
    _hang_up(writer, rng)


async def send_slowly(pool: ClientPool, rng: random.Random) -> None:
    """Dawdle over a body, then wait for the answer."""
    request = rng.choice([each for each in pool.good if each.body and not each.streams])
    reader, writer = await _connect(pool)
    try:
        whole = _whole(pool, request)
        step = len(whole) // 10 + 1
        for start in range(0, len(whole), step):
            writer.write(whole[start : start + step])
            await writer.drain()
            await asyncio.sleep(DAWDLE_SECONDS / 10)
        pool.check(request, await _read(reader))
    finally:
        writer.close()


async def _connect(pool: ClientPool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = URL(pool.server.address)
    return await asyncio.open_connection(url.host, url.port)


def _head(pool: ClientPool, request: Request, length: str) -> bytes:
    headers = {"Authorization": f"Bearer {pool.server.key}", **request.headers}
    lines = [f"{request.method} {request.path} HTTP/1.1", "Host: 127.0.0.1", length]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def _whole(pool: ClientPool, request: Request) -> bytes:
    return _head(pool, request, f"Content-Length: {len(request.body)}") + request.body


async def _read(reader: asyncio.StreamReader) -> Answer:
    """Read a response with Content-Length."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split()[1]), headers, body)


def _hang_up(writer: asyncio.StreamWriter, rng: random.Random) -> None:
    """Close as a client does that is done, or break off as one does that died."""
    if rng.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


BEHAVIOURS: dict[str, tuple[float, Behaviour]] = {
    "ask": (55, ask_rightly),
    "ask wrongly": (20, ask_wrongly),
    "send too much": (2, send_too_much),
    "send without end": (2, send_without_end),
    "leave while waiting": (6, leave_while_waiting),
    "leave while reading": (6, leave_while_reading),
    "send half": (5, send_half),
    "send slowly": (4, send_slowly),
}
"""Name -> how often it is chosen, and what is done."""
