"""Writes sample data like a real dataset: `phi-vision sample --like DATASET --rows N --out DIR`.

Profiles the dataset, draws records and images after the profile, checks that nothing real is
among them, and says how close they came.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi_vision.data.samples import Value
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.synthetic.fidelity import Closeness, Privacy, measure_closeness
from phi_vision.synthetic.invented_words import Inventor, Planned
from phi_vision.synthetic.privacy import PATH_COLUMN, SecretKeeper, Secrets
from phi_vision.synthetic.profile import (
    Profile,
    is_image,
    load_profile,
    profile_dataset,
    save_profile,
)
from phi_vision.synthetic.reading import Observed, Seen, inspect_image, observe
from phi_vision.synthetic.shots import ShotPlan, take_shot

Progress = Callable[[int, int], None]

_ROW_GROUP = 100
_AT_ONCE = 200  # rows whose images are drawn together
_WORTH_WORKERS = 150  # images; below this, starting processes takes longer than drawing
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What is to be resembled: a profile, and the dataset itself where it is at hand."""

    profile: Profile
    seen: Observed | None
    secrets: Secrets | None


def write_likeness(
    dataset: Path, out: Path, *, rows: int, seed: int, progress: Progress | None = None
) -> Closeness:
    """Draw a dataset that resembles a real one and holds nothing of it.

    Writes OUT/data/<split>-00000-of-00001.parquet with the columns and types of the dataset,
    OUT/likeness.md and OUT/likeness.json (how close, and the privacy check), OUT/profile.json (what
    was measured; can be given away and used in place of the dataset) and OUT/README.md. The same
    dataset, rows and seed give the same bytes. OUT appears complete or not at all. Many images
    are drawn by one process for each core, so a script that calls this at its top level needs the
    usual `if __name__ == "__main__":`.

    Args:
        dataset: a prepared dataset's folder, or the profile.json of one.
        out: a folder that does not exist yet, or is empty.
        rows: how many.
        seed: of everything.
        progress: called with (done, total) after each image.

    Raises:
        ValueError: The dataset cannot be read or has too few groups, `out` is in use, or something
            real was found in what was drawn; then nothing is written.
    """
    check_folder_is_free(out)
    model = _open(dataset)
    with atomic_folder(out) as unfinished:
        redrawn = _write_rows(unfinished / "data", model, rows, seed, progress)
        closeness = _judge(unfinished, model, rows, redrawn)
        _write_papers(unfinished, model.profile, closeness)
    return closeness


def _open(dataset: Path) -> _Model:
    if dataset.suffix == ".json":
        return _Model(profile=load_profile(dataset), seen=None, secrets=None)
    keeper = SecretKeeper()
    seen = observe(dataset, keeper.add)
    return _Model(profile=profile_dataset(seen), seen=seen, secrets=keeper.close())


def _write_rows(
    folder: Path, model: _Model, rows: int, seed: int, progress: Progress | None
) -> int:
    """Draw everything and write it split by split; return how many images were drawn again."""
    folder.mkdir()
    schema = _described(model.profile.arrow_schema())
    inventor = Inventor(model.profile, rows=rows, seed=seed, secrets=model.secrets)
    photographer = _Photographer(model.secrets)
    waiting: dict[str, list[dict[str, Any]]] = {}
    done = 0
    with ExitStack() as stack:
        workers = _workers(stack, rows)
        files = {
            split: stack.enter_context(pq.ParquetWriter(folder / _file_name(split), schema))
            for split, size in model.profile.splits.items()
            if size
        }
        for planned in _in_chunks(inventor.plan()):
            for plan, images in zip(planned, photographer.take(planned, workers), strict=True):
                waiting.setdefault(plan.split, []).append(_row(plan, images, schema))
                done += 1
                if progress:
                    progress(done, rows)
            for split in [s for s, some in waiting.items() if len(some) >= _ROW_GROUP]:
                files[split].write_table(_table(waiting.pop(split), schema), _ROW_GROUP)
        for split, some in waiting.items():
            files[split].write_table(_table(some, schema), _ROW_GROUP)
    return photographer.redrawn


class _Photographer:
    """Draws planned images, again where one came out like a real one."""

    def __init__(self, secrets: Secrets | None) -> None:
        self.redrawn = 0
        self._secrets = secrets

    def take(
        self, planned: Sequence[Planned], workers: ProcessPoolExecutor | None
    ) -> Iterator[tuple[bytes, ...]]:
        """Yield the images of each row."""
        plans = list(dict.fromkeys(shot for row in planned for shot in row.shots))
        drawn = workers.map(take_shot, plans, chunksize=8) if workers else map(take_shot, plans)
        found: dict[ShotPlan, bytes] = {}
        for row in planned:
            for shot in row.shots:
                while shot not in found:
                    plan = plans[len(found)]
                    found[plan] = self._until_new(plan, next(drawn))
            yield tuple(found[shot] for shot in row.shots)

    def _until_new(self, plan: ShotPlan, encoded: bytes) -> bytes:
        for tries in range(_TRIES):
            shot = inspect_image(encoded, None)
            if self._secrets is None or not self._secrets.hold_image(shot):
                return encoded
            self.redrawn += 1
            encoded = take_shot(replace(plan, seed=f"{plan.seed} again {tries}"))
        raise ValueError(
            f"cannot draw a {plan.garment.kind} that does not look like a real image: {_TRIES} "
            "drawings came within two bits of one; give another seed"
        )


def _workers(stack: ExitStack, rows: int) -> ProcessPoolExecutor | None:
    count = os.cpu_count() or 1
    if count == 1 or rows < _WORTH_WORKERS:
        return None
    # Spawned, not forked: the caller may hold threads and locks (progress bars, torch).
    return stack.enter_context(ProcessPoolExecutor(count, mp_context=get_context("spawn")))


def _in_chunks(rows: Iterator[Planned]) -> Iterator[list[Planned]]:
    chunk: list[Planned] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _row(plan: Planned, images: Sequence[bytes], schema: pa.Schema) -> dict[str, Any]:
    row: dict[str, Any] = {**plan.record}
    structs = [
        {"bytes": encoded, "path": path} for encoded, path in zip(images, plan.paths, strict=True)
    ]
    for column in schema:
        if is_image(column):
            several = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
            row[column.name] = structs if several else (structs[0] if structs else None)
    return row


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    arrays = [_array([row[column.name] for row in rows], column) for column in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Sequence[Any], column: pa.Field) -> pa.Array:
    """Bring values to a column's type: times go back from the numbers they were drawn as."""
    kind = column.type
    if is_image(column) and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return pa.array([value and value["bytes"] for value in values], kind)
    if pa.types.is_temporal(kind):
        return _times(values, kind)
    if pa.types.is_decimal(kind):
        return pa.array(values, pa.float64()).cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _times(values: Sequence[Value], kind: pa.DataType) -> pa.Array:
    if pa.types.is_date(kind):
        return pa.array(values, pa.int32()).cast(pa.date32()).cast(kind)
    return (
        pa.array(values, pa.int64())
        .cast(pa.timestamp("s"))
        .cast(pa.timestamp(kind.unit))
        .cast(kind)
    )


def _described(schema: pa.Schema) -> pa.Schema:
    """Note the feature types as the `datasets` library does, so that it decodes the images."""
    if not any(is_image(column) for column in schema):
        return schema
    features: dict[str, object] = {}
    for column in schema:
        if is_image(column):
            one = {"_type": "Image"}
            is_list = pa.types.is_list(column.type)
            features[column.name] = {"feature": one, "_type": "List"} if is_list else one
        elif (dtype := _DTYPES.get(str(column.type))) is not None:
            features[column.name] = {"dtype": dtype, "_type": "Value"}
        else:
            return schema  # without the note, `datasets` finds the types out by itself
    described = json.dumps({"info": {"features": features}})
    return schema.with_metadata({"huggingface": described})


def _judge(folder: Path, model: _Model, rows: int, redrawn: int) -> Closeness:
    """Read back what was written: refuse anything real in it, and measure how close it is.

    With a profile alone there is nothing to compare with.
    """
    empty = tuple(column.name for column in model.profile.columns if column.role == "empty")
    if model.seen is None or model.secrets is None:
        return Closeness(rows=rows, distances=(), privacy=None, empty=empty)
    secrets, profile = model.secrets, model.profile
    drawn = observe(folder, lambda seen: refuse_real(seen, profile, secrets))
    real_values = {
        column: len(secrets.texts[column])
        for column in profile.private_columns
        if column in secrets.texts
    }
    privacy = Privacy(
        real_values=real_values,
        real_images=len(secrets.digests),
        redrawn=redrawn,
        kept_categories={node.column: len(node.shares.named) for node in profile.network},
        invented_categories={node.column: node.shares.rest_values for node in profile.network},
    )
    distances = tuple(measure_closeness(model.seen, drawn, profile))
    return Closeness(rows=rows, distances=distances, privacy=privacy, empty=empty)


def refuse_real(seen: Seen, profile: Profile, secrets: Secrets) -> None:
    """Refuse a drawn row with anything real in it.

    Raises:
        ValueError: A title, text, code, link, file name, rare category name or image is real.
    """
    private = profile.private_columns
    values = {column: seen.record.get(column) for column in private}
    found = [name for name, value in values.items() if value and secrets.hold_text(value, private)]
    for node in profile.network:
        value = seen.record.get(node.column)
        if value not in node.shares.values and secrets.hold_text(value, [node.column]):
            found.append(node.column)
    for shot in seen.shots:
        if shot.path and secrets.hold_text(shot.path, private):
            found.append(PATH_COLUMN)
        if secrets.hold_image(shot):
            found.append("image")
    if found:
        raise ValueError(
            f"the privacy check failed: real values were found in {', '.join(found)} of a drawn "
            "row, so nothing was written; give another seed, and report this"
        )


def _write_papers(folder: Path, profile: Profile, closeness: Closeness) -> None:
    text = json.dumps(closeness.to_json(), indent=2, ensure_ascii=False)
    (folder / "likeness.json").write_text(text + "\n", encoding="utf-8")
    (folder / "likeness.md").write_text(closeness.to_markdown(), encoding="utf-8")
    save_profile(profile, folder / "profile.json")
    splits = [name for name, size in profile.splits.items() if size]
    files = ", ".join(f"{{split: {name}, path: data/{name}-*}}" for name in splits)
    card = _CARD.format(files=files, rows=closeness.rows)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _file_name(split: str) -> str:
    return f"{split}-00000-of-00001.parquet"


_SAME_NAMES = ("bool", "string", "large_string", "int8", "int16", "int32", "int64", "uint8")
_DTYPES = {
    **{name: name for name in _SAME_NAMES},
    **{"float": "float32", "double": "float64", "halffloat": "float16"},
}
"""Arrow's names of types -> those of the `datasets` library."""

_CARD = """---
configs:
- config_name: default
  data_files: [{files}]
---

# Drawn data

{rows} drawn rows that resemble a real dataset and hold nothing of it. `likeness.md` says how close
they are; `profile.json` is all that was taken from the real dataset. Images are drawn, codes and
rare words are made up, links point to example.com.
"""
