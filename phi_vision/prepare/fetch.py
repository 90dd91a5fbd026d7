"""Fetches the images of a catalog: many hosts at once, each politely, nothing twice.

    for fetched in fetch(urls, cache=Path("images"), limits=Limits()):
        print(fetched.url, fetched.file or fetched.reason)

The caller's thread reads addresses and hands out results in their order; a second thread runs all
transfers in one event loop. One transfer is described in `transfer.py`.
"""

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from yarl import URL

from phi_vision.io.atomic import temporary_folder
from phi_vision.io.hashing import sha256
from phi_vision.prepare.transfer import HEAD, Outcome, is_image, open_session, transfer
from phi_vision.prepare.urls import read_url

# Results are handed out in order, so a slow image holds back those behind it. So many may be
# fetched meanwhile: enough to reach other hosts where a catalog is sorted by host.
WINDOW = 8192
_BURST = 256  # addresses read from the catalog between two looks at what has arrived
_MOMENT = 0.001  # seconds
_TICK = 0.1  # seconds between two looks, which is also how often a progress bar moves
_LOOKUPS = 32  # names resolved at once: slow name servers must not hold up the others


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a download may ask of the hosts, of this machine and of the user's patience."""

    per_host: int = 8
    """Transfers from one host at a time."""

    total: int = 64
    """Transfers at a time."""

    retries: int = 4
    """Further attempts after a failure that may pass: no connection, HTTP 429, HTTP 503."""

    first_wait: float = 0.5
    """Seconds before the second attempt, give or take a half; each wait doubles the one before."""

    longest_wait: float = 120.0
    """Seconds; a host that wishes to be left alone for longer is not asked again."""

    connect_timeout: float = 10.0
    """Seconds for opening a connection."""

    timeout: float = 30.0
    """Seconds for one transfer, from asking to the last byte."""

    max_bytes: int = 50_000_000
    """Larger images are not fetched."""

    max_redirects: int = 5
    """How often the hosts may pass us on for one image."""

    allow_private: bool = False
    """Also reach this machine and its network, not only public addresses."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing would ever be fetched."""
        for name in ("per_host", "total", "connect_timeout", "timeout", "max_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of one address: a file, or the reason why there is none."""

    url: str
    """As given."""

    file: Path | None
    """A complete file that begins like an image."""

    reason: str | None
    """Short, and the same for all of a kind: `HTTP 404`, `no answer in 30 s`."""


def fetch(
    urls: Iterable[str],
    cache: Path,
    limits: Limits,
    progress: Callable[[Fetched], None] | None = None,
) -> Generator[Fetched, None, None]:
    """Fetch images, ahead of the caller, and yield one result for each address, in order.

    An address that comes twice is fetched once. What an earlier run has put into the cache is not
    fetched again, however that run ended; what failed in an earlier run is tried again. Several
    runs may share a cache.

    Input:  ["https://shop.example/1.jpg", "https://shop.example/gone.jpg"]
    Output: Fetched(url="https://shop.example/1.jpg", file=cache/"9f"/"9f86d0…", reason=None),
            Fetched(url="https://shop.example/gone.jpg", file=None, reason="HTTP 404")

    Args:
        urls: Read as far ahead as `WINDOW`, in the caller's thread.
        cache: A folder for the images, each under the SHA-256 of its address.
        limits: How fast, how long, how large, and where to.
        progress: Called with each result as soon as it is there, in the caller's thread.

    Raises:
        ValueError: The cache cannot be written to.
    """
    with _Downloads(cache, limits) as downloads:
        ledger = _Ledger(cache, downloads, progress or (lambda fetched: None))
        source = iter(urls)
        while ledger.read(source):
            downloads.wait_for(ledger.rows[0], _TICK)
            ledger.tell()
            if ledger.rows[0].told:
                yield ledger.take()


@dataclass(slots=True, kw_only=True)
class _Image:
    """An address on its way; the transfers' thread works on it until it has set `fetched`."""

    url: str
    digest: str
    file: Path
    target: URL | None = None  # where to ask next: the address, or what it redirects to
    attempts: int = 0
    redirects: int = 0
    fetched: Fetched | None = None
    told: bool = False
    rows: int = 0  # how many rows of the window show it

    def settle(self, reason: str | None) -> None:
        """State what became of it: its file is there, or why it is not."""
        file = self.file if reason is None else None
        self.fetched = Fetched(url=self.url, file=file, reason=reason)


class _Ledger:
    """The caller's side: which addresses were read, and which of them may be handed out."""

    def __init__(
        self, cache: Path, downloads: "_Downloads", progress: Callable[[Fetched], None]
    ) -> None:
        self.rows: deque[_Image] = deque()
        self._cache = cache
        self._downloads = downloads
        self._progress = progress
        self._known: dict[str, _Image] = {}  # by digest, while in the window
        # Of those handed out, images are found again in the cache; failures must be remembered.
        self._failed: dict[str, str] = {}

    def read(self, source: Iterator[str]) -> bool:
        """Read some addresses where there is room; False when all have been handed out."""
        if len(self.rows) <= WINDOW - _BURST:
            for url in islice(source, _BURST):
                self._enter(url)
        return bool(self.rows)

    def tell(self) -> None:
        """Show progress over what has arrived since."""
        while self._downloads.finished:
            image = self._downloads.finished.popleft()
            image.told = True
            for _ in range(image.rows):
                self._show(image)

    def take(self) -> Fetched:
        """Hand out the first row, which has been told of."""
        image = self.rows.popleft()
        assert image.fetched is not None
        image.rows -= 1
        if image.rows == 0:
            del self._known[image.digest]
            if image.fetched.reason is not None:
                self._failed[image.digest] = image.fetched.reason
        return image.fetched

    def _enter(self, url: str) -> None:
        digest = sha256(url)
        image = self._known.get(digest)
        if image is None:
            image = _Image(url=url, digest=digest, file=self._cache / digest[:2] / digest)
            self._known[digest] = image
            self._begin(image)
        image.rows += 1
        self.rows.append(image)
        if image.told:
            self._show(image)

    def _begin(self, image: _Image) -> None:
        """Settle at once what needs no transfer, and send the others on their way."""
        if image.digest in self._failed or _holds_image(image.file):
            image.settle(self._failed.get(image.digest))
        else:
            try:
                image.target = read_url(image.url)
            except ValueError as error:
                image.settle(str(error))
            else:
                self._downloads.submit(image)
        image.told = image.target is None

    def _show(self, image: _Image) -> None:
        assert image.fetched is not None
        self._progress(image.fetched)


def _holds_image(file: Path) -> bool:
    """Whether a file is there; it is complete then, unless the machine lost power over it."""
    try:
        with file.open("rb", buffering=0) as opened:
            return is_image(opened.read(HEAD))
    except OSError:  # it is not there; or it cannot be read, and writing it will say what is wrong
        return False


@dataclass(slots=True, kw_only=True, eq=False)
class _Host:
    """What is asked of one host, and what waits for it."""

    name: str
    waiting: deque[_Image] = field(default_factory=deque)
    active: int = 0
    paused_until: float = 0.0  # in the time of the event loop
    listed: bool = False  # among those that may start a transfer


class _Downloads:
    """The transfers' side: an event loop on a thread of its own, and who may ask whom when.

    Nothing sleeps while it holds a place: an image that waits for a further attempt, or is passed
    on to another host, queues again.
    """

    def __init__(self, cache: Path, limits: Limits) -> None:
        self.finished: deque[_Image] = deque()
        self._cache = cache
        self._scratch = temporary_folder(cache, prefix="unfinished-")
        self._limits = limits
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="downloads", daemon=True)
        self._closing = asyncio.Event()
        self._inbox: deque[_Image] = deque()
        self._awake = True  # somebody is about to look into the inbox
        self._awaited: _Image | None = None
        self._bell = threading.Event()
        self._trouble: Exception | None = None
        self._hosts: dict[str, _Host] = {}
        self._ready: deque[_Host] = deque()
        self._active = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._folders: set[Path] = set()

    # What the caller's thread does.

    def __enter__(self) -> Self:
        """Make room on the disk and start the thread."""
        try:
            # Every run has its own, so that runs may share a cache.
            self._unfinished = self._scratch.__enter__()
        except OSError as error:
            self._loop.close()
            raise self._unwritable(error) from error
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Break off what is under way, and clear it away."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()
        self._scratch.__exit__(kind, error, trace)

    def submit(self, image: _Image) -> None:
        """Send an image on its way; it comes back in `finished`."""
        self._inbox.append(image)
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._take_in)

    def wait_for(self, image: _Image, seconds: float) -> None:
        """Return when an image has come back, at the latest after some seconds."""
        self._awaited = image
        if image.fetched is None:
            self._bell.wait(seconds)
        self._bell.clear()
        if isinstance(self._trouble, OSError):
            raise self._unwritable(self._trouble) from self._trouble
        if self._trouble is not None:
            raise self._trouble

    def _unwritable(self, error: OSError) -> ValueError:
        return ValueError(
            f"cannot keep images in {self._cache}: {error}; free space or give another folder"
        )

    # What the thread of its own does.

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            self._stop(error)

    async def _serve(self) -> None:
        self._loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS))
        async with open_session(
            allow_private=self._limits.allow_private,
            connect_timeout=self._limits.connect_timeout,
        ) as self._session:
            self._take_in()
            await self._closing.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stop(self, error: Exception) -> None:
        """Hand an error over to the caller's thread, which raises it."""
        self._trouble = error
        self._bell.set()

    def _take_in(self) -> None:
        self._awake = False
        while self._inbox:
            self._queue(self._inbox.popleft())
        self._start()

    def _queue(self, image: _Image, *, first: bool = False) -> None:
        assert image.target is not None
        name = image.target.host or ""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name=name)
        if first:
            host.waiting.appendleft(image)
        else:
            host.waiting.append(image)
        self._list(host)

    def _list(self, host: _Host) -> None:
        """Let a host take its turn if it may have one more transfer, forget it if it is idle."""
        if host.listed or self._is_paused(host):
            return
        if host.waiting and host.active < self._limits.per_host:
            host.listed = True
            self._ready.append(host)
        elif not host.waiting and not host.active and self._hosts.get(host.name) is host:
            del self._hosts[host.name]

    def _is_paused(self, host: _Host) -> bool:
        # A timer may fire a moment early; the pause it ends is over by then.
        return host.paused_until - self._loop.time() > _MOMENT

    def _start(self) -> None:
        """Start what may start, one from each host in turn."""
        while self._ready and self._active < self._limits.total and not self._closing.is_set():
            host = self._ready.popleft()
            host.listed = False
            if not self._is_paused(host):
                host.active += 1
                self._active += 1
                task = self._loop.create_task(self._attempt(host.waiting.popleft(), host))
                self._tasks.add(task)  # the loop itself does not keep a task alive
                task.add_done_callback(self._tasks.discard)
                self._list(host)

    async def _attempt(self, image: _Image, host: _Host) -> None:
        """Make one transfer and draw the conclusions."""
        assert image.target is not None
        try:
            self._make_folder(image.file.parent)
            outcome = await transfer(
                self._session,
                image.target,
                image.file,
                self._unfinished / image.digest,
                seconds=self._limits.timeout,
                max_bytes=self._limits.max_bytes,
            )
        except Exception as error:
            self._stop(error)
            return
        host.active -= 1
        self._active -= 1
        self._conclude(image, host, outcome)
        self._list(host)
        self._start()

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._folders:
            folder.mkdir(exist_ok=True)
            self._folders.add(folder)

    def _conclude(self, image: _Image, host: _Host, outcome: Outcome) -> None:
        """Settle an image, follow a redirect, or queue for a further attempt."""
        if outcome.target is not None:
            self._follow(image, outcome.target)
            return
        limits = self._limits
        wait = min(limits.first_wait * 2**image.attempts, limits.longest_wait)
        # Spread out, so that what failed together does not come back together.
        wait = max(wait * random.uniform(0.5, 1.5), outcome.wait or 0.0)
        patient = (outcome.wait or 0.0) <= limits.longest_wait
        if not outcome.passing or image.attempts == limits.retries or not patient:
            self._settle(image, outcome.reason)
            return
        image.attempts += 1
        if outcome.wait is not None:
            self._pause(host, wait)
        self._loop.call_later(wait, self._again, image)

    def _follow(self, image: _Image, target: str) -> None:
        """Queue for where a redirect leads: that host has limits of its own."""
        image.redirects += 1
        if image.redirects > self._limits.max_redirects:
            self._settle(image, f"more than {self._limits.max_redirects} redirects")
            return
        try:
            image.target = read_url(target, base=image.target)
        except ValueError as error:
            self._settle(image, f"redirect: {error}")
        else:
            self._queue(image, first=True)

    def _pause(self, host: _Host, seconds: float) -> None:
        """Leave a host alone that wishes so: all of its images wait, not only this one."""
        host.paused_until = max(host.paused_until, self._loop.time() + seconds)
        self._loop.call_at(host.paused_until, self._resume, host)

    def _resume(self, host: _Host) -> None:
        self._list(host)
        self._start()

    def _again(self, image: _Image) -> None:
        self._queue(image, first=True)
        self._start()

    def _settle(self, image: _Image, reason: str | None) -> None:
        image.settle(reason)
        self.finished.append(image)
        if image is self._awaited:
            self._bell.set()
