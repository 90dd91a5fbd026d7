"""Baselines without a model: constant predictions from the training samples alone."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from phi_vision.data.samples import Record, Sample, Value
from phi_vision.data.template import Template
from phi_vision.metrics.field_metrics import Predicted, as_number


def constant(training: Sequence[Sample], template: Template, count: int) -> list[Record]:
    """Predict `count` times the same record: majority category, its most frequent texts, median
    number. Ties go to the value that occurs first.

    Input:  (Coat, COATS, 300), (Coat, COATS, 500), (Belt, BELTS, 100)
    Output: {"title": "Coat", "category3_code": "COATS", "full_price": 300.0}, `count` times
    """
    records = [template.select(sample.record) for sample in training]
    record: dict[str, Value] = {
        field: (median if kind == "number" else _most_frequent)(each[field] for each in records)
        for field, kind in template.kinds.items()
    }
    return [record | most_frequent_texts(training, template)[_category(record, template)]] * count


def category_median(
    predicted: Predicted, training: Sequence[Sample], template: Template
) -> list[Record]:
    """Predict number fields by their training median within the model's (first) category, if
    training contains it: whether a model's prices go beyond its categories.

    Input:  [{"category3_code": "BELTS", "full_price": 700.0, ...}, None]
    Output: [{"full_price": 100.0}, {"full_price": 300.0}]
    """

    def medians(records: Sequence[Record]) -> Record:
        numbers = template.fields_of("number")
        return {field: median(record[field] for record in records) for field in numbers}

    groups = _by_category(training, template)
    overall = medians([record for records in groups.values() for record in records])
    by_category = {category: medians(records) for category, records in groups.items()}
    found = [by_category.get(_category(record or {}, template), overall) for record in predicted]
    return [
        {field: overall[field] if value is None else value for field, value in each.items()}
        for each in found
    ]


def most_frequent_texts(
    training: Sequence[Sample], template: Template
) -> dict[Value, dict[str, Value]]:
    """Find the most frequent value of each text field, by the first category field (or None).

    Input:  (Coat, COATS), (Coat, COATS), (Cape, COATS), (Belt, BELTS)
    Output: {"COATS": {"title": "Coat"}, "BELTS": {"title": "Belt"}}
    """
    texts = template.fields_of("text")
    return {
        category: {field: _most_frequent(record[field] for record in records) for field in texts}
        for category, records in _by_category(training, template).items()
    }


def _most_frequent(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def median(values: Iterable[Value]) -> float | None:
    """Return the median of the values that are numbers; None without any."""
    numbers = [number for number in map(as_number, values) if number is not None]
    return statistics.median(numbers) if numbers else None


def _by_category(training: Sequence[Sample], template: Template) -> dict[Value, list[Record]]:
    groups: dict[Value, list[Record]] = {}
    for sample in training:
        record = template.select(sample.record)
        groups.setdefault(_category(record, template), []).append(record)
    return groups


def _category(record: Record, template: Template) -> Value:
    return next((record.get(field) for field in template.fields_of("category")), None)
