"""FilePredictor: predictions from a JSONL file, one JSON object per line.

    {"id": "A-red", "text": "Product: Wool Coat, Category: COATS, Full Price: 390.0"}
    {"id": "B-blue", "record": {"title": "Sun Hat", "category3_code": "HATS", "full_price": 45.5},
     "confidence": {"full_price": 0.7}}

The file of predictions in a report has this format.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template, find_template

MAX_NAMED = 3
"""Ids in an error message."""


class FilePredictor:
    """Looks predictions up by the ids of the samples; the file may hold further ones.

    A line has `id`; `text`, which takes precedence, or `record` (null for no record); and
    optionally `confidence`: field -> probability that it is correct.

    Raises:
        ValueError: There is no such file, or a line is not a prediction; names the line.
    """

    def __init__(self, file: Path, *, template: str = "product") -> None:
        self.template = find_template(template)
        self.name = f"file {file}"
        self._file = file
        self._predictions: dict[str, Prediction] = {}
        try:
            text = file.read_text(encoding="utf-8-sig")  # -sig: a byte order mark is skipped
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error}; save it as UTF-8") from error
        except OSError as error:
            raise ValueError(
                f"no predictions at {file}: {error.strerror}; give a JSONL file"
            ) from error
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                self._add(line.strip(), f"{file}, line {number}")
        if not self._predictions:
            raise ValueError(f"{file} holds no predictions; write one line for each sample")

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Yield (index, prediction); raise a ValueError for a missing sample, or a grammar."""
        if grammar is not None:
            raise ValueError(
                f"{self._file} cannot be constrained by a grammar: it holds finished predictions; "
                "leave out constrained predictions"
            )
        ids = {sample.id for sample in samples}
        if missing := ids - set(self._predictions):
            others = set(self._predictions) - ids
            held = f"{len(others)} others, such as {_join(others)}" if others else "no others"
            raise ValueError(
                f"{self._file} holds no prediction for {len(missing)} of {len(ids)} samples, such "
                f"as {_join(missing)}; it holds {held}; write one line for each sample, with its id"
            )
        return ((index, self._predictions[sample.id]) for index, sample in enumerate(samples))

    def _add(self, line: str, location: str) -> None:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{location} is not JSON: {error}; found {line:.80}") from error
        if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
            raise ValueError(
                f'{location} has no id: found {line:.80}; write {{"id": "...", "text": "..."}}'
            )
        sample = str(row["id"])
        if sample in self._predictions:
            raise ValueError(
                f"{location}: a second prediction for {sample!r}; keep one line for each sample"
            )
        self._predictions[sample] = Prediction.parse(
            _text(row, self.template, location),
            self.template,
            confidence=_confidence(row.get("confidence"), self.template, location),
            source=sample,
        )


def _text(row: Mapping[str, object], template: Template, location: str) -> str:
    """Return a line's text; a record is rendered by the template."""
    text, record = row.get("text"), row.get("record")
    if isinstance(text, str):
        return text.strip()
    if "text" not in row and isinstance(record, dict):
        try:
            return template.render(record)
        except ValueError as error:
            raise ValueError(f"{location}: {error}") from error
    if "text" in row or "record" not in row or record is not None:
        raise ValueError(
            f"{location} holds no prediction: found {', '.join(row)}; write `text`, or `record` "
            f"with the fields {', '.join(template.fields)}"
        )
    return ""


def _confidence(cell: object, template: Template, location: str) -> dict[str, float]:
    cell = {} if cell is None else cell
    if not isinstance(cell, dict) or set(cell) - set(template.fields):
        found = ", ".join(cell) if isinstance(cell, dict) else repr(cell)
        raise ValueError(
            f"{location}: confidence is for {found}; give a probability for some of "
            f"{', '.join(template.fields)}"
        )
    for field, value in cell.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise ValueError(
                f"{location}: the confidence of {field} is {value!r}; give a number from 0 to 1"
            )
    return {field: float(value) for field, value in cell.items()}


def _join(ids: set[str]) -> str:
    return ", ".join(repr(each) for each in sorted(ids)[:MAX_NAMED])
