"""The models that `public_recipe.py` measures: one per recipe, trained on the same catalog."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.baseline_loop import Setup, generate, learn
from benchmarks.broken_recipes import (
    RECIPES,
    BrokenRecipe,
    read_fed_answers,
    shown_prompts,
    shown_rows,
    word_rows,
)
from phi_vision.data.dataset import load_samples
from phi_vision.data.kinds.number_kind import relative_error
from phi_vision.data.samples import Sample, shuffle_images
from phi_vision.data.template import PRODUCT
from phi_vision.metrics.field_metrics import metrics_for

EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained model, its recipe and its losses."""

    setup: Setup
    recipe: BrokenRecipe
    losses: Sequence[float]

    def answer(self, samples: Sequence[Sample]) -> list[str]:
        """Generate answers to the prompts of its own recipe."""
        return generate(self.setup, self.recipe.prompts(self.setup, samples))[0]

    def read_fed(self, samples: Sequence[Sample]) -> list[str]:
        """Predict each token of the answers from the true tokens before it (teacher forcing)."""
        rows = shown_rows if self.recipe.prompts is shown_prompts else word_rows
        return read_fed_answers(self.setup, rows, samples)


@dataclass(frozen=True, kw_only=True)
class AblationRuns:
    """The catalog, and the trained model of each recipe."""

    folder: Path
    training: Sequence[Sample]
    validation: Sequence[Sample]
    test: Sequence[Sample]
    models: dict[str, TrainedModel] = field(default_factory=dict)

    @classmethod
    def open(cls, catalog: Path) -> "AblationRuns":
        """Load the three splits of a drawn catalog."""
        parts = (load_samples(catalog, split=name) for name in ("train", "validation", "test"))
        training, validation, test = parts
        return cls(folder=catalog, training=training, validation=validation, test=test)

    @property
    def held_out(self) -> list[Sample]:
        """Samples of styles that no model was trained on."""
        return [*self.validation, *self.test]

    @property
    def shuffled(self) -> Sequence[Sample]:
        """The held-out samples, each with the image of another style."""
        return shuffle_images(self.held_out, seed=0)

    def trained(self, name: str) -> TrainedModel:
        """Train with a recipe of `RECIPES`, once."""
        if name not in self.models:
            recipe = RECIPES[name]
            setup = recipe.start(recipe.template)
            started = time.process_time()
            losses = learn(setup, partial(recipe.rows, setup), self.training, epochs=EPOCHS)
            print(f"trained {name}: {time.process_time() - started:.0f} s", file=sys.stderr)
            self.models[name] = TrainedModel(setup=setup, recipe=recipe, losses=losses)
        return self.models[name]


def category_accuracy(answers: Sequence[str], samples: Sequence[Sample]) -> float:
    """Measure the accuracy of the category."""
    records = [PRODUCT.parse(text) for text in answers]
    accuracy = metrics_for(PRODUCT)["category3_code_accuracy"]
    return accuracy(records, [sample.record for sample in samples])


def price_errors(answers: Sequence[str], samples: Sequence[Sample]) -> list[float]:
    """Measure each relative price error; 1 for an answer that does not parse."""
    records = [PRODUCT.parse(text) or {} for text in answers]
    pairs = zip(records, samples, strict=True)
    return [
        relative_error(record.get("full_price"), sample.record["full_price"])
        for record, sample in pairs
    ]
