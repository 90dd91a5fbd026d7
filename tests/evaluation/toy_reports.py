"""Three evaluations of the same products, as `read_report` returns them; one has no run."""

from pathlib import Path

import numpy as np

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Record
from phi_vision.data.template import TEMPLATES
from phi_vision.evaluation.report import Report
from phi_vision.metrics.comparison import EvaluatedSystem
from phi_vision.runs import History

PRODUCT = TEMPLATES["product"]
HOSTILE = (
    "<script>alert('1')</script> & \"Co\" with_words_that_have_no_blank_anywhere_at_all_to_break"
)
STEPS = 400


def toy_reports(samples: int = 90) -> list[Report]:
    """A run, a better one, and a predictions file with many texts that do not parse."""
    return [
        _report(
            "runs/coats/lora",
            samples,
            right=0.6,
            recipe={"num_train_epochs": 5.0, "output_dir": "runs/lora"},
        ),
        _report(
            "runs/coats/full",
            samples,
            right=0.8,
            recipe={"num_train_epochs": 8.0, "output_dir": "runs/full"},
        ),
        _report("runs/coats/" + HOSTILE, samples + 7, right=0.5),
    ]


def toy_history(rng: np.random.Generator, epochs: float) -> History:
    """The history of a run of 400 steps whose metrics improve."""

    def line(step: int) -> dict[str, float]:
        epoch = epochs * step / STEPS
        return {"step": step, "epoch": epoch, "loss": 12 / (1 + epoch) + rng.normal()}

    evaluations = [
        {
            **line(step),
            "validation_loss": 12 / (1 + step / 50),
            "model": {"category3_code_accuracy": step / STEPS},
        }
        for step in range(40, STEPS + 1, 40)
    ]
    return History([line(step) for step in range(1, STEPS + 1)], evaluations)


def _report(
    name: str, samples: int, *, right: float, recipe: dict[str, object] | None = None
) -> Report:
    rng = np.random.default_rng(len(name))
    predictions = tuple(_answer(number, rng, right, bool(recipe)) for number in range(samples))
    known = {"method": "lora", "learning_rate": 3e-3, "lora_targets": ["qkv_proj", "o_proj"]}
    return Report(
        system=EvaluatedSystem(name=name, template=PRODUCT, predictions=predictions),
        folder=Path(name) / "report",
        recipe={**known, **recipe} if recipe else {},
        versions={"torch": "2.13.0", "data_sha256": "9671" * 16} if recipe else {},
        cost={"training": "7.9 minutes, 400 steps"} if recipe else {},
        history=toy_history(rng, float(str(recipe["num_train_epochs"]))) if recipe else None,
    )


def _answer(
    number: int, rng: np.random.Generator, right: float, readable: bool
) -> ScoredPrediction:
    truth: Record = {
        "title": HOSTILE if number == 5 else f"Embroidered cotton jersey hooded top {number}",
        "category3_code": ["COATS", "BAGS", "SILK SCARVES AND STOLES"][number % 3],
        "full_price": 100.0 + 10 * number,
    }
    predicted = {
        "title": truth["title"] if rng.random() < right else "Leather boots",
        "category3_code": truth["category3_code"] if rng.random() < right else "SHOES",
        "full_price": 100.0 + 10 * number * rng.lognormal(0, 1 - right),
    }
    text = PRODUCT.render(predicted)
    text = text if readable or rng.random() < right else HOSTILE
    return ScoredPrediction(
        id=f"p-{number:05}",
        group=f"g{number // 3}",
        truth=truth,
        prediction=Prediction.parse(text, PRODUCT),
    )
