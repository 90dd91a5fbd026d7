"""RunFacts: what the journal has to know of a run, and all that it knows of training."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Where a run lies and what it is called by."""

    folder: Path
    """The run folder, into which everything is written."""

    model: Path
    """Where its best weights will lie."""

    data: str
    """What it learns from: a folder or file of samples."""

    recipe: str
    """Its recipe as YAML, shown beside the curves."""

    tracker: str
    """A name of `TRACKERS`."""
