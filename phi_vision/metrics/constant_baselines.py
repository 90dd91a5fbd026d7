"""What a model must beat: answers that need no model, made from the training samples alone."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from phi_vision.data.samples import Record, Sample, Value
from phi_vision.data.template import Template
from phi_vision.metrics.field_metrics import Predicted, as_number

Texts = dict[str, Value]
"""Text field -> what it says most often."""


def constant(training: Sequence[Sample], template: Template, count: int) -> list[Record]:
    """Answer the same `count` times: every field's majority category or median number.

    Text fields hold what is most frequent within the majority of the first category field. Ties go
    to what comes first.

    Input:  (Coat, COATS, 300), (Coat, COATS, 500), (Belt, BELTS, 100)
    Output: {"title": "Coat", "category3_code": "COATS", "full_price": 300.0}, `count` times
    """
    records = [template.select(sample.record) for sample in training]
    answer: dict[str, Value] = {}
    for field, kind in template.kinds.items():
        values = [record[field] for record in records]
        answer[field] = median(values) if kind == "number" else most_frequent(values)
    texts = usual_texts(training, template)
    answer |= texts[_leading(answer, template)]
    return [answer] * count


def category_median(
    predicted: Predicted, training: Sequence[Sample], template: Template
) -> list[Record]:
    """Answer number fields with their median in training, within the category the model predicted.

    A model that cannot do better prices by category, not by image. The category is the
    template's first; where the model said none, or one that training does not know, the median of
    all numbers stands in.

    Input:  [{"category3_code": "BELTS", "full_price": 700.0, ...}, None]
    Output: [{"full_price": 100.0}, {"full_price": 300.0}]
    """
    numbers = template.fields_of("number")
    within = _by_category(training, template)
    everything = [record for records in within.values() for record in records]
    overall = {field: median(record[field] for record in everything) for field in numbers}
    medians = {
        category: {field: median(record[field] for record in records) for field in numbers}
        for category, records in within.items()
    }
    return [
        {
            field: overall[field] if value is None else value
            for field, value in medians.get(_leading(said or {}, template), overall).items()
        }
        for said in predicted
    ]


def usual_texts(training: Sequence[Sample], template: Template) -> dict[Value, Texts]:
    """Find what text fields say most often within each value of the first category field.

    A template without a category has its texts under None.

    Input:  (Coat, COATS), (Coat, COATS), (Cape, COATS), (Belt, BELTS)
    Output: {"COATS": {"title": "Coat"}, "BELTS": {"title": "Belt"}}
    """
    return {
        category: {
            field: most_frequent(record[field] for record in records)
            for field in template.fields_of("text")
        }
        for category, records in _by_category(training, template).items()
    }


def most_frequent(values: Iterable[Value]) -> Value:
    """Take the value that occurs most often; of several, the one that comes first."""
    return Counter(values).most_common(1)[0][0]


def median(values: Iterable[Value]) -> float | None:
    """Take the middle of those values that are numbers; None where there are none."""
    numbers = [number for number in map(as_number, values) if number is not None]
    return statistics.median(numbers) if numbers else None


def _by_category(training: Sequence[Sample], template: Template) -> dict[Value, list[Record]]:
    within: dict[Value, list[Record]] = {}
    for sample in training:
        record = template.select(sample.record)
        within.setdefault(_leading(record, template), []).append(record)
    return within


def _leading(record: Record, template: Template) -> Value:
    """The value of the template's first category field."""
    return next((record.get(field) for field in template.fields_of("category")), None)
