"""Sources that are tables in files: CSV, JSON, JSON Lines, LLaVA, Parquet, Arrow.

Each opener takes one file or a folder of them, whose names may say the splits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from phi_vision.prepare.sources.columnar import read_arrow, read_parquet
from phi_vision.prepare.sources.conversations import turn_column
from phi_vision.prepare.sources.dataset_notes import INFO_FILE, read_json_object, read_notes
from phi_vision.prepare.sources.delimited import Form, detect_form, read_table
from phi_vision.prepare.sources.encoding import Encoding, detect_encoding
from phi_vision.prepare.sources.json_files import holds_lines, json_rows, read_json, read_json_lines
from phi_vision.prepare.sources.parts import (
    Fault,
    Found,
    Part,
    Reader,
    choose_parts,
    ending_of,
    find_parts,
    house_split,
    number_rows,
    storable,
)
from phi_vision.prepare.sources.row import Row, Source

CSV_ENDINGS = (".csv", ".tsv", ".tab", ".txt")
JSON_ENDINGS = (".json",)
JSON_LINES_ENDINGS = (".jsonl", ".ndjson")
PARQUET_ENDINGS = (".parquet", ".pq")
ARROW_ENDINGS = (".arrow", ".feather")
DATASET_DICT = "dataset_dict.json"
STATE = "state.json"


def open_csv(name: str, *, split: str | None = None) -> Source:
    """Open a table of text: any separator and encoding that can be found out; text stays text.

    Input:  "products.csv" with "sku;price" and "A;1.299,50" in cp1252
    Output: Source(kind="csv", rows=… Row(values={"sku": "A", "price": "1.299,50"}),
                   detected={"encoding": "cp1252", "separator": ";", "decimal comma in": "price"})

    Raises:
        ValueError: There is no such file or split, or it is empty, or its encoding or header
            cannot be made out.
    """
    # In a folder, a .txt file is a licence or a list of something rather than a table.
    endings = CSV_ENDINGS if Path(name).is_file() else CSV_ENDINGS[:-1]
    parts = find_parts(Path(name), endings, split)
    forms = {part.file: detect_form(part.file) for part in parts}
    if not any(form.names for form in forms.values()):
        raise ValueError(f"{name} is empty: found no header and no row; give a file with both")
    detected = [form.described() for form in forms.values() if form.names]
    return _source(name, "csv", parts, partial(_read_csv, forms), _joined(detected))


def open_json(name: str, *, split: str | None = None) -> Source:
    """Open JSON: a list of objects, an object with such a list inside, or objects in a row.

    Raises:
        ValueError: There is no such file or split, or it is no JSON.
    """
    parts = find_parts(Path(name), JSON_ENDINGS, split)
    encodings = {part.file: detect_encoding(part.file) for part in parts}
    places = [_rows_place(file, encoding.name) for file, encoding in encodings.items()]
    detected = [
        {**encoding.described(), "rows": place}
        for encoding, place in zip(encodings.values(), places, strict=True)
    ]
    return _source(name, "json", parts, partial(_read_json, encodings), _joined(detected))


def open_json_lines(name: str, *, split: str | None = None) -> Source:
    """Open JSON Lines: one object a line.

    Raises:
        ValueError: There is no such file or split.
    """
    # By hand any ending can be asked for; of a folder, only those that are meant.
    endings = (*JSON_LINES_ENDINGS, *JSON_ENDINGS) if Path(name).is_file() else JSON_LINES_ENDINGS
    parts = find_parts(Path(name), endings, split)
    encodings = {part.file: detect_encoding(part.file) for part in parts}
    detected = _joined([encoding.described() for encoding in encodings.values()])
    return _source(name, "jsonl", parts, partial(_read_json_lines, encodings), detected)


def open_llava(name: str, *, split: str | None = None) -> Source:
    """Open conversations in JSON or JSON Lines, as LLaVA and ShareGPT write them.

    `open_source` makes their turns messages, as it does for every source that has turns.

    Raises:
        ValueError: There is no such file or split, or its first rows hold no turns.
    """
    endings = (*JSON_ENDINGS, *JSON_LINES_ENDINGS)
    file = find_parts(Path(name), endings, None)[0].file
    lines = ending_of(file) in JSON_LINES_ENDINGS or holds_lines(file, detect_encoding(file).name)
    source = open_json_lines(name, split=split) if lines else open_json(name, split=split)
    first = [row for row in islice(source.rows(), 20) if isinstance(row, Row)]
    if first and turn_column(first[0].values) is None:
        raise ValueError(
            f"{name} holds no conversations: its first row has {', '.join(first[0].values)}, and "
            "no list of turns such as 'conversations'; read it as json or jsonl"
        )
    return replace(source, kind="llava")


def open_parquet(name: str, *, split: str | None = None) -> Source:
    """Open a Parquet file or a folder of them, `data/<split>-*.parquet` or deeper.

    Raises:
        ValueError: There is no such file or split, or the only file is no Parquet.
    """
    parts = find_parts(Path(name), PARQUET_ENDINGS, split)
    _check_readable(parts, read_parquet, "Parquet")
    return _source(name, "parquet", parts, read_parquet, {"files": str(len(parts))})


def open_arrow(name: str, *, split: str | None = None) -> Source:
    """Open an Arrow file, or a folder that `datasets` saved: one dataset, or a DatasetDict.

    Raises:
        ValueError: There is no such file or split, or the only file is no Arrow.
    """
    path = Path(name)
    if (path / DATASET_DICT).is_file():
        splits = _names(read_json_object(path / DATASET_DICT).get("splits"))
        found = [part for each in splits for part in _saved_parts(path / each, each)]
        parts = choose_parts(found, split, name)
    elif (path / STATE).is_file():
        parts = choose_parts(_saved_parts(path, None), split, name)
    else:
        parts = find_parts(path, ARROW_ENDINGS, split)
    _check_readable(parts, read_arrow, "Arrow")
    first = parts[0].file.parent
    notes = read_notes(first) if (first / INFO_FILE).is_file() else {}
    return _source(name, "arrow", parts, read_arrow, {"files": str(len(parts))}, notes)


def _source(
    name: str,
    kind: str,
    parts: Sequence[Part],
    read: Reader,
    detected: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
) -> Source:
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    splits = list(dict.fromkeys(part.split for part in parts if part.split))
    return Source(
        name=name,
        kind=kind,
        rows=partial(number_rows, parts, read, folder),
        folder=folder,
        detected={**detected, **({"splits": ", ".join(splits)} if splits else {})},
        # The README beside a single file in a folder of downloads may be that of anything.
        notes={**(notes or {}), **(read_notes(path) if path.is_dir() else {})},
    )


def _joined(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Facts of several files as one: equal ones once, different ones with commas."""
    names = dict.fromkeys(name for each in facts for name in each)
    return {
        name: ", ".join(dict.fromkeys(each[name] for each in facts if name in each))
        for name in names
    }


def _read_csv(forms: Mapping[Path, Form], file: Path) -> Iterator[Found]:
    return read_table(file, forms[file])


def _read_json(encodings: Mapping[Path, Encoding], file: Path) -> Iterator[Found]:
    return read_json(file, encodings[file].name)


def _read_json_lines(encodings: Mapping[Path, Encoding], file: Path) -> Iterator[Found]:
    return read_json_lines(file, encodings[file].name)


def _rows_place(file: Path, encoding: str) -> str:
    """Say where in a JSON file its rows are; an object that cannot be parsed has none."""
    rows, place = json_rows(file, encoding)
    first = list(islice(rows, 2))
    if len(first) == 1 and isinstance(first[0], Fault):
        raise ValueError(
            f"cannot read {file} as JSON: found {first[0].reason}, "
            f"{storable(first[0].raw[:80])!r}; mend or export it again"
        )
    return place


def _check_readable(parts: Sequence[Part], read: Reader, kind: str) -> None:
    """Refuse a single file that is not what it should be; among several it is one fault."""
    _, found = next(read(parts[0].file), ("", None))
    if len(parts) == 1 and isinstance(found, Fault) and found.reason.endswith(f"as {kind}"):
        raise ValueError(
            f"cannot read {parts[0].file} as {kind}: {found.raw}; fetch or write the file again"
        )


def _saved_parts(folder: Path, split: str | None) -> list[Part]:
    """The files of one saved dataset, in the order in which it names them."""
    state = read_json_object(folder / STATE)
    listed = state.get("_data_files")
    files = listed if isinstance(listed, list) else []
    # Only names: a saved dataset has its files beside it.
    names = [Path(str(file["filename"])).name for file in files if isinstance(file, dict)]
    said = split or (str(state["_split"]) if state.get("_split") else None)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ValueError(
            f"the dataset in {folder} is incomplete: {STATE} names {len(names)} files, of which "
            f"{', '.join(missing) or 'none'} could not be found; save it again"
        )
    return [Part(file=folder / name, split=said and house_split(said)) for name in names]


def _names(listed: object) -> list[str]:
    return [str(name) for name in listed] if isinstance(listed, list) else []
