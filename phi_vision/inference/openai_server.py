"""OpenAIPredictor: predictions of an OpenAI-compatible server (vLLM, llama.cpp, a hosted model)."""

import asyncio
import base64
import os
import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal
from PIL import Image
from yarl import URL

from phi_vision.data.conversation import open_ended, placed_turns
from phi_vision.data.prediction import Prediction, field_confidence
from phi_vision.data.samples import IMAGE_MARK, Message, Sample
from phi_vision.data.template import END, Template, find_template
from phi_vision.io.formatting import error_texts
from phi_vision.io.image_decoding import encode_image, normalise, open_header

if TYPE_CHECKING:
    import openai

failure = error_texts(__file__)

KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "none"  # The client wants a key; this one is not sent.
# The client's backoff doubles from 0.5 s to 8 s: about a minute, enough for a server restart.
MAX_RETRIES = 10
MAX_MODEL_RETRIES = 2  # For the list of models: a wrong URL is an error soon.
TIMEOUT = 300.0  # Seconds until the response; a busy server may queue requests.
CONNECT_TIMEOUT = 10.0
# Servers count in their own tokens: far above the length of a record; a longer text is a loop.
MAX_TOKENS = 256
# Formats that every server decodes. Others, and images whose pixels a server may read in another
# way (alpha, 16 bits, EXIF orientation, colour profile), are sent as PNG.
SENT_FORMATS = {"JPEG", "PNG", "WEBP"}
SHOWN = 300  # Characters of a response in an error message.
# HTTP statuses of a server that does not support an option of the request, such as logprobs.
UNSUPPORTED = frozenset({400, 422, 501})


class ServerError(ValueError):
    """A request without a usable response; `status` is 0 where there was no response at all."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class OpenAIPredictor:
    """Predicts with a server that implements POST /chat/completions.

    The server applies its own chat template, so the template's `layout` has no effect. Proxies of
    the environment are ignored; a key in OPENAI_API_KEY is sent as the bearer token, and redirects
    are not followed. An invalid URL, or one where no such server responds, is a ValueError.

    Args:
        url: Base URL, such as http://localhost:8000/v1; http://localhost:8000/v1#coats selects the
            model "coats" of a server with several models.
        batch_size: Concurrent requests.
        timeout: Seconds until a response.
        max_retries: Retries of a request that timed out or was rejected with 408, 429 or 5xx.
    """

    def __init__(
        self,
        url: str,
        *,
        template: str = "product",
        batch_size: int = 16,
        timeout: float = TIMEOUT,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        self.template = find_template(template)
        parsed = _parse_url(url)
        self.url = str(parsed.with_fragment(None))
        self._batch_size, self._timeout, self._max_retries = batch_size, timeout, max_retries
        self._supports_logprobs = True
        self.model = parsed.fragment or self._find_model()
        self.name = f"server {self.url}, model {self.model}"

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (index of the sample, prediction) as the responses arrive.

        Closing the iterator cancels the requests. The first image or request that fails does so,
        too: a ValueError that names the sample; a grammar also is one.
        """
        if grammar is not None:
            raise failure("no_grammars", name=self.name)
        return self._predict_all(samples)

    def _find_model(self) -> str:
        async def list_models() -> Any:
            async with self._client(min(MAX_MODEL_RETRIES, self._max_retries)) as client:
                return await self._send(client, "/models", None)

        with start_blocking_portal() as portal:
            listed = portal.call(list_models)
        try:
            names = [str(model["id"]) for model in listed["data"]]
        except (KeyError, TypeError) as error:
            raise failure("no_models", url=self.url, listed=listed) from error
        if len(names) != 1:
            shown = ", ".join(names[:20])
            raise failure("several_models", url=self.url, count=len(names), names=shown)
        return names[0]

    def _predict_all(self, samples: Sequence[Sample]) -> Iterator[tuple[int, Prediction]]:
        done: queue.SimpleQueue[tuple[int, Prediction] | Future[None]] = queue.SimpleQueue()
        indices = iter(range(len(samples)))  # shared by the workers
        # An event loop on its own thread: the caller may be inside another, as in a notebook.
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(self._client(self._max_retries)) as client,
        ):

            async def work() -> None:
                for index in indices:
                    done.put((index, await self._predict(client, samples[index])))

            running = min(self._batch_size, len(samples))
            for _ in range(running):
                portal.start_task_soon(work).add_done_callback(done.put)
            while running:
                item = done.get()
                if isinstance(item, Future):
                    item.result()  # raises the worker's error
                    running -= 1
                else:
                    yield item

    async def _predict(self, client: "openai.AsyncOpenAI", sample: Sample) -> Prediction:
        # In a thread: decoding and encoding images would block the other requests.
        body = await asyncio.to_thread(self._body, sample)
        start = time.perf_counter()
        try:
            prediction = parse_completion(await self._complete(client, body), self.template)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}: {error}") from error
        return replace(prediction, source=sample.id, seconds=time.perf_counter() - start)

    def _body(self, sample: Sample) -> dict[str, Any]:
        urls = map(_data_url, sample.images, sample.open_images())
        images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return {
            "model": self.model,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "messages": _messages(sample, self.template, images),
        }

    async def _complete(self, client: "openai.AsyncOpenAI", body: dict[str, Any]) -> Any:
        """Request a completion; without logprobs once the server has rejected them."""
        path, logprobs = "/chat/completions", {"logprobs": True}
        if self._supports_logprobs:
            try:
                return await self._send(client, path, body | logprobs)
            except ServerError as error:
                if error.status not in UNSUPPORTED or "logprob" not in str(error):
                    raise
                self._supports_logprobs = False
        return await self._send(client, path, body)

    def _client(self, max_retries: int) -> "openai.AsyncOpenAI":
        import openai  # here, as it takes long to import

        return openai.AsyncOpenAI(
            base_url=self.url,
            api_key=os.environ.get(KEY_VARIABLE) or NO_KEY,
            max_retries=max_retries,
            timeout=openai.Timeout(self._timeout, connect=min(CONNECT_TIMEOUT, self._timeout)),
            # A redirect could take the key to another host.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=False),
        )

    async def _send(self, client: "openai.AsyncOpenAI", path: str, body: object) -> Any:
        """Send a GET request, or with a body a POST request, and return the decoded JSON."""
        import openai

        headers: Any = {"Authorization": openai.Omit()} if client.api_key == NO_KEY else {}
        request = client.get if body is None else partial(client.post, body=body)
        try:
            response = await request(path, cast_to=object, options={"headers": headers})
        except openai.APITimeoutError as error:
            reason = f"did not respond within {self._timeout:g} s"
            raise self._error(path, reason, request=error.request) from error
        except openai.APIConnectionError as error:
            reason = f"is not reachable: {error.__cause__ or error}"
            raise self._error(path, reason, request=error.request) from error
        except openai.APIStatusError as error:
            found = error.response.headers
            text = " ".join(error.response.text.split())[:SHOWN] or "an empty body"
            if "Location" in found:
                text = f"a redirect to {found['Location']}, which is not followed"
            wait = f" (Retry-After: {found['Retry-After']})" if "Retry-After" in found else ""
            reason = f"returned HTTP {error.status_code}: {text}{wait}"
            raise self._error(path, reason, error.status_code, error.request) from error
        if isinstance(response, str):
            text = " ".join(response.split())[:SHOWN] or "an empty body"
            raise self._error(path, f"did not return JSON: {text}", 200)
        return response

    def _error(self, path: str, reason: str, status: int = 0, request: Any = None) -> ServerError:
        retries = int(request.headers.get("x-stainless-retry-count", 0)) if request else 0
        tried = f" ({retries + 1} attempts)" if retries else ""
        todo = ADVICE.get(status, "look into the log of the server")
        return ServerError(f"{self.url}{path} {reason}{tried}; {todo}", status=status)


def _messages(
    sample: Sample, template: Template, images: Sequence[Mapping[str, object]]
) -> list[dict[str, object]]:
    """Write the prompt as messages of the API: a question, or a conversation up to its completion.

    Input:  user "<image>\\nWhat is it?", assistant "A hat."
    Output: [{"role": "user", "content": [{"type": "image_url", …}, {"type": "text", …}]}]
    """
    turns = placed_turns(open_ended(sample))[:-1] if sample.messages else []
    if not turns:
        turns = [Message("system", template.system)] if template.system else []
        turns.append(Message("user", IMAGE_MARK * len(images) + template.question))
    remaining, messages = iter(images), list[dict[str, object]]()
    for role, content in turns:
        parts: list[Mapping[str, object]] = []
        for place, text in enumerate(content.split(IMAGE_MARK)):
            parts += [next(remaining)] if place else []
            parts += [{"type": "text", "text": text.strip("\n")}] if text.strip("\n") else []
        # Some servers accept only a string as the content of a message without images.
        messages.append({"role": role, "content": parts if IMAGE_MARK in content else content})
    return messages


def parse_completion(body: Mapping[str, Any], template: Template) -> Prediction:
    """Read the prediction from a chat completion, or raise ValueError if it has another form.

    There is confidence only if the tokens are the text.

    Input:  {"choices": [{"message": {"content": "Product: Coat, …"}, "logprobs": {"content": [
             {"token": "Product", "logprob": -0.1, "bytes": [80, …]}, …]}}], …}
    Output: Prediction(text="Product: Coat, …", confidence={"title": 0.81, …})
    """
    try:
        choice = body["choices"][0]
        content = choice["message"]["content"] or ""
        tokens = (choice.get("logprobs") or {}).get("content") or []
        pieces = [
            str(each["token"]).encode(errors="surrogatepass")
            if each.get("bytes") is None
            else bytes(each["bytes"])
            for each in tokens
        ]
        logprobs = [float(token["logprob"]) for token in tokens]
        text = content.strip().removesuffix(END).rstrip()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise failure("no_content", body=body) from error
    confidence = {}
    # Some servers, vLLM among them, include the stop token.
    if content.encode(errors="surrogatepass") in (b"".join(pieces), b"".join(pieces[:-1])):
        skipped = len(content) - len(content.lstrip())
        merged = _merge_partial_characters(pieces, logprobs)
        ends = [min(max(end - skipped, 0), len(text)) for end, _ in merged]
        confidence = field_confidence(template, text, ends, [logprob for _, logprob in merged])
    reason = choice.get("finish_reason")
    reason = reason if reason in ("stop", "length") else None
    return Prediction.parse(text, template, confidence=confidence, finish_reason=reason)


def _parse_url(text: str) -> URL:
    problem = "it does not begin with http:// or https:// and a host"
    try:
        url = URL(text)
        if url.user or url.password:  # It would be printed in reports.
            problem = f"it contains a user name or password; put a key into {KEY_VARIABLE} instead"
        elif url.query:
            problem = "it contains a query string"
        elif url.scheme in ("http", "https") and url.host:
            return url.with_path(url.path.rstrip("/")).with_fragment(url.fragment or None)
    except ValueError as error:
        problem = str(error)
    raise failure("no_url", text=text, problem=problem)


def _data_url(encoded: bytes, image: Image.Image) -> str:
    with open_header(encoded) as original:
        kind, (_, changes) = original.format or "", normalise(original, encoded)
    if changes or kind not in SENT_FORMATS:
        encoded, kind = encode_image(image, "PNG"), "PNG"
    return f"data:{Image.MIME[kind]};base64,{base64.b64encode(encoded).decode()}"


def _merge_partial_characters(
    pieces: Sequence[bytes], logprobs: Sequence[float]
) -> list[tuple[int, float]]:
    """Merge tokens that share a character; return (length of the text so far, logprob) of each.

    Input:  b"caf", b"\\xc3", b"\\xa9", b"s" with logprobs -0.1, -0.2, -0.3, -0.4
    Output: [(3, -0.1), (4, -0.5), (5, -0.4)]
    """
    merged, text, total = [], b"", 0.0
    for piece, logprob in zip(pieces, logprobs, strict=True):
        text, total = text + piece, total + logprob
        with suppress(UnicodeDecodeError):  # the next token completes this character
            merged.append((len(text.decode()), total))
            total = 0.0
    return merged


# HTTP status -> advice.
ADVICE = {
    0: "start the server, such as `phi-vision serve MODEL --port 8000`, or look into its log",
    200: "use the URL of an OpenAI-compatible server, such as http://localhost:8000/v1",
    401: f"set {KEY_VARIABLE} to a valid key",
    403: f"set {KEY_VARIABLE} to a valid key",
    404: "use a URL that ends with /v1, and a model that the server has, as in http://…/v1#NAME",
    413: "raise the server's limit on the size of requests, or prepare smaller images",
    429: "send fewer concurrent requests with --batch-size",
}
