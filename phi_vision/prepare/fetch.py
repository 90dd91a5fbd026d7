"""Download the images of a catalog: many hosts in parallel, few requests to each, none twice.

    for fetched in fetch(urls, cache=Path("images"), limits=Limits()):
        print(fetched.url, fetched.file or fetched.reason)

The caller's thread reads URLs and yields results in their order; a background thread runs all
transfers in one event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any, Self
from weakref import WeakValueDictionary

from phi_vision.io import http
from phi_vision.io.atomic import temporary_folder
from phi_vision.io.hashing import sha256
from phi_vision.io.http import URL, HttpError, RetryPolicy, download, open_session, parse_url
from phi_vision.prepare.prepare_config import PrepareConfig

# Results are yielded in order, so a slow image delays those behind it. So many may be fetched
# meanwhile: enough to reach other hosts where a catalog is sorted by host.
WINDOW = 8192
_BURST = 256  # URLs read from the catalog between two polls of the results
_POLL_INTERVAL = 0.1  # seconds, which is also how often a progress bar moves
_DNS_THREADS = 32  # slow name servers must not delay the other lookups
PRIVATE_ADDRESS = "private address (--allow-private-addresses permits it)"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many transfers at a time, how long, how large, and where to."""

    per_host: int = PrepareConfig.per_host  # parallel transfers from one host
    total: int = 64  # parallel transfers in all
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(retries=PrepareConfig.retries))
    connect_timeout: float = 10.0  # seconds for opening a connection
    timeout: float = 30.0  # seconds for one transfer, from the request to the last byte
    max_bytes: int = 50_000_000  # larger images are not downloaded
    max_redirects: int = 5  # followed for one image
    allow_private: bool = False
    """Also connect to this machine and its network, not only to public addresses."""

    def __post_init__(self) -> None:
        for name in ("per_host", "total", "connect_timeout", "timeout", "max_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Result for one URL: a file, or the reason why there is none."""

    url: str  # as given
    file: Path | None  # complete, with the magic bytes of an image
    reason: str | None  # short, and the same for all of a kind: `HTTP 404`


Progress = Callable[[Fetched], None]


def fetch(
    urls: Iterable[str], cache: Path, limits: Limits, progress: Progress | None = None
) -> Generator[Fetched, None, None]:
    """Download images ahead of the caller, and yield one result for each URL, in order.

    A repeated URL is fetched once. Images that an earlier run cached are not fetched again, however
    that run ended; its failures are attempted again. Several runs may share a cache. URLs are read,
    and `progress` is called with each result as soon as it exists, in the caller's thread.

    Input:  ["https://shop.example/1.jpg", "https://shop.example/gone.jpg"]
    Output: Fetched(url="https://shop.example/1.jpg", file=cache/"9f"/"9f86d0…", reason=None),
            Fetched(url="https://shop.example/gone.jpg", file=None, reason="HTTP 404")
    """
    source = iter(urls)
    rows: deque[Future[Fetched]] = deque()
    done: deque[Future[Fetched]] = deque()  # once for each of their rows
    # Images leave with their last row: they are found again in the cache, but failures are not.
    known: WeakValueDictionary[str, Future[Fetched]] = WeakValueDictionary()
    failed: dict[str, str] = {}
    with _Transfers(cache, limits) as transfers:
        while True:
            for url in islice(source, _BURST if len(rows) <= WINDOW - _BURST else 0):
                future = known.get(url)
                if future is None:
                    future = known[url] = transfers.submit(url, failed.get(url))
                future.add_done_callback(done.append)
                rows.append(future)
            if rows:
                wait([rows[0]], timeout=_POLL_INTERVAL)
            while done:
                try:
                    fetched = done.popleft().result()
                except OSError as error:
                    raise transfers.storage_error(error) from error
                if fetched.reason is not None:
                    failed[fetched.url] = fetched.reason
                if progress:
                    progress(fetched)
            if not rows:
                return
            if rows[0].done():
                yield rows.popleft().result()


class _Transfers:
    """The background side: an event loop in its own thread, with limits by host and in total."""

    def __init__(self, cache: Path, limits: Limits) -> None:
        self._cache, self._limits = cache, limits
        # Every run has its own, so that runs may share a cache.
        self._temporary = temporary_folder(cache, prefix="unfinished-")
        self._folders: set[Path] = set()
        self._slots = asyncio.Semaphore(limits.total)
        # Slots of a host live as long as one of its transfers: a catalog can have a million hosts.
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        # Until when hosts asked not to be contacted, in the time of the event loop.
        self._paused: dict[str, float] = {}

    def __enter__(self) -> Self:
        try:
            self._partial = self._temporary.__enter__()
        except OSError as error:
            raise self.storage_error(error) from error
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_DNS_THREADS))
        self._closing = asyncio.Event()
        run = partial(self._loop.run_until_complete, self._run())
        self._thread = Thread(target=run, name="downloads", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()
        self._temporary.__exit__(*error)

    def submit(self, url: str, reason: str | None) -> Future[Fetched]:
        """Start a download, unless the image is cached or `reason` is why it failed before."""
        digest = sha256(url)
        file = self._cache / digest[:2] / digest
        if reason is None and not _is_cached(file):
            try:
                transfer = self._fetch(url, parse_url(url), file)
                return asyncio.run_coroutine_threadsafe(transfer, self._loop)
            except ValueError as error:
                reason = str(error)
        known: Future[Fetched] = Future()
        known.set_result(Fetched(url=url, file=None if reason else file, reason=reason))
        return known

    def storage_error(self, error: OSError) -> ValueError:
        """Describe an error of the cache."""
        return ValueError(
            f"cannot store images in {self._cache}: {error}; free space or choose another folder"
        )

    async def _run(self) -> None:
        allowed, timeout = self._limits.allow_private, self._limits.connect_timeout
        async with open_session(allow_private=allowed, connect_timeout=timeout) as self._session:
            await self._closing.wait()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, url: str, target: URL, file: Path) -> Fetched:
        reason = await self._attempts(target, file)
        return Fetched(url=url, file=None if reason else file, reason=reason)

    async def _attempts(self, url: URL, file: Path) -> str | None:
        """Attempt a transfer, follow redirects, and retry; nothing sleeps in a slot."""
        limits = self._limits
        failures = redirects = 0
        while True:
            host = url.host or ""
            try:
                await self._attempt(host, url, file)
                return None
            except HttpError as error:
                failure = error
            if failure.location is not None:
                redirects += 1
                if redirects > limits.max_redirects:
                    return f"more than {limits.max_redirects} redirects"
                try:
                    url = parse_url(failure.location, base=url)
                except ValueError as error:
                    return f"redirect: {error}"
                continue
            failures += 1
            pause = limits.retry.wait(failures, failure)
            if pause is None:
                return PRIVATE_ADDRESS if failure.kind == "private" else failure.reason
            if failure.retry_after is not None:  # all transfers from the host wait, not only this
                until = self._loop.time() + pause
                self._paused[host] = max(self._paused.get(host, 0.0), until)
            await asyncio.sleep(pause)

    async def _attempt(self, host: str, url: URL, file: Path) -> None:
        timeout, max_bytes = self._limits.timeout, self._limits.max_bytes
        async with self._hosts.setdefault(host, asyncio.Semaphore(self._limits.per_host)):
            while True:
                while (pause := self._paused.get(host, 0.0) - self._loop.time()) > 0:
                    await asyncio.sleep(pause)
                async with self._slots:
                    if self._paused.get(host, 0.0) > self._loop.time():
                        continue
                    if file.parent not in self._folders:
                        file.parent.mkdir(exist_ok=True)
                        self._folders.add(file.parent)
                    partial = self._partial / file.name
                    return await download(
                        self._session, url, file, partial, timeout=timeout, max_bytes=max_bytes
                    )


def _is_cached(file: Path) -> bool:
    """Whether a file exists; it is complete then, unless the machine lost power over it."""
    try:
        with file.open("rb", buffering=0) as opened:
            return http.is_image(opened.read(http.MAGIC_BYTES))
    except OSError:  # missing; or unreadable, which writing it will report
        return False
