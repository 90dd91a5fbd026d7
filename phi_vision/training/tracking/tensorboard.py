"""A run in TensorBoard: `tensorboard --logdir OUT/tensorboard`, without an account or a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from phi_vision.data.samples import open_image
from phi_vision.runs import RunDir
from phi_vision.training.tracking.shown_predictions import ShownPrediction, draw_predictions


class TensorboardRun:
    """The event files of a run; a resumed run appends, and hides the steps that it repeats.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, run: RunDir, recipe: str, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = str(run.path / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=first_step + 1 if first_step else None)
        self._writer.add_text("recipe", f"```yaml\n{recipe}```", first_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, predictions: Sequence[ShownPrediction]) -> None:
        """Log predictions as a table and as a sheet of images."""
        sheet = np.asarray(open_image(draw_predictions(predictions, step)).convert("RGB"))
        self._writer.add_image("validation/images", sheet, step, dataformats="HWC")
        self._writer.add_text("validation/answers", to_markdown(predictions), step)
        self._writer.flush()

    def finish(self, model: Path, best: Mapping[str, object]) -> None:
        """Log the path and metrics of the best weights."""
        lines = [f"- {name}: {value}" for name, value in {"model": model, **best}.items()]
        self._writer.add_text("best", "\n".join(lines), 0)

    def close(self, *, failed: bool) -> None:
        """Close the files."""
        self._writer.close()


def to_markdown(predictions: Sequence[ShownPrediction]) -> str:
    """Format predictions as a table.

    Output: | Sample | Ground truth | Predicted | title | category3_code |
            | --- | --- | --- | --- | --- |
            | p7 | Product: Hat, Category: HATS | Product: Cap, Category: HATS | ✗ | ✓ |
    """
    fields = list(predictions[0].is_correct) if predictions else []
    header = ["Sample", "Ground truth", "Predicted", *fields]
    rows = [header, ["---"] * len(header)]
    for each in predictions:
        marks = ["✓" if each.is_correct[field] else "✗" for field in fields]
        rows.append([each.scored.id, each.ground_truth, each.scored.prediction.text, *marks])
    escape = str.maketrans({"|": "\\|", "\n": " ", "<": "&lt;"})
    return "\n".join(f"| {' | '.join(cell.translate(escape) for cell in row)} |" for row in rows)
