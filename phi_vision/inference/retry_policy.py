"""One question to a server that may be busy or away: asked again for as long as patience lasts.

Knows nothing of what is asked (`chat_format.py`).
"""

import asyncio
import json
import os
import random
import re
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable whose value is sent as a bearer token, as OpenAI's own client does."""

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which asking again may help."""

SHOWN = 300
"""So many characters of an answer are shown where it is not what was expected."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a server is waited for."""

    attempts: int = 8
    """How often one question is asked until it is given up: over a minute of waiting in all, in
    which a server can be started again."""

    first_wait: float = 0.5
    """Seconds before the second attempt, give or take a half; each wait doubles the one before."""

    longest_wait: float = 120.0
    """Seconds; a server that wishes to be left alone for longer is not asked again."""

    connect_timeout: float = 10.0
    """Seconds for opening a connection."""

    timeout: float = 300.0
    """Seconds for one answer, from asking to the last byte; a busy server may queue questions."""


class ServerError(ValueError):
    """A server that gave no answer.

    Args:
        reason: What it did instead.
        status: Of HTTP; 0 where it said nothing.
        passing: Whether asking again later may help.
        wait: Seconds for which it wishes to be left alone, where it says so.
    """

    def __init__(
        self, reason: str, *, status: int = 0, passing: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.passing = passing
        self.wait = wait


def open_session(patience: RetryPolicy) -> aiohttp.ClientSession:
    """Open what all questions share: connections, limits of time, the key of the environment."""
    key = os.environ.get(KEY_VARIABLE)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # who may ask is decided before
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=aiohttp.ClientTimeout(
            total=patience.timeout, sock_connect=patience.connect_timeout
        ),
    )


async def request(
    session: aiohttp.ClientSession,
    url: URL,
    body: dict[str, Any] | None,
    patience: RetryPolicy,
) -> Any:
    """Ask for JSON, again where that may help.

    Args:
        session: From `open_session`.
        url: What is asked.
        body: Sent as JSON with POST; where there is none, the URL is asked for with GET.
        patience: How often, and with which waits; a server's own wish (Retry-After) comes first.

    Returns:
        What was answered, read as JSON.

    Raises:
        ServerError: There was no answer; says why, and what can be done.
    """
    for attempt in range(1, patience.attempts + 1):
        try:
            return await _ask_once(session, url, body)
        except ServerError as refusal:
            own = patience.first_wait * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            wait = min(own, patience.longest_wait) if refusal.wait is None else refusal.wait
            is_last = attempt == patience.attempts or wait > patience.longest_wait
            if is_last or not refusal.passing:
                raise _in_words(url, refusal, attempt) from refusal
        await asyncio.sleep(wait)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _ask_once(session: aiohttp.ClientSession, url: URL, body: dict[str, Any] | None) -> Any:
    try:
        # A redirect would turn POST into GET, or take the key elsewhere.
        async with session.request(
            "GET" if body is None else "POST", url, json=body, allow_redirects=False
        ) as response:
            content = await response.read()
            if response.status != 200:
                raise _read_refusal(response, content)
    except TimeoutError as error:
        raise ServerError("gave no answer in time", passing=True) from error
    except aiohttp.ClientError as error:
        raise ServerError(f"could not be asked: {error}", passing=True) from error
    try:
        return json.loads(content)
    except ValueError as error:
        raise ServerError(f"answered, but not in JSON: {_begin(content)}", status=200) from error


def _read_refusal(response: aiohttp.ClientResponse, content: bytes) -> ServerError:
    to = response.headers.get("Location")
    said = f"sends elsewhere, to {to}" if to else _begin(content)
    # In seconds, as such servers write it; a date, which RFC 9110 allows, is not heeded.
    wait = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", response.headers.get("Retry-After", ""))
    return ServerError(
        f"answered HTTP {response.status}: {said}",
        status=response.status,
        passing=response.status in PASSING,
        wait=float(wait[1]) if wait else None,
    )


def _begin(content: bytes) -> str:
    return " ".join(content.decode(errors="replace").split())[:SHOWN] or "nothing"


def _in_words(url: URL, refusal: ServerError, attempts: int) -> ServerError:
    tried = f" (asked {attempts} times)" if attempts > 1 else ""
    wish = f" and wishes to be left alone for {refusal.wait:g} s" if refusal.wait else ""
    todo = ADVICE.get(refusal.status, "see whether the server is well")
    return ServerError(f"{url} {refusal}{wish}{tried}; {todo}", status=refusal.status)


ADVICE = {
    200: "give the address of an OpenAI-compatible server, such as http://localhost:8000/v1",
    401: f"set {KEY_VARIABLE} to a key that the server takes",
    403: f"set {KEY_VARIABLE} to a key that the server takes",
    404: "give the address up to /v1, and a model that the server has, as in http://…/v1#NAME",
    413: "let the server take larger requests, or prepare smaller images",
    429: "ask less at a time with --batch-size",
}
"""Status -> what can be done."""
