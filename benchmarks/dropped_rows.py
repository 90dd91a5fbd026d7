"""What "drop what fails" does to an export with faults, beside what `prepare` does.

The faults are planted, so it is known of each spoilt row whether it can be mended or is lost.
"""

import csv
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from phi_vision.prepare.pipeline import prepare
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.synthetic.corrupted_export import write_export

SPOILT = 0.2
"""Share of the rows with a fault: enough of each kind to count."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Spoilt rows that were treated as they should not be."""

    lost: int
    """Could be mended, and were dropped."""

    mendable: int
    trusted: int
    """Are beyond mending, and were kept."""

    hopeless: int


def count_losses(catalog: Path) -> tuple[Loss, Loss]:
    """Spoil a drawn catalog, read it both ways, and count: dropping what fails, and `prepare`."""
    with tempfile.TemporaryDirectory() as scratch:
        table = write_export(
            catalog, Path(scratch) / "export", rate=SPOILT, seed=0, encoding="utf-8-sig"
        )
        rows, outcomes = _faults(table.with_name("faults.jsonl"))
        prepare(str(table), PrepareConfig(out=Path(scratch) / "prepared"))
        rejected = pq.read_table(Path(scratch) / "prepared" / "rejected.parquet")
        refused = set(rejected["row"].to_pylist())
        dropped = _drop_what_fails(table)
    outcome_of = dict(zip(rows, outcomes, strict=True))
    return _losses(outcome_of, dropped), _losses(outcome_of, refused)


def _faults(file: Path) -> tuple[list[int], list[str]]:
    faults = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [fault["row"] for fault in faults], [fault["outcome"] for fault in faults]


def _drop_what_fails(table: Path) -> set[int]:
    """Read as tutorials do: whatever raises drops its row. Encoding and separator are given."""
    dropped = set()
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=";")):
            try:
                float(row["full_price"].replace(",", "."))
                Image.open(table.parent / row["image"]).convert("RGB")
            # That nothing is told apart is what is measured.
            except Exception:
                dropped.add(number)
    return dropped


def _losses(outcome_of: dict[int, str], dropped: set[int]) -> Loss:
    hopeless = {row for row, outcome in outcome_of.items() if outcome == "rejected"}
    mendable = {row for row, outcome in outcome_of.items() if outcome == "mended"}
    return Loss(
        lost=len(mendable & dropped),
        mendable=len(mendable),
        trusted=len(hopeless - dropped),
        hopeless=len(hopeless),
    )
