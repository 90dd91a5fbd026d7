"""A run in TensorBoard, without account or network: `tensorboard --logdir OUT/tensorboard`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from phi_vision.runs import RunDir
from phi_vision.training.tracking.plots import ShownPrediction, draw_predictions


class TensorboardRun:
    """The event files of a run; a resumed run appends, and hides the steps that it repeats."""

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
        """Log predictions as a sheet of images, and as a table in Markdown."""
        self._writer.add_figure("validation/images", draw_predictions(predictions, step), step)
        fields = [field for each in predictions[:1] for field in each.is_correct]
        header = ["Sample", "Ground truth", "Predicted", *fields]
        rows = [header, ["---"] * len(header)]
        for each in predictions:
            marks = ["✓" if is_right else "✗" for is_right in each.is_correct.values()]
            rows.append([each.scored.id, each.ground_truth, each.scored.prediction.text, *marks])
        escape = str.maketrans({"|": "\\|", "\n": " ", "<": "&lt;"})
        lines = [f"| {' | '.join(cell.translate(escape) for cell in row)} |" for row in rows]
        self._writer.add_text("validation/answers", "\n".join(lines), step)
        self._writer.flush()

    def finish(self, model: Path, best: Mapping[str, object]) -> None:
        """Log the path and metrics of the best weights."""
        lines = [f"- {name}: {value}" for name, value in {"model": model, **best}.items()]
        self._writer.add_text("best", "\n".join(lines), 0)

    def close(self, *, failed: bool) -> None:
        """Close the files."""
        self._writer.close()
