"""FilePredictor: predictions from a JSONL file, one JSON object per line.

    {"id": "A-red", "text": "Product: Wool Coat, Category: COATS, Full Price: 390.0"}
    {"id": "B-blue", "record": {"title": "Sun Hat", "category3_code": "HATS", "full_price": 45.5},
     "confidence": {"full_price": 0.7}}

predictions.jsonl of a report is such a file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template, find_template

SHOWN = 3
"""So many ids are named where many are meant."""


class FilePredictor:
    """A file of answers.

    Args:
        file: Lines that hold `id`, an answer as `text` or as `record` (null where there was none;
            where a line has both, the text counts), and if known `confidence`: field -> probability
            that it is right.
        template: Name of the wording that reads the texts, or a YAML file or a run that has one.

    Raises:
        ValueError: The file is not there, or a line of it is no answer; names the line.
    """

    def __init__(self, file: Path, *, template: str = "product") -> None:
        self.template = find_template(template)
        self.name = f"file {file}"
        self._file = file
        self._replies: dict[str, Prediction] = {}
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                self._take(line, f"{file}, line {number}")
        if not self._replies:
            raise ValueError(f"{file} holds no answers: found no line; write one for each sample")

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Look up what was answered about each sample.

        The file may hold answers about others, too: fewer samples may be judged than were asked
        about.

        Input:  samples A-red and B-blue
        Output: (0, Prediction(text="Product: Wool Coat, ...")),
                (1, Prediction(text="Product: Sun Hat, ..."))

        Args:
            samples: Found by their ids.
            grammar: Must be None.

        Raises:
            ValueError: The file lacks a sample, or a grammar is given.
        """
        if grammar is not None:
            raise ValueError(
                f"{self._file} cannot be limited to a grammar: it holds answers already given; "
                "leave the constrained answers out"
            )
        self._refuse_gaps(samples)
        return ((place, self._replies[sample.id]) for place, sample in enumerate(samples))

    def _refuse_gaps(self, samples: Sequence[Sample]) -> None:
        asked = {sample.id for sample in samples}
        missing = [sample for sample in asked if sample not in self._replies]
        if not missing:
            return
        others = [sample for sample in self._replies if sample not in asked]
        held = f"{len(others)} others, such as {_name(others)}" if others else "no others"
        raise ValueError(
            f"{self._file} holds no answer about {len(missing)} of {len(asked)} samples, such as "
            f"{_name(missing)}; it holds {held}; write one line for each sample, with its id"
        )

    def _take(self, line: str, place: str) -> None:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{place} is no JSON: {error}; found {line.strip():.80}") from error
        if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
            raise ValueError(
                f'{place} names no sample: found {line.strip():.80}; write {{"id": "...", '
                '"text": "..."}'
            )
        sample = str(row["id"])
        if sample in self._replies:
            raise ValueError(
                f"{place}: a second answer about {sample!r}; leave one line for each sample"
            )
        self._replies[sample] = Prediction.parse(
            _text(row, self.template, place),
            self.template,
            source=sample,
            confidence=_confidence(row.get("confidence"), self.template, place),
        )


def _lines(file: Path) -> list[str]:
    try:
        # utf-8-sig: some writers begin a file with a mark, and no line holds it as a letter.
        return file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"no answers at {file}: {error.strerror}; give a JSONL file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text: {error}; write it again in UTF-8") from error


def _text(row: Mapping[str, object], template: Template, place: str) -> str:
    """Take the answer out of a line; a record is worded as the template would."""
    if isinstance(row.get("text"), str):
        return str(row["text"]).strip()
    if "text" not in row and "record" in row:
        record = row["record"]
        if record is None:
            return ""
        if isinstance(record, dict):
            try:
                return template.render(record)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
    raise ValueError(
        f"{place} holds no answer: found {', '.join(row)}; write `text`, or `record` with the "
        f"fields {', '.join(template.fields)}"
    )


def _confidence(held: object, template: Template, place: str) -> dict[str, float]:
    """Check the probabilities of a line; a line without any has none."""
    if held is None:
        return {}
    if not isinstance(held, dict) or set(held) - set(template.fields):
        found = ", ".join(held) if isinstance(held, dict) else repr(held)
        raise ValueError(
            f"{place}: confidence is for {found}; give a probability for some of "
            f"{', '.join(template.fields)}"
        )
    for field, value in held.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:
            raise ValueError(
                f"{place}: the confidence of {field} is {value!r}; give a number from 0 to 1"
            )
    return {field: float(value) for field, value in held.items()}


def _name(ids: Sequence[str]) -> str:
    return ", ".join(repr(each) for each in sorted(ids)[:SHOWN])
