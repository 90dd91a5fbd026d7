"""BatchConfig: the options of batch prediction. Imports no model, so that `--help` opens fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How a catalog is predicted. Every field is an option of the command."""

    out: Path
    """Parquet file to write."""

    split: str | None = None
    """Split of the dataset to predict; by default all splits, one after the other."""

    keep: tuple[str, ...] = ()
    """Columns of the dataset to copy beside the predictions; COLUMN=NAME renames one."""

    rows_per_part: int = 64
    """Rows predicted and stored together; an interruption costs at most one such part."""

    engine: Literal["local", "ray"] = "local"
    """Where the model runs: here, or on a Ray cluster whose machines can all read the model."""

    workers: int | None = None
    """Model replicas, with ray; by default one for each GPU, or for each machine without GPUs."""

    ray_address: str | None = None
    """Address of a Ray cluster, such as auto; by default one is started here."""

    restart: bool = False
    """Discard earlier predictions, and replace an existing file."""

    def __post_init__(self) -> None:
        """Check that counts are positive."""
        for name in ("rows_per_part", "workers"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; give at least 1")
