"""An evaluation with everything that a report can show, hostile titles and long category names."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from toy_reports import HOSTILE, PRODUCT, toy_history

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Record, Sample
from phi_vision.evaluation.report import Evaluation, EvaluationMetadata
from phi_vision.metrics.scores import score

CATEGORIES = ("COATS", "BAGS", "SILK SCARVES AND STOLES", "N.A.", "日本のコート", "BELTS")
SHARES = {
    "model": 0.8,
    "constrained": 0.85,
    "base": 0.1,
    "withheld": 0.2,
    "twin": 0.25,
    "blank": 0.15,
    "shuffled": 0.1,
}
"""System -> fraction of correct fields."""


def toy_evaluation(samples: int = 60, *, minimal: bool = False) -> Evaluation:
    """Score the predictions of all systems, or of the model alone."""
    rng = np.random.default_rng(0)
    held_out = [_sample(f"p{number}", number) for number in range(samples)]
    training = [_sample(f"t{number}", number + 20) for number in range(samples)]
    baselines: dict[str, list[Record]] = {
        system: [
            PRODUCT.select(training[int(at)].record) for at in rng.integers(samples, size=samples)
        ]
        for system in ("constant", "nearest", "boosting")
    }
    baselines["category_median"] = [{"full_price": 500.0}] * samples
    predictions = {
        system: [_predict(s, share, rng) for s in held_out] for system, share in SHARES.items()
    }
    if minimal:
        return _minimal(predictions["model"], held_out, training)
    scores = score(
        predictions,
        held_out,
        PRODUCT,
        training=training,
        baselines=baselines,
        leaked={"p1": f"the same image as {HOSTILE}", "p7": "the same title as t7"},
        target_precision=0.9,
        best_achievable={"full_price_median_ape": 0.03},
    )
    metadata = EvaluationMetadata(
        model=f"checkpoint runs/{HOSTILE}",
        data="catalog",
        split="test",
        data_card={"samples": f"{samples} samples in 30 groups", "sha256": "967100b9" * 8},
        recipe=f"method: lora\nepochs: 5.0\ndata: {HOSTILE}\n",
        versions={"python": "3.11.2", "torch": "2.13.0+cpu"},
        history=toy_history(rng, 5.0),
        cost={"training": "7.9 minutes, 400 steps", "prediction": "0.11 s a sample"},
        left_out={"twin": "no twin was given; --twin names one"},
    )
    return Evaluation(scores=scores, samples=held_out, metadata=metadata)


def _minimal(
    predictions: Sequence[Prediction], samples: Sequence[Sample], training: Sequence[Sample]
) -> Evaluation:
    """The texts of a predictions file, and nothing else."""
    texts = [Prediction.parse(each.text, PRODUCT) for each in predictions]
    metadata = EvaluationMetadata(
        model="predictions.jsonl",
        data="catalog",
        split="test",
        data_card={},
        recipe="",
        versions={},
        history=None,
        cost={},
    )
    scores = score({"model": texts}, samples, PRODUCT, training=training)
    return Evaluation(scores=scores, samples=samples, metadata=metadata)


def _sample(name: str, number: int) -> Sample:
    colour = tuple(int(part) for part in np.random.default_rng(number).integers(0, 256, size=3))
    image = io.BytesIO()
    Image.new("RGB", (40 + 4 * (number % 9), 60), colour).save(image, "PNG")
    title = HOSTILE if number == 5 else f"Embroidered cotton jersey hooded top {number // 2}"
    return Sample(
        id=name,
        group=title,
        images=(image.getvalue(),),
        record={
            "title": title,
            "category3_code": CATEGORIES[number % len(CATEGORIES)],
            "full_price": 50.0 * 1.07**number,
        },
    )


def _predict(sample: Sample, share: float, rng: np.random.Generator) -> Prediction:
    """Predict correctly with a probability, and with a little more confidence where it is."""
    if rng.random() < 0.05:
        return Prediction.parse(HOSTILE, PRODUCT)
    right = rng.random(3) < share
    price = float(str(sample.record["full_price"]))
    predicted = {
        "title": sample.record["title"] if right[0] else "Leather boots",
        "category3_code": sample.record["category3_code"] if right[1] else "SHOES",
        "full_price": price if right[2] else round(price * rng.lognormal(0, 0.6), 2),
    }
    sure = np.clip(0.5 + 0.3 * right + 0.2 * rng.random(3), 0, 1)
    return Prediction.parse(
        PRODUCT.render(predicted),
        PRODUCT,
        confidence=dict(zip(PRODUCT.fields, map(float, sure), strict=True)),
    )
