"""A run in TensorBoard: `tensorboard --logdir OUT/tensorboard`, without an account or a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phi_vision.data.samples import Value, open_image
from phi_vision.training.tracking.prediction_sheet import draw_answers
from phi_vision.training.tracking.prediction_table import ShownPrediction
from phi_vision.training.tracking.run_metadata import RunFacts


class TensorboardRun:
    """One run's event files; a resumed run goes on, and hides the steps it is about to do again.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, facts: RunFacts, *, first_step: int) -> None:
        self._writer = _open_writer(facts.folder / "tensorboard", first_step)
        self._writer.add_text("recipe", f"```yaml\n{facts.recipe}```", first_step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures to the curves."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, answers: Sequence[ShownPrediction]) -> None:
        """Write answers down as a table in words, and as a sheet of images."""
        sheet = np.asarray(open_image(draw_answers(answers, step)).convert("RGB"))
        self._writer.add_image("validation/images", sheet, step, dataformats="HWC")
        self._writer.add_text("validation/answers", to_markdown(answers), step)
        self._writer.flush()

    def finish(self, model: Path, best: Mapping[str, object]) -> None:
        """Write down which weights are the best."""
        lines = [f"- {name}: {value}" for name, value in {"model": model, **best}.items()]
        self._writer.add_text("best", "\n".join(lines), 0)

    def close(self, *, failed: bool) -> None:
        """End the files."""
        self._writer.close()


def to_markdown(answers: Sequence[ShownPrediction]) -> str:
    """Write answers as a table.

    Output: | Sample | Ground truth | Predicted | title | category3_code |
            | --- | --- | --- | --- | --- |
            | p7 | Product: Hat, Category: HATS | Product: Cap, Category: HATS | ✗ | ✓ |
    """
    fields = list(answers[0].is_correct) if answers else []
    rows: list[list[Value]] = [["Sample", "Ground truth", "Predicted", *fields]]
    rows.append(["---"] * len(rows[0]))
    for answer in answers:
        marks = ["✓" if answer.is_correct[field] else "✗" for field in fields]
        rows.append([answer.scored.id, answer.ground_truth, answer.scored.prediction.text, *marks])
    return "\n".join(f"| {' | '.join(_cell(str(cell)) for cell in row)} |" for row in rows)


def _cell(text: str) -> str:
    """Keep a text in its cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _open_writer(folder: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
