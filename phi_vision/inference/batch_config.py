"""BatchConfig: how a catalog is answered. Knows no model, so that the help opens at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How a catalog is answered. Every field is an option of the command."""

    out: Path
    """Parquet file to write."""

    split: str | None = None
    """Part of the dataset to answer; all parts by default, one after the other."""

    keep: tuple[str, ...] = ()
    """Columns of the dataset to copy beside the predictions; COLUMN=NAME gives one another name."""

    portion: int = 64
    """Rows that are asked about and kept together; a kill costs one such portion."""

    engine: Literal["local", "ray"] = "local"
    """Where the model answers: here, or on a Ray cluster, whose machines all see the model."""

    workers: int | None = None
    """Models that answer at a time, with ray; one for each GPU or machine by default."""

    ray_address: str | None = None
    """Ray cluster to use, such as auto; one is started here by default."""

    restart: bool = False
    """Forget what was answered before, and replace a file that is there."""

    def __post_init__(self) -> None:
        """Refuse portions and workers that are none."""
        for name, number in (("portion", self.portion), ("workers", self.workers)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; give at least 1")
