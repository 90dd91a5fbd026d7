"""Predict the rows of one part, each with an outcome whatever its neighbours do, as an Arrow table.

id, split              the row; `split` where the catalog has splits
title, full_price, …   the predicted fields: numbers as float64, others as text
confidence_title, …    the model's probability of the field
readable               whether the text parses; null where there is none
text                   the generated text; null where there is none
error, error_detail    why there is no prediction: a reason and a sentence; null where there is one
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import torch

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample, Value
from phi_vision.data.template import Kind, Template
from phi_vision.inference.batch_sources import CatalogPart, Failure
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import ServerError
from phi_vision.inference.predictor import Predictor

Outcome = Prediction | Failure

UNAVAILABLE = frozenset({0, 401, 403, 404, 408, 425, 429, 502, 503, 504})
"""HTTP statuses of a server that serves nobody now; others (400, 413, 500) may be due to one
image."""

MIN_FAILURES = 8
"""So many failures without a single prediction have a common cause, not the images."""

CONFIDENCE = "confidence_"


def predict_part(
    predictor: Predictor, part: CatalogPart, grammar: str | None = None
) -> list[Outcome]:
    """Predict every row that has a sample; a failing row is isolated from its neighbours.

    Output: [Prediction(...), Failure(reason="unreadable image", detail="..."), Prediction(...)]

    Raises:
        ValueError: The server is unavailable, or every row fails.
        torch.AcceleratorError: The GPU failed; this process cannot use it again.
    """
    outcomes: dict[int, Outcome] = {}
    samples: dict[int, Sample] = {}
    for index, row in enumerate(part.rows):
        if isinstance(row.sample, Sample):
            samples[index] = row.sample
        else:
            outcomes[index] = row.sample
    predicted = _predict(predictor, samples, grammar)
    _check_any_success(list(predicted.values()), part)
    outcomes |= predicted
    return [outcomes[index] for index in range(len(part.rows))]


def _predict(
    predictor: Predictor, samples: Mapping[int, Sample], grammar: str | None
) -> dict[int, Outcome]:
    indices, outcomes = list(samples), dict[int, Outcome]()
    problem = "the predictor returned nothing"
    try:
        for place, prediction in predictor.predict_samples(list(samples.values()), grammar=grammar):
            outcomes[indices[place]] = prediction
    except Exception as error:
        if _concerns_all_rows(error):
            raise
        problem = str(error) or type(error).__name__
    # Outside `except`, which would keep the failed batch in memory.
    left = {index: sample for index, sample in samples.items() if index not in outcomes}
    return outcomes | _isolate(predictor, left, grammar, problem)


def _isolate(
    predictor: Predictor, samples: Mapping[int, Sample], grammar: str | None, problem: str
) -> dict[int, Outcome]:
    """Exclude unusable images; where all are usable, bisect."""
    if not samples:
        return {}
    checked = {index: _check_images(predictor, sample) for index, sample in samples.items()}
    outcomes: dict[int, Outcome] = {index: bad for index, bad in checked.items() if bad}
    rest = [index for index in samples if index not in outcomes]
    if not outcomes and len(rest) == 1:
        return {rest[0]: Failure("no prediction", problem)}
    middle = 0 if outcomes else len(rest) // 2
    for half in (rest[:middle], rest[middle:]):
        outcomes |= _predict(predictor, {index: samples[index] for index in half}, grammar)
    return outcomes


def _check_images(predictor: Predictor, sample: Sample) -> Failure | None:
    try:
        images = sample.open_images()
    except ValueError as error:
        return Failure("unreadable image", str(error))
    if isinstance(predictor, LocalPredictor):
        try:
            for image in images:
                predictor.check_shape(image, f"sample {sample.id!r}")
        except ValueError as error:
            return Failure("impossible shape", str(error))
    return None


def _concerns_all_rows(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, torch.AcceleratorError):
            return True  # Not raised where a GPU is only out of memory.
        if isinstance(error, ServerError):
            return error.status in UNAVAILABLE
        error = error.__cause__
    return False


def _check_any_success(outcomes: Sequence[Outcome], part: CatalogPart) -> None:
    """Stop where nothing was predicted, instead of storing failures for the whole catalog."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    unexplained = [failure for failure in failures if failure.reason == "no prediction"]
    if len(unexplained) < MIN_FAILURES or len(failures) < len(outcomes):
        return
    start, stop = part.span
    raise ValueError(
        f"all {len(unexplained)} predictions for the rows {start} to {stop - 1} failed, the first "
        f"because: {unexplained[0].detail}; the images are not the cause, so none of these rows is "
        "stored: fix the cause, and the same command resumes here"
    )


def prediction_schema(template: Template, *, has_splits: bool) -> pa.Schema:
    """List the columns of a template's predictions.

    Raises:
        ValueError: A field has the name of another column.
    """
    columns = [("id", pa.string())] + ([("split", pa.string())] if has_splits else [])
    columns += [(field, ARROW_TYPES[kind]) for field, kind in template.kinds.items()]
    columns += [(CONFIDENCE + field, pa.float64()) for field in template.fields]
    columns += [("readable", pa.bool_()), ("text", pa.string())]
    schema = pa.schema([*columns, ("error", pa.string()), ("error_detail", pa.string())])
    for field in template.fields:
        if schema.names.count(field) > 1:
            raise ValueError(
                f"the template {template.name!r} has a field {field!r}, which is also the name of "
                "another column of the predictions; give --template a copy of the template in "
                f"which the field has another name, such as {field}_read"
            )
    return schema


def to_table(
    part: CatalogPart, outcomes: Sequence[Outcome], template: Template, schema: pa.Schema
) -> pa.Table:
    """Convert the outcomes of a part to a table in the `prediction_schema`."""
    rows = [
        {"id": _storable(row.id), "split": row.split} | _cells(outcome, template)
        for row, outcome in zip(part.rows, outcomes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _cells(outcome: Outcome, template: Template) -> dict[str, object]:
    if isinstance(outcome, Failure):
        return {"error": outcome.reason, "error_detail": _storable(outcome.detail)}
    record, kinds = outcome.record or {}, template.kinds
    return {
        **{field: CELLS[kind](record.get(field)) for field, kind in kinds.items()},
        **{CONFIDENCE + field: float(value) for field, value in outcome.confidence.items()},
        "readable": outcome.record is not None,
        "text": _storable(outcome.text),
    }


def _number_cell(value: Value) -> float | None:
    """Keep numbers; other values of a number field remain in the text."""
    if isinstance(value, bool | str | None):
        return None
    try:
        return float(value)
    except OverflowError:  # An integer of more than 308 digits.
        return None


def _text_cell(value: Value) -> str | None:
    return None if value is None else _storable(str(value))


def _storable(text: str) -> str:
    """Escape undecodable bytes of file names and lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


ARROW_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.string(),
    "category": pa.string(),
    "number": pa.float64(),
}
"""Kind of a field -> type of its column."""

CELLS = {"text": _text_cell, "category": _text_cell, "number": _number_cell}
"""Kind of a field -> converts a value, which may be of another kind."""
