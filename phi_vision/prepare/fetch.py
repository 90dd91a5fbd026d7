"""Download the images of a catalog: many hosts in parallel, few requests to each, none twice.

    for fetched in fetch(urls, cache=Path("images"), limits=Limits()):
        print(fetched.url, fetched.file or fetched.reason)

The caller's thread reads URLs and yields results in their order; a background thread runs all
transfers in one event loop.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

from phi_vision.io.atomic import temporary_folder
from phi_vision.io.hashing import sha256
from phi_vision.io.http import MAGIC_BYTES, HttpError, RetryPolicy, download, is_image, open_session
from phi_vision.io.ssrf import URL, parse_url
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

    per_host: int = PrepareConfig.per_host
    """Parallel transfers from one host."""

    total: int = 64
    """Parallel transfers in all."""

    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(retries=PrepareConfig.retries))
    """When a failed transfer is attempted again."""

    connect_timeout: float = 10.0
    """Seconds for opening a connection."""

    timeout: float = 30.0
    """Seconds for one transfer, from the request to the last byte."""

    max_bytes: int = 50_000_000
    """Larger images are not downloaded."""

    max_redirects: int = 5
    """Redirects followed for one image."""

    allow_private: bool = False
    """Also connect to this machine and its network, not only to public addresses."""

    def __post_init__(self) -> None:
        """Check that a transfer is possible at all."""
        for name in ("per_host", "total", "connect_timeout", "timeout", "max_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Result for one URL: a file, or the reason why there is none."""

    url: str
    """As given."""

    file: Path | None
    """A complete file with the magic bytes of an image."""

    reason: str | None
    """Short, and the same for all of a kind: `HTTP 404`, `no response within 30 s`."""


def fetch(
    urls: Iterable[str],
    cache: Path,
    limits: Limits,
    progress: Callable[[Fetched], None] | None = None,
) -> Generator[Fetched, None, None]:
    """Download images ahead of the caller, and yield one result for each URL, in order.

    A repeated URL is fetched once. Images that an earlier run cached are not fetched again, however
    that run ended; its failures are attempted again. Several runs may share a cache.

    Input:  ["https://shop.example/1.jpg", "https://shop.example/gone.jpg"]
    Output: Fetched(url="https://shop.example/1.jpg", file=cache/"9f"/"9f86d0…", reason=None),
            Fetched(url="https://shop.example/gone.jpg", file=None, reason="HTTP 404")

    Args:
        urls: Read as far ahead as `WINDOW`, in the caller's thread.
        cache: A folder for the images, each under the SHA-256 of its URL.
        limits: How fast, how long, how large, and where to.
        progress: Called with each result as soon as it exists, in the caller's thread.
    """
    source = iter(urls)
    with _Transfers(cache, limits) as transfers:
        window = _Window(cache, transfers, progress or (lambda fetched: None))
        while window.fill(source):
            window.poll()
            if window.rows[0].is_reported:
                yield window.pop()


@dataclass(slots=True, kw_only=True, eq=False)
class _Image:
    """A URL in the window; the background thread works on it until it sets `fetched`."""

    url: str
    digest: str
    file: Path
    fetched: Fetched | None = None
    is_reported: bool = False
    count: int = 0  # rows of the window with this URL

    def finish(self, reason: str | None) -> None:
        file = self.file if reason is None else None
        self.fetched = Fetched(url=self.url, file=file, reason=reason)


class _Window:
    """The caller's side: URLs that were read and whose results were not yielded yet."""

    def __init__(
        self, cache: Path, transfers: "_Transfers", progress: Callable[[Fetched], None]
    ) -> None:
        self.rows: deque[_Image] = deque()
        self._cache, self._transfers, self._progress = cache, transfers, progress
        self._images: dict[str, _Image] = {}  # by digest
        # Of those yielded, images are found again in the cache; failures must be remembered.
        self._failed: dict[str, str] = {}

    def fill(self, urls: Iterable[str]) -> bool:
        """Read some URLs where there is space; False when all results have been yielded."""
        if len(self.rows) <= WINDOW - _BURST:
            added = [image for url in islice(urls, _BURST) if (image := self._add(url))]
            self._transfers.submit(added)
        return bool(self.rows)

    def poll(self) -> None:
        """Wait a moment for the first row, and report all results that have arrived."""
        self._transfers.wait_for(self.rows[0])
        while self._transfers.finished:
            image = self._transfers.finished.popleft()
            image.is_reported = True
            for _ in range(image.count):
                self._report(image)

    def pop(self) -> Fetched:
        """Remove the first row, whose result is known."""
        image = self.rows.popleft()
        assert image.fetched is not None
        image.count -= 1
        if image.count == 0:
            del self._images[image.digest]
            if image.fetched.reason is not None:
                self._failed[image.digest] = image.fetched.reason
        return image.fetched

    def _add(self, url: str) -> tuple[_Image, URL] | None:
        """Append a row; return its image and URL if that has to be downloaded."""
        digest = sha256(url)
        image = self._images.get(digest)
        target = None
        if image is None:
            image = _Image(url=url, digest=digest, file=self._cache / digest[:2] / digest)
            self._images[digest] = image
            if digest in self._failed or _is_cached(image.file):
                image.finish(self._failed.get(digest))
            else:
                try:
                    target = parse_url(url)
                except ValueError as error:
                    image.finish(str(error))
            image.is_reported = target is None
        image.count += 1
        self.rows.append(image)
        if image.is_reported:
            self._report(image)
        return (image, target) if target else None

    def _report(self, image: _Image) -> None:
        assert image.fetched is not None
        self._progress(image.fetched)


def _is_cached(file: Path) -> bool:
    """Whether a file exists; it is complete then, unless the machine lost power over it."""
    try:
        with file.open("rb", buffering=0) as opened:
            return is_image(opened.read(MAGIC_BYTES))
    except OSError:  # missing; or unreadable, which writing it will report
        return False


class _Host:
    """Slots for parallel transfers from one host, and until when it asked not to be contacted."""

    def __init__(self, per_host: int) -> None:
        self.slots = asyncio.Semaphore(per_host)
        self.paused_until = 0.0  # in the time of the event loop


class _Transfers:
    """The background side: an event loop in its own thread, with limits by host and in total."""

    def __init__(self, cache: Path, limits: Limits) -> None:
        self.finished: deque[_Image] = deque()
        self._cache, self._limits = cache, limits
        self._temporary = temporary_folder(cache, prefix="unfinished-")
        self._awaited: _Image | None = None
        self._finished_awaited = threading.Event()
        self._error: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._folders: set[Path] = set()
        self._slots = asyncio.Semaphore(limits.total)
        # A host lives as long as one of its transfers: a catalog can have a million.
        self._hosts: WeakValueDictionary[str, _Host] = WeakValueDictionary()

    def __enter__(self) -> Self:
        try:
            # Every run has its own, so that runs may share a cache.
            self._partial = self._temporary.__enter__()
        except OSError as error:
            raise self._storage_error(error) from error
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_DNS_THREADS))
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="downloads", daemon=True
        )
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *error: Any) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._temporary.__exit__(*error)

    def submit(self, images: Sequence[tuple[_Image, URL]]) -> None:
        """Start downloads; their images come back in `finished`."""
        if images:
            self._loop.call_soon_threadsafe(self._start, images)

    def wait_for(self, image: _Image) -> None:
        """Return when an image is finished, at the latest after the poll interval."""
        self._awaited = image
        if image.fetched is None:
            self._finished_awaited.wait(_POLL_INTERVAL)
        self._finished_awaited.clear()
        if isinstance(self._error, OSError):
            raise self._storage_error(self._error) from self._error
        if self._error is not None:
            raise self._error

    def _start(self, images: Sequence[tuple[_Image, URL]]) -> None:
        for image, url in images:
            task = self._loop.create_task(self._finish(image, url))
            self._tasks.add(task)  # the loop itself does not keep a task alive
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, image: _Image, url: URL) -> None:
        try:
            image.finish(await self._fetch(url, image.file))
            self.finished.append(image)
        except Exception as error:
            self._error = error
        if image is self._awaited or self._error:
            self._finished_awaited.set()

    async def _open(self) -> None:
        self._session = open_session(
            allow_private=self._limits.allow_private,
            connect_timeout=self._limits.connect_timeout,
        )

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def _storage_error(self, error: OSError) -> ValueError:
        return ValueError(
            f"cannot store images in {self._cache}: {error}; free space or choose another folder"
        )

    async def _fetch(self, url: URL, file: Path) -> str | None:
        """Attempt a transfer, follow redirects, and retry; nothing sleeps in a slot."""
        failures = redirects = 0
        while True:
            host = self._hosts.setdefault(url.host or "", _Host(self._limits.per_host))
            try:
                await self._attempt(host, url, file)
                return None
            except HttpError as error:
                failure = error
            if failure.location is not None:
                redirects += 1
                if redirects > self._limits.max_redirects:
                    return f"more than {self._limits.max_redirects} redirects"
                try:
                    url = parse_url(failure.location, base=url)
                except ValueError as error:
                    return f"redirect: {error}"
                continue
            failures += 1
            wait = self._limits.retry.wait(failures, failure)
            if wait is None:
                return PRIVATE_ADDRESS if failure.kind == "private" else failure.reason
            if failure.retry_after is not None:  # all transfers from the host wait, not only this
                host.paused_until = max(host.paused_until, self._loop.time() + wait)
            await asyncio.sleep(wait)

    async def _attempt(self, host: _Host, url: URL, file: Path) -> None:
        async with host.slots:
            while True:
                while (pause := host.paused_until - self._loop.time()) > 0:
                    await asyncio.sleep(pause)
                async with self._slots:
                    if host.paused_until <= self._loop.time():
                        self._create_folder(file.parent)
                        await download(
                            self._session,
                            url,
                            file,
                            self._partial / file.name,
                            timeout=self._limits.timeout,
                            max_bytes=self._limits.max_bytes,
                        )
                        return

    def _create_folder(self, folder: Path) -> None:
        if folder not in self._folders:
            folder.mkdir(exist_ok=True)
            self._folders.add(folder)
