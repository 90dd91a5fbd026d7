"""Rows lost from a corrupted export by "drop every row that fails", and by `prepare`.

The corruptions are planted, so it is known which rows can be repaired.
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

CORRUPTED_SHARE = 0.2
"""Share of corrupted rows: enough of each kind to count."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Corrupted rows that were treated wrongly."""

    lost: int
    """Repairable rows that were dropped."""

    repairable: int
    kept: int
    """Rows beyond repair that were kept."""

    irreparable: int


def count_losses(catalog: Path) -> tuple[Loss, Loss]:
    """Corrupt a drawn catalog, read it both methods, and count the wrongly treated rows of each."""
    with tempfile.TemporaryDirectory() as scratch:
        table = write_export(
            catalog, Path(scratch) / "export", rate=CORRUPTED_SHARE, seed=0, encoding="utf-8-sig"
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
    """Read as tutorials do: drop each row that raises. Encoding and separator are known."""
    dropped = set()
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=";")):
            try:
                float(row["full_price"].replace(",", "."))
                Image.open(table.parent / row["image"]).convert("RGB")
            # The benchmark measures this very habit.
            except Exception:
                dropped.add(number)
    return dropped


def _losses(outcome_of: dict[int, str], dropped: set[int]) -> Loss:
    irreparable = {row for row, outcome in outcome_of.items() if outcome == "rejected"}
    repairable = {row for row, outcome in outcome_of.items() if outcome == "mended"}
    return Loss(
        lost=len(repairable & dropped),
        repairable=len(repairable),
        kept=len(irreparable - dropped),
        irreparable=len(irreparable),
    )
