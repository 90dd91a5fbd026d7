"""Who is measured in `public_recipe.py`: a catalog's samples, and students of each way."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.plain_training import Student, generate, learn
from benchmarks.wrong_ways import WAYS, Way, read_fed_answers, shown_prompts, shown_rows, word_rows
from phi_vision.data.dataset import load_samples
from phi_vision.data.image_ablations import shuffle_images
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT
from phi_vision.metrics.field_metrics import metrics_for, relative_error

EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Graduate:
    """A student after its training, and how it got there."""

    student: Student
    way: Way
    losses: Sequence[float]

    def answer(self, samples: Sequence[Sample]) -> list[str]:
        """Write answers, asked in the way it was trained."""
        return generate(self.student, self.way.prompts(self.student, samples))[0]

    def read_fed(self, samples: Sequence[Sample]) -> list[str]:
        """Guess each token of the answers, each after all true ones before it."""
        rows = shown_rows if self.way.prompts is shown_prompts else word_rows
        return read_fed_answers(self.student, rows, samples)


@dataclass(frozen=True, kw_only=True)
class School:
    """The catalog, and the graduates of each way."""

    folder: Path
    training: Sequence[Sample]
    validation: Sequence[Sample]
    test: Sequence[Sample]
    graduates: dict[str, Graduate] = field(default_factory=dict)

    @classmethod
    def open(cls, catalog: Path) -> "School":
        """Load the three splits of a drawn catalog."""
        parts = (load_samples(catalog, split=name) for name in ("train", "validation", "test"))
        training, validation, test = parts
        return cls(folder=catalog, training=training, validation=validation, test=test)

    @property
    def held_out(self) -> list[Sample]:
        """Samples of styles that no graduate has seen."""
        return [*self.validation, *self.test]

    @property
    def swapped(self) -> list[Sample]:
        """The same, each with the image of another style."""
        return shuffle_images(self.held_out, seed=0)

    def graduate(self, name: str) -> Graduate:
        """Train in a way of `WAYS`, or remember who was."""
        if name not in self.graduates:
            way = WAYS[name]
            student = way.start(way.template)
            started = time.process_time()
            losses = learn(student, partial(way.rows, student), self.training, epochs=EPOCHS)
            print(f"trained {name}: {time.process_time() - started:.0f} s", file=sys.stderr)
            self.graduates[name] = Graduate(student=student, way=way, losses=losses)
        return self.graduates[name]


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
