"""Who is measured in `public_recipe.py`: a catalog's samples, and students of each way."""

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
from phi_vision.data.image_ablations import shuffle_images
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT
from phi_vision.metrics.field_metrics import metrics_for, relative_error

EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A setup after its training, and how it got there."""

    setup: Setup
    way: BrokenRecipe
    losses: Sequence[float]

    def answer(self, samples: Sequence[Sample]) -> list[str]:
        """Write answers, asked in the way it was trained."""
        return generate(self.setup, self.way.prompts(self.setup, samples))[0]

    def read_fed(self, samples: Sequence[Sample]) -> list[str]:
        """Guess each token of the answers, each after all true ones before it."""
        rows = shown_rows if self.way.prompts is shown_prompts else word_rows
        return read_fed_answers(self.setup, rows, samples)


@dataclass(frozen=True, kw_only=True)
class AblationRuns:
    """The catalog, and the models of each way."""

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
        """Samples of styles that no trained has seen."""
        return [*self.validation, *self.test]

    @property
    def swapped(self) -> list[Sample]:
        """The same, each with the image of another style."""
        return shuffle_images(self.held_out, seed=0)

    def trained(self, name: str) -> TrainedModel:
        """Train in a way of `RECIPES`, or remember who was."""
        if name not in self.models:
            way = RECIPES[name]
            setup = way.start(way.template)
            started = time.process_time()
            losses = learn(setup, partial(way.rows, setup), self.training, epochs=EPOCHS)
            print(f"trained {name}: {time.process_time() - started:.0f} s", file=sys.stderr)
            self.models[name] = TrainedModel(setup=setup, way=way, losses=losses)
        return self.models[name]


def share_right(answers: Sequence[str], samples: Sequence[Sample]) -> float:
    """Measure the share of answers that name the right category."""
    said = [PRODUCT.parse(text) for text in answers]
    accuracy = metrics_for(PRODUCT)["category3_code_accuracy"]
    return accuracy(said, [sample.record for sample in samples])


def errors_of_price(answers: Sequence[str], samples: Sequence[Sample]) -> list[float]:
    """Measure each relative price error; an answer in another form is wrong by 1."""
    said = [PRODUCT.parse(text) or {} for text in answers]
    pairs = zip(said, samples, strict=True)
    return [
        relative_error(record.get("full_price"), sample.record["full_price"])
        for record, sample in pairs
    ]
