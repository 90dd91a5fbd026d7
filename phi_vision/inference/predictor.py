"""Answerers: whoever can be asked about samples, found by one word of the command line.

A model here, a graph for ONNX Runtime, a server, a file of answers: asked and judged alike.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from phi_vision.data.prediction import Reply
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template
from phi_vision.inference.local import Predictor
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictions_file import Written

PLAIN_WORDING = "product"
"""Template for whoever brings none along."""


class Answerer(Protocol):
    """Whoever can be asked the template's question about samples."""

    template: Template
    """Words the question and reads the answer."""

    name: str
    """What it is, for the report: "checkpoint runs/coats", "server http://localhost:8000/v1"."""

    def replies(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Reply]]:
        """Ask about every sample, and yield each reply as it comes, in any order.

        Input:  [coat, hat]
        Output: (1, Reply(text="Product: Sun Hat, ...")), (0, Reply(text="Product: Coat, ..."))

        Args:
            samples: What is asked about; one without images is asked in words alone.
            grammar: All that may be written, as a Lark grammar; None for anything.

        Raises:
            ValueError: A sample cannot be asked about (named), or a grammar cannot be kept to.
        """
        ...


def find_predictor(words: str, *, template: str | None = None, batch_size: int = 16) -> Answerer:
    """Find out who is meant, and make ready to ask.

    Input:  "runs/coats", "phi-vision-small", "runs/coats-onnx", "http://localhost:8000/v1",
            "predictions.jsonl"
    Output: Predictor,    Predictor,          Predictor,         OpenAIPredictor,
            Written

    Args:
        words: Run, checkpoint or adapter folder, hub id, folder for ONNX Runtime, address of a
            server that speaks as OpenAI's does, or JSONL file of answers.
        template: As `find_template` takes it; unless given, see `find_template_of`.
        batch_size: Images read together; of a server, asked about at a time.

    Raises:
        ValueError: There is nothing of the kind, or it cannot be opened.
    """
    wording = find_template_of(words, template)
    if words.startswith(("http://", "https://")):
        return OpenAIPredictor(words, template=wording, at_a_time=batch_size)
    if Path(words).suffix == ".jsonl":
        return Written(Path(words), template=wording)
    return Predictor(words, template=wording, batch_size=batch_size)


def find_template_of(words: str, template: str | None) -> str:
    """Say which template an answerer is asked in, in words that `find_template` takes.

    Input:  ("runs/coats", "walkthrough"), ("runs/coats", None),       ("phi-vision-small", None)
    Output: "walkthrough",                 "runs/coats/template.yaml", "product"

    Args:
        words: Who is asked.
        template: What the user chose. Without a choice it is the template that lies in the run, or
            beside the file of answers, else the plain one.
    """
    if template is not None:
        return template
    place = Path(words).parent if Path(words).suffix == ".jsonl" else Path(words)
    file = place / TEMPLATE_FILE
    return str(file) if file.is_file() else PLAIN_WORDING
