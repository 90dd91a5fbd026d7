"""Predictor: one protocol for a checkpoint, ONNX graphs, an OpenAI-compatible server and a file.

predictor = load_predictor("runs/coats")
for index, prediction in predictor.predict_samples(samples):
    print(samples[index].id, prediction.record)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATE_FILE, Template
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.inference.predictions_file import FilePredictor
from phi_vision.model.checkpoint import adapter_base, resolve

DEFAULT_TEMPLATE = "product"
"""Template of a model that comes without one."""


class Predictor(Protocol):
    """A source of predictions."""

    template: Template
    """Builds the prompt and parses the generated text."""

    name: str
    """For reports: "checkpoint runs/coats", "server http://localhost:8000/v1, model coats"."""

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (index of the sample, prediction) in any order, as soon as each is available.

        A sample without images is prompted with text alone; a Lark grammar constrains the text.

        Input:  [coat, hat]
        Output: (1, Prediction(text="Product: Sun Hat, ...")),
                (0, Prediction(text="Product: Coat, ..."))

        Raises:
            ValueError: A sample has an unusable image (named), or grammars are not supported.
        """
        ...


def load_predictor(model: str, *, template: str | None = None, batch_size: int = 16) -> Predictor:
    """Load the predictor that a model's name stands for.

    Input:  "runs/coats", "phi-vision-small", "runs/coats-onnx"     LocalPredictor
            "http://localhost:8000/v1"                              OpenAIPredictor
            "given.jsonl"                                           FilePredictor

    Args:
        model: Run, checkpoint or adapter folder, Hub id, ONNX folder, URL or JSONL file.
        template: Name or file of a template; by default that of `resolve_template`.
        batch_size: Samples per batch; for a server, concurrent requests.

    Raises:
        ValueError: There is no such model, or it cannot be loaded.
    """
    chosen = resolve_template(model, template)
    if model.startswith(("http://", "https://")):
        return OpenAIPredictor(model, template=chosen, batch_size=batch_size)
    if Path(model).suffix == ".jsonl":
        return FilePredictor(Path(model), template=chosen)
    return LocalPredictor(model, template=chosen, batch_size=batch_size)


def resolve_template(model: str, template: str | None = None) -> str:
    """Return the name or file of the template: the given one, the model's own, or the default.

    Input:  ("runs/coats", "walkthrough"), ("runs/coats", None),       ("phi-vision-small", None)
    Output: "walkthrough",                 "runs/coats/template.yaml", "product"
    """
    if template is not None:
        return template
    folder = Path(model).parent if Path(model).suffix == ".jsonl" else Path(model)
    file = folder / TEMPLATE_FILE
    return str(file) if file.is_file() else DEFAULT_TEMPLATE


def model_identity(model: str) -> list[str]:
    """List what distinguishes a model from another of its name: its files, their sizes and times.

    Input:  "runs/coats"
    Output: ["runs/coats", "runs/coats/model/config.json 2711 1763683200000000000", ...]
    """
    path, base = Path(model), None
    if not path.is_file():
        try:
            path = Path(resolve(model))
        except ValueError:  # the URL of a server
            return [model]
        base = adapter_base(str(path))
    # A model's files are siblings; subfolders may be checkpoints in progress.
    files = [path] if path.is_file() else sorted(each for each in path.glob("*") if each.is_file())
    facts = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return [model, *facts, *(model_identity(base) if base is not None else [])]
