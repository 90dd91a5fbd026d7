"""OpenAIPredictor: a running server as an answerer, asked over HTTP as OpenAI's is.

served = OpenAIPredictor("http://localhost:8000/v1")
for place, reply in served.predict_samples(samples): print(samples[place].id, reply.text)

The form of requests and answers is in `chat_format.py`.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import find_template
from phi_vision.inference.chat_completions import read_reply, request_of
from phi_vision.inference.retry_policy import RetryPolicy, ServerError, open_session, request

T = TypeVar("T")
Put = Callable[[T], None]

LOOKS = 3
"""How often a server is asked for its model: a wrong address is to be told soon."""

UNABLE = frozenset({400, 422, 501})
"""Statuses of a server that cannot do what it is asked for, such as telling probabilities."""


class OpenAIPredictor:
    """A server that speaks as OpenAI's does: vLLM, llama.cpp, a hosted model.

    It decides on the prompt around the question, so a template's layout has no part in it. The
    proxies and passwords of the environment are not used, but for a key in OPENAI_API_KEY.

    Args:
        address: Up to where /chat/completions follows, such as http://localhost:8000/v1; with
            #NAME, such as http://localhost:8000/v1#coats, the model of that name is asked, which is
            needed only where the server has several.
        template: Name of the wording, or a YAML file or a run that has one.
        at_a_time: Most questions asked at a time.
        patience: How long it is waited for.

    Raises:
        ValueError: The address is none, or no such server answers there.
    """

    def __init__(
        self,
        address: str,
        *,
        template: str = "product",
        at_a_time: int = 16,
        patience: RetryPolicy | None = None,
    ) -> None:
        self.template = find_template(template)
        url = _read_address(address)
        self.address = url.with_fragment(None)
        self._at_a_time = at_a_time
        self._patience = patience or RetryPolicy()
        self._tells_logprobs = True  # until it says that it cannot
        self.model = url.fragment or self._find_model()
        self.name = f"server {self.address}, model {self.model}"

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Ask about every sample, several at a time, and yield replies as they come.

        Input:  two samples
        Output: (1, Prediction(text="Product: Wool Coat, ...", confidence={"title": 0.81, ...})),
                (0, Prediction(...))

        Args:
            samples: What is asked about; their images are decoded when it is their turn.
            grammar: Must be None.

        Raises:
            ValueError: An image cannot be read, or the server gives no answer about a sample;
                names the sample. Or a grammar is given.
        """
        if grammar is not None:
            raise ValueError(
                f"the {self.name} cannot be limited to a grammar: there is no agreed way to ask "
                "servers for that; leave the constrained answers out"
            )
        return _on_a_thread(lambda put: self._ask_all(samples, put))

    def _find_model(self) -> str:
        """Take the one model that the server has."""
        (listed,) = _on_a_thread(self._list_models)
        try:
            names = [str(model["id"]) for model in listed["data"]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.address / 'models'} lists no models: {listed!r:.200}; give the address of "
                "an OpenAI-compatible server"
            ) from error
        if len(names) != 1:
            raise ValueError(
                f"{self.address} has {len(names)} models ({', '.join(names[:20])}); choose one "
                f"like {self.address}#NAME"
            )
        return names[0]

    async def _list_models(self, put: Put[Any]) -> None:
        patience = replace(self._patience, attempts=min(LOOKS, self._patience.attempts))
        async with open_session(patience) as session:
            put(await request(session, self.address / "models", None, patience))

    async def _ask_all(self, samples: Sequence[Sample], put: Put[tuple[int, Prediction]]) -> None:
        places = iter(range(len(samples)))

        async def take_turns(session: aiohttp.ClientSession) -> None:
            for place in places:  # shared by all: each takes the next that nobody has taken
                put((place, await self._ask(session, samples[place])))

        async with open_session(self._patience) as session:
            turns = [take_turns(session) for _ in range(min(self._at_a_time, len(samples)))]
            tasks = [asyncio.create_task(turn) for turn in turns]
            try:
                await asyncio.gather(*tasks)
            finally:  # after the first failure nobody waits for the others
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, session: aiohttp.ClientSession, sample: Sample) -> Prediction:
        # Decoding and encoding images takes long enough to hold the others up.
        body = await asyncio.to_thread(request_of, sample, self.template, self.model)
        try:
            return read_reply(await self._complete(session, body), self.template)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}: {error}") from error

    async def _complete(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> Any:
        """Ask for an answer; without probabilities where the server refuses to tell them."""
        url = self.address / "chat" / "completions"
        if self._tells_logprobs:
            try:
                return await request(session, url, body, self._patience)
            except ServerError as refusal:
                if refusal.status not in UNABLE or "logprob" not in str(refusal):
                    raise
                self._tells_logprobs = False
        asked = {name: value for name, value in body.items() if name != "logprobs"}
        return await request(session, url, asked, self._patience)


def _read_address(words: str) -> URL:
    """Read where a server is.

    Input:  http://localhost:8000/v1/#coats
    Output: URL("http://localhost:8000/v1#coats")
    """
    problem = None
    try:
        url = URL(words)
    except ValueError as error:
        problem = str(error)
    else:
        if url.scheme not in ("http", "https") or not url.host:
            problem = "it does not begin with http:// or https:// and a host"
        elif url.user or url.password:
            # It would be written into reports.
            problem = "it holds a name or a password; put a key into OPENAI_API_KEY instead"
        elif url.query:
            problem = "it holds a question mark"
    if problem:
        raise ValueError(
            f"{words!r:.200} is no address of a server: {problem}; give one like "
            "http://localhost:8000/v1"
        )
    return url.with_path(url.path.rstrip("/")).with_fragment(url.fragment or None)


def _on_a_thread(work: Callable[[Put[T]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """Let work go on in an event loop on a thread of its own, and yield what it puts, as it comes.

    The caller may be in an event loop itself, as in a notebook. Who stops listening breaks the work
    off.
    """
    arrived: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(lambda thing: arrived.put((thing,))))

    def run() -> None:
        loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_default_executor())
        arrived.put(None)

    thread = threading.Thread(target=run, name="questions", daemon=True)
    thread.start()
    try:
        while (thing := arrived.get()) is not None:
            yield thing[0]
        task.result()  # raises what went wrong
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
