"""Predictor: one protocol for a checkpoint, ONNX graphs, an OpenAI-compatible server and a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template, find_template
from phi_vision.inference.local import LocalPredictor, resolve_template
from phi_vision.inference.openai_server import OpenAIPredictor
from phi_vision.io.formatting import error_texts
from phi_vision.model.checkpoint import adapter_base, resolve

failure = error_texts(__file__)

MAX_NAMED = 3  # Ids in an error message.


class Predictor(Protocol):
    """A source of predictions, with a name for reports, such as "checkpoint runs/coats"."""

    template: Template
    name: str

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (index of the sample, prediction) in any order, as soon as each is available.

        An unusable image, or a Lark grammar where none is supported, is a ValueError.
        """
        ...


def load_predictor(model: str, *, template: str | None = None, batch_size: int = 16) -> Predictor:
    """Load the predictor that a model's name stands for.

    Input:  "runs/coats", "phi-vision-small", "runs/coats-onnx"     LocalPredictor
            "http://localhost:8000/v1"                              OpenAIPredictor
            "given.jsonl"                                           FilePredictor

    For a server, `batch_size` is the number of concurrent requests. No such model: a ValueError.
    """
    chosen = resolve_template(model, template)
    if model.startswith(("http://", "https://")):
        return OpenAIPredictor(model, template=chosen, batch_size=batch_size)
    if Path(model).suffix == ".jsonl":
        return FilePredictor(Path(model), template=chosen)
    return LocalPredictor(model, template=chosen, batch_size=batch_size)


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
    # A model's files are siblings, subfolders may be checkpoints in progress; locks are hidden.
    files = [path] if path.is_file() else sorted(filter(Path.is_file, path.glob("[!.]*")))
    facts = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return [model, *facts, *(model_identity(base) if base is not None else [])]


class FilePredictor:
    """Predictions from a JSONL file, one line for each sample, such as that of a report.

        {"id": "A-red", "text": "Product: Wool Coat, Category: COATS, Full Price: 390.0"}
        {"id": "B-blue", "record": {"title": "Hat", "category3_code": "HATS", "full_price": 45.5},
         "confidence": {"full_price": 0.7}}

    `text` takes precedence; a record may be null. The file may hold further samples. A line that is
    not a prediction is a ValueError that names it.
    """

    def __init__(self, file: Path, *, template: str = "product") -> None:
        self.template = find_template(template)
        self.name = f"file {file}"
        self._file = file
        self._predictions: dict[str, Prediction] = {}
        try:
            text = file.read_text(encoding="utf-8-sig")  # -sig: a byte order mark is skipped
        except UnicodeDecodeError as error:
            raise failure("not_utf8", file=file, error=error) from error
        except OSError as error:
            raise failure("no_file", file=file, error=error.strerror) from error
        for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
            try:
                if line:
                    self._add(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {error}") from error
        if not self._predictions:
            raise failure("empty", file=file)

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (index, prediction); raise a ValueError for a missing sample, or a grammar."""
        if grammar is not None:
            raise failure("no_grammar", file=self._file)
        ids = {sample.id for sample in samples}
        if missing := ids - set(self._predictions):
            others = set(self._predictions) - ids
            held = f"{len(others)} others, such as {_join(others)}" if others else "no others"
            counts = {"count": len(missing), "total": len(ids)}
            raise failure("missing", file=self._file, missing=_join(missing), held=held, **counts)
        return ((index, self._predictions[sample.id]) for index, sample in enumerate(samples))

    def _add(self, line: str) -> None:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise failure("not_json", error=error, line=line) from error
        if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
            raise failure("no_id", line=line)
        sample = str(row["id"])
        if sample in self._predictions:
            raise failure("second", sample=sample)
        self._predictions[sample] = Prediction.parse(
            _text(row, self.template),
            self.template,
            confidence=_confidence(row.get("confidence"), self.template),
            source=sample,
        )


def _text(row: Mapping[str, object], template: Template) -> str:
    """Return a line's text; a record is rendered by the template."""
    match row:
        case {"text": str(text)}:
            return text.strip()
        case {"text": _}:
            pass
        case {"record": dict(record)}:
            return template.render(record)
        case {"record": None}:
            return ""
    raise failure("no_prediction", found=", ".join(row), fields=", ".join(template.fields))


def _confidence(cell: object, template: Template) -> dict[str, float]:
    cell = {} if cell is None else cell
    known = {*template.fields, *chain(*template.levels.values())}
    if not isinstance(cell, dict) or set(cell) - known:
        found = ", ".join(cell) if isinstance(cell, dict) else repr(cell)
        raise failure("other_fields", found=found, fields=", ".join(template.fields))
    for field, value in cell.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise failure("not_probability", field=field, value=value)
    return {field: float(value) for field, value in cell.items()}


def _join(ids: set[str]) -> str:
    return ", ".join(repr(each) for each in sorted(ids)[:MAX_NAMED])
