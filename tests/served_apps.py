"""Apps on a real port, and a model that waits until it may go on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from starlette.types import ASGIApp

from phi_vision.inference.local import LocalPredictor
from phi_vision.model.processing_phi3_v import Phi3VProcessor


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Serve an app on a free port; give its address."""
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


class GatedModel:
    """A model that generates only while its gate is open, and fails when told to."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, **inputs: Any) -> torch.Tensor:
        assert self.gate.wait(20)
        self.batches.append(len(inputs["input_ids"]))
        if self.failure is not None:
            raise self.failure
        generated: torch.Tensor = self._model.generate(**inputs)
        return generated


@dataclass
class Gated:
    """A predictor's model and processor, with a gate before the model."""

    predictor: LocalPredictor
    model: Any = field(init=False)
    processor: Phi3VProcessor = field(init=False)

    def __post_init__(self) -> None:
        self.model = GatedModel(self.predictor.model)
        self.processor = self.predictor.processor
