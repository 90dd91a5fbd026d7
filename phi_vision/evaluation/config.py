"""EvaluationConfig: how to judge. Light enough to be opened for `--help`."""

import difflib
from dataclasses import dataclass
from pathlib import Path

SKIPPABLE = (
    "shuffled",
    "blank",
    "withheld",
    "constrained",
    "base",
    "constant",
    "category_median",
    "boosting",
    "nearest",
    "leakage",
)
"""What a trial can do without, by the names of `evaluate.score.WHO`, and the look for leaks."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How to judge; every field is an option of `phi-vision evaluate`."""

    data: Path
    """Folder of samples, with a train split for the rivals."""

    split: str = "test"
    """Part of the data to judge on."""

    out: Path | None = None
    """Folder to write the report to; unless given, report/ in the run that is judged."""

    group_column: str | None = None
    """Column whose equal values belong together; unless given, that of the run's recipe, else the
    data's own choice."""

    limit: int | None = None
    """Judge on the first samples only."""

    template: str | None = None
    """Wording: product, walkthrough, a YAML file or a run; unless given, that of the run that is
    judged, else product."""

    batch_size: int = 16
    """Images read together."""

    skip: tuple[str, ...] = ()
    """What to do without, to save time: shuffled, blank, withheld, constrained, base, constant,
    category_median, boosting, nearest, leakage."""

    known_categories: bool = False
    """Limit the constrained answers also to the categories that training knows."""

    target_precision: float | None = None
    """Share of right answers wanted, such as 0.95: tells what share of the catalog can then be
    filled without a human, field by field, and from which confidence on."""

    base: str | None = None
    """The model before fine-tuning, judged beside; unless given, what the run or the adapter
    started from."""

    twin: str | None = None
    """A run that was trained with withhold_images, judged beside."""

    seed: int = 0
    """Of everything that is drawn: the intervals, the shuffle, the boosting."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        for name in self.skip:
            if name not in SKIPPABLE:
                near = difflib.get_close_matches(name, SKIPPABLE, n=1)
                meant = f" (did you mean {near[0]}?)" if near else ""
                raise ValueError(f"cannot skip {name!r}{meant}; choose from {', '.join(SKIPPABLE)}")
        if self.target_precision is not None and not 0 < self.target_precision < 1:
            raise ValueError(
                f"target_precision is {self.target_precision}; give a share between 0 and 1, "
                "such as 0.95"
            )
        for name, given, needed in (
            ("known_categories", self.known_categories, "constrained"),
            ("base", self.base, "base"),
        ):
            if given and needed in self.skip:
                raise ValueError(
                    f"{name} cannot take effect: {needed} is to be skipped; leave one of them out"
                )
        for name, value in (("limit", self.limit), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
