"""Writes sample data like a real dataset: `phi-vision sample --like DATASET --rows N --out DIR`.

Profiles the dataset, draws records and images after the profile, checks that they contain nothing
real, and reports their fidelity.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.dataset import IMAGE_COLUMNS
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.synthetic.catalog import Progress, add_features, parallel_map, render
from phi_vision.synthetic.fidelity import Fidelity, PrivacyReport, measure_distances
from phi_vision.synthetic.image_style import ImagePlan, draw_image
from phi_vision.synthetic.observation import Observation, inspect_image, observe
from phi_vision.synthetic.privacy import RealValues, check_row
from phi_vision.synthetic.profile import Profile, load_profile, profile_dataset, save_profile
from phi_vision.synthetic.synthesizer import PlannedRow, Synthesizer

_ROW_GROUP = 100
_CHUNK = 200  # rows whose images are drawn together
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A profile, and the dataset behind it where that is available."""

    profile: Profile
    data: Observation | None = None
    real: RealValues | None = None


def write_sample_like(
    dataset: Path, out: Path, *, rows: int, seed: int, progress: Progress | None = None
) -> Fidelity:
    """Draw a dataset that resembles a real one and contains nothing of it.

    Writes OUT/data/<split>-00000-of-00001.parquet with the columns and types of the dataset,
    OUT/fidelity.md and OUT/fidelity.json (distances, and the privacy check), OUT/profile.json (the
    measurements; can be given away and used in place of the dataset) and OUT/README.md, all of them
    atomically. The same dataset, rows and seed give the same bytes. Many images are drawn by one
    process a core, so a script that calls this at its top level needs the usual
    `if __name__ == "__main__":`.

    Args:
        dataset: a prepared dataset's folder, or the profile.json of one.
        out: a folder that does not exist yet, or is empty.
        rows: how many.
        seed: of everything.
        progress: called with (done, total) after each image.

    Raises:
        ValueError: The dataset is unreadable or has too few groups, `out` is in use, or the drawn
            data contains something real; then nothing is written.
    """
    check_folder_is_free(out)
    if dataset.suffix == ".json":
        source = _Source(profile=load_profile(dataset))
    else:
        real = RealValues()
        data = observe(dataset, real.add)
        source = _Source(profile=profile_dataset(data), data=data, real=real)
    with atomic_folder(out) as folder:
        redrawn = _write_rows(folder / "data", source, rows, seed, progress)
        fidelity = _measure(folder, source, rows, redrawn)
        splits = [name for name, size in source.profile.splits.items() if size]
        report = asdict(fidelity)
        texts = {
            "fidelity.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
            "fidelity.md": render("fidelity.md.j2", **report),
            "README.md": render("sample_card.md.j2", rows=rows, splits=splits),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        save_profile(source.profile, folder / "profile.json")
    return fidelity


def _write_rows(
    folder: Path, source: _Source, rows: int, seed: int, progress: Progress | None
) -> int:
    """Draw everything and write it split by split; return how many images were drawn again."""
    folder.mkdir()
    schema = add_features(source.profile.arrow_schema(), images=IMAGE_COLUMNS)
    plan = Synthesizer(source.profile, rows=rows, seed=seed, real=source.real).plan()
    waiting: dict[str, list[dict[str, Any]]] = {}
    done = redrawn = 0
    with ExitStack() as stack:
        run = stack.enter_context(parallel_map(rows))
        files = {}
        for split, size in source.profile.splits.items():
            if size:
                file = folder / f"{split}-00000-of-00001.parquet"
                files[split] = stack.enter_context(pq.ParquetWriter(file, schema))
        while chunk := list(islice(plan, _CHUNK)):
            plans = list(dict.fromkeys(image for row in chunk for image in row.images))
            images: dict[ImagePlan, bytes] = {}
            for image, encoded in zip(plans, run(draw_image, plans), strict=True):
                images[image], tries = _draw_until_new(image, encoded, source.real)
                redrawn += tries
            for row in chunk:
                waiting.setdefault(row.split, []).append(_cells(row, images, schema))
                done += 1
                if progress:
                    progress(done, rows)
            for split in [name for name in waiting if len(waiting[name]) >= _ROW_GROUP]:
                files[split].write_table(_table(waiting.pop(split), schema), _ROW_GROUP)
        for split, members in waiting.items():
            files[split].write_table(_table(members, schema), _ROW_GROUP)
    return redrawn


def _draw_until_new(plan: ImagePlan, encoded: bytes, real: RealValues | None) -> tuple[bytes, int]:
    """Return an image that is like no real one, and how many were drawn again for it."""
    for tries in range(_TRIES):
        if real is None or not real.contains_image(inspect_image(encoded)):
            return encoded, tries
        encoded = draw_image(replace(plan, seed=f"{plan.seed} again {tries}"))
    raise ValueError(
        f"cannot draw a {plan.garment.kind} that differs from the real images: {_TRIES} drawings "
        "had nearly the perceptual hash of one; try another seed"
    )


def _cells(row: PlannedRow, images: Mapping[ImagePlan, bytes], schema: pa.Schema) -> dict[str, Any]:
    cells: dict[str, Any] = {**row.record}
    structs = [
        {"bytes": images[image], "path": path}
        for image, path in zip(row.images, row.paths, strict=True)
    ]
    for column in schema:
        if column.name in IMAGE_COLUMNS:
            several = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
            cells[column.name] = structs if several else (structs[0] if structs else None)
    return cells


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    arrays = [_array([row[column.name] for row in rows], column) for column in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Sequence[Any], column: pa.Field) -> pa.Array:
    """Convert values to a column's type; times are drawn as numbers of days or seconds."""
    kind, types = column.type, pa.types
    if column.name in IMAGE_COLUMNS and (types.is_binary(kind) or types.is_large_binary(kind)):
        return pa.array([value and value["bytes"] for value in values], kind)
    if types.is_date(kind):
        return pa.array(values, pa.int32()).cast(pa.date32()).cast(kind)
    if types.is_timestamp(kind):
        seconds = pa.array(values, pa.int64()).cast(pa.timestamp("s"))
        return seconds.cast(pa.timestamp(kind.unit)).cast(kind)
    if types.is_decimal(kind):
        return pa.array(values, pa.float64()).cast(kind)
    if types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _measure(folder: Path, source: _Source, rows: int, redrawn: int) -> Fidelity:
    """Read the written data back, check that nothing in it is real, and compare it."""
    profile, real = source.profile, source.real
    empty = tuple(column.name for column in profile.columns if column.role == "empty")
    if source.data is None or real is None:
        return Fidelity(rows=rows, distances=(), privacy=None, empty=empty)
    drawn = observe(folder, lambda row: check_row(row, profile, real))
    texts = {c: len(real.texts[c]) for c in profile.private_columns if c in real.texts}
    nodes = {node.column: node.frequencies for node in profile.network}
    privacy = PrivacyReport(
        real_values=texts,
        real_images=len(real.digests),
        redrawn=redrawn,
        kept_categories={name: len(each.named) for name, each in nodes.items()},
        invented_categories={name: each.rest_values for name, each in nodes.items()},
    )
    distances = tuple(measure_distances(source.data, drawn, profile))
    return Fidelity(rows=rows, distances=distances, privacy=privacy, empty=empty)
