"""Baselines without a model: constant predictions from the training samples alone."""

import statistics
from collections import Counter
from collections.abc import Sequence

from phi_vision.data.kinds.field_kind import Predicted, has_value
from phi_vision.data.samples import Record, Sample, Value
from phi_vision.data.template import KINDS, Template


def constant(training: Sequence[Sample], template: Template, count: int) -> list[Record]:
    """Predict `count` times the same record: majority category, its most frequent texts, median
    number. Ties go to the value that occurs first.

    Input:  (Coat, COATS, 300), (Coat, COATS, 500), (Belt, BELTS, 100)
    Output: {"title": "Coat", "category3_code": "COATS", "full_price": 300.0}, `count` times
    """
    records = [template.select(sample.record) for sample in training]
    record: dict[str, Value] = {
        field: typical_value(template, field, [each[field] for each in records])
        for field in template.fields
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
        return {
            field: typical_value(template, field, [record[field] for record in records])
            for field in template.scaled_fields
        }

    groups = _by_category(training, template)
    overall = medians([record for records in groups.values() for record in records])
    by_category = {category: medians(records) for category, records in groups.items()}
    found = [by_category.get(_category(record or {}, template), overall) for record in predicted]
    return [
        {
            field: overall[field] if value is None and field not in template.optional else value
            for field, value in each.items()
        }
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
        category: {
            field: typical_value(template, field, [record[field] for record in records])
            for field in texts
        }
        for category, records in _by_category(training, template).items()
    }


def typical_value(template: Template, field: str, values: Sequence[Value]) -> Value:
    """Return the value that a baseline predicts for all samples with these: the median of numbers,
    the most frequent of others; of an optional field none where most have none."""
    if field in template.optional:
        known = list(filter(has_value, values))
        if 2 * len(known) < len(values):
            return None
        values = known
    scale = KINDS[template.kinds[field]].scale
    if scale is None:
        return Counter(values).most_common(1)[0][0]
    found, as_value = scale(values)
    numbers = [number for number in found if number is not None]
    return as_value(statistics.median(numbers)) if numbers else None


def _by_category(training: Sequence[Sample], template: Template) -> dict[Value, list[Record]]:
    groups: dict[Value, list[Record]] = {}
    for sample in training:
        record = template.select(sample.record)
        groups.setdefault(_category(record, template), []).append(record)
    return groups


def _category(record: Record, template: Template) -> Value:
    return next((record.get(field) for field in template.class_fields), None)
