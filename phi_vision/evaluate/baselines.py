"""What a model must beat: answers that need no model, made from the training samples alone."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from phi_vision.data.sample import Record, Sample, Value
from phi_vision.data.template import Template
from phi_vision.evaluate.metrics import CATEGORY, PRICE, Predicted, as_price


def majority(training: Sequence[Sample], template: Template) -> dict[str, Value]:
    """Answer the same for every picture: the majority category and the median of every number.

    Other text fields hold what is most frequent within that category. Ties go to what comes first.

    Input:  (Coat, COATS, 300), (Coat, COATS, 500), (Belt, BELTS, 100)
    Output: {"title": "Coat", "category3_code": "COATS", "full_price": 300.0}
    """
    records = [template.select(sample.record) for sample in training]
    within = records
    if CATEGORY in template.fields:
        category = _most_frequent(record[CATEGORY] for record in records)
        within = [record for record in records if record[CATEGORY] == category]
    return {
        field: _median(record[field] for record in records)
        if field in template.number_fields
        else _most_frequent(record[field] for record in within)
        for field in template.fields
    }


def category_median(
    predicted: Predicted, training: Sequence[Sample], template: Template
) -> list[Record]:
    """Answer each picture with the median training price of the category the model predicted.

    A model that cannot do better prices by category, not by picture. Where it said no category, or
    one that training does not know, the median of all prices stands in.

    Input:  [{"category3_code": "BELTS", "full_price": 700.0, ...}, None]
    Output: [{"full_price": 100.0}, {"full_price": 300.0}]
    """
    records = [template.select(sample.record) for sample in training]
    overall = _median(record[PRICE] for record in records)
    medians = {
        category: _median(record[PRICE] for record in records if record[CATEGORY] == category)
        for category in {record[CATEGORY] for record in records}
    }
    return [
        {PRICE: overall if record is None else medians.get(record[CATEGORY], overall)}
        for record in predicted
    ]


def _most_frequent(values: Iterable[Value]) -> Value:
    return Counter(values).most_common(1)[0][0]


def _median(values: Iterable[Value]) -> float | None:
    numbers = [number for number in map(as_price, values) if number is not None]
    return statistics.median(numbers) if numbers else None
