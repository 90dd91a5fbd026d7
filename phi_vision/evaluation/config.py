"""EvaluationConfig: the options of an evaluation. Light enough to import for `--help`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from phi_vision.io.formatting import error_texts, suggestion

failure = error_texts(__file__, "errors.yaml")  # of this package

Progress = Callable[[int, int], None]
"""Called with the number of finished items and their total."""

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar with a label."""

SKIPPABLE = (
    *("shuffled", "blank", "withheld", "constrained", "base"),
    *("constant", "category_median", "boosting", "nearest", "probe", "leakage"),
)
"""Parts of an evaluation that can be skipped: systems of `metrics.scores.SYSTEMS`, and leakage."""


@contextmanager
def no_progress(label: str) -> Iterator[Progress]:
    """Show nothing."""
    yield lambda done, total: None


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The options of `phi-vision evaluate`."""

    data: Path
    """Folder of samples, with a train split for the baselines."""
    split: str = "test"
    """Split to evaluate on."""
    out: Path | None = None
    """Folder of the report; by default report/ in the evaluated run."""
    group_column: str | None = None
    """Column that groups samples; by default that of the run's recipe, else that of the data."""
    limit: int | None = None
    """Evaluate on the first samples only."""
    template: str | None = None
    """Prompt template: product, walkthrough, conversation, a YAML file or a run; by default that of
    the evaluated run, else of the data, else conversation or product."""
    batch_size: int = 16
    """Images per batch."""
    skip: tuple[str, ...] = ()
    """Parts to skip, to save time: shuffled, blank, withheld, constrained, base, constant,
    category_median, boosting, nearest, probe, leakage."""
    known_categories: bool = False
    """Limit the constrained predictions also to the categories of the training data."""
    target_precision: float | None = None
    """Share of correct predictions wanted among those accepted automatically, such as 0.95: reports
    for each field the share of the catalog that needs no review, and the confidence threshold."""
    base: str | None = None
    """The model before fine-tuning, as a baseline; by default the start of the run or adapter."""
    twin: str | None = None
    """A run trained with withhold_images, as a baseline."""
    seed: int = 0
    """Of the resampling, the shuffled images and the boosting."""

    def __post_init__(self) -> None:
        """Validate the options."""
        for name in [name for name in self.skip if name not in SKIPPABLE]:
            hint, choices = suggestion(name, SKIPPABLE), ", ".join(SKIPPABLE)
            raise failure("skip", name=name, hint=hint, choices=choices)
        if self.target_precision is not None and not 0 < self.target_precision < 1:
            raise failure("target_precision", target=self.target_precision)
        for name, needed in (("known_categories", "constrained"), ("base", "base")):
            if vars(self)[name] and needed in self.skip:
                reason = f"{needed} is skipped; leave one of them out"
                raise failure("without_effect", name=name, reason=reason)
        for name in ("limit", "batch_size"):
            count = vars(self)[name]
            if count is not None and count < 1:
                raise failure("count", name=name, count=count, option=name.replace("_", "-"))
