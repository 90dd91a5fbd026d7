"""Sources that the `datasets` library loads: an id on the hub, or a folder in its layout.

Images stay encoded, and class labels become their names.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from phi_vision.prepare.sources.columnar import label_names, read_batches
from phi_vision.prepare.sources.dataset_notes import given_notes, read_notes
from phi_vision.prepare.sources.parts import Fault, broken, house_split, split_rank
from phi_vision.prepare.sources.row import Broken, Row, Source

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
"""`owner/name`, and the configuration after a colon where it has several."""

_BATCH = 64


def open_hub(
    name: str, *, split: str | None = None, revision: str | None = None, streaming: bool = False
) -> Source:
    """Open a data set through `datasets`.

    Input:  "owner/photos", or "owner/photos:small" for its configuration `small`
    Output: Source(kind="hub", rows=… Row(origin="owner/photos train row 1",
                   values={"image": {"bytes": b"…", "path": "7.jpg"}}, split="train"))

    Args:
        name: The id, or a folder.
        split: One of its splits; None for all.
        revision: A branch, tag or commit of it.
        streaming: Read it over the network row by row, without keeping it.

    Raises:
        ValueError: It cannot be loaded: no network, no such id, split or configuration.
    """
    import datasets  # takes a second to import, and only this kind needs it

    repository, _, configuration = (name, "", "") if Path(name).exists() else name.partition(":")
    try:
        loaded = datasets.load_dataset(
            repository,
            configuration or None,
            revision=revision,
            streaming=streaming,
        )
    # The library, its builders and the network fail in their own ways, and none is our fault.
    except Exception as error:
        raise ValueError(
            f"cannot load {name!r} through `datasets`: {type(error).__name__}: {_short(error)}; "
            "check the id and the network, or download it and give its folder"
        ) from error
    splits = {str(part): loaded[part] for part in sorted(loaded, key=lambda part: split_rank(part))}
    chosen = _choose(splits, split, name)
    info = next(iter(chosen.values())).info
    told = {"license": info.license, "description": info.description, "homepage": info.homepage}
    notes = read_notes(Path(name)) if Path(name).is_dir() else {}
    return Source(
        name=name,
        kind="hub",
        rows=partial(_read, name, chosen, _own_files(name)),
        folder=Path(name) if Path(name).is_dir() else None,
        detected={
            "splits": ", ".join(chosen),
            **({"revision": revision} if revision else {}),
            **({"streaming": "yes"} if streaming else {}),
        },
        notes={**notes, **given_notes({**told, "citation": info.citation})},
    )


def _choose(splits: Mapping[str, Any], split: str | None, name: str) -> dict[str, Any]:
    if split is None:
        return dict(splits)
    wanted = [part for part in splits if split in (part, house_split(part))]
    if not wanted:
        raise ValueError(f"no split {split!r} in {name}; it has {', '.join(splits)}")
    return {part: splits[part] for part in wanted}


def _read(name: str, splits: Mapping[str, Any], own: tuple[str, ...]) -> Iterator[Row | Broken]:
    number = 0
    for split, loaded in splits.items():
        names = label_names(loaded.features.to_dict() if loaded.features else None)
        # In Arrow's format nothing is decoded, so broken images do not end the reading.
        batches = loaded.with_format("arrow").iter(batch_size=_BATCH)
        for place, found in read_batches(batches, names):
            origin = f"{name} {split}{place}"
            if isinstance(found, Fault):
                yield broken(number, origin, found)
            else:
                values = {column: _with_bytes(cell, own) for column, cell in found.items()}
                yield Row(number=number, origin=origin, values=values, split=house_split(split))
            number += 1


def _own_files(name: str) -> tuple[str, ...]:
    """Where `datasets` keeps this data set's files; a path to any other place is not opened."""
    import datasets

    if Path(name).exists():
        return (str(Path(name).resolve()),)
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME)
    return (f"hf://datasets/{name.partition(':')[0]}@", *(str(Path(c).resolve()) for c in caches))


def _with_bytes(cell: object, own: tuple[str, ...]) -> object:
    """Read an image that `datasets` only keeps the path of.

    Input:  {"bytes": None, "path": "/home/me/.cache/huggingface/…/7.jpg"}
    Output: {"bytes": b"…", "path": "7.jpg"}
    """
    if isinstance(cell, list):
        return [_with_bytes(each, own) for each in cell]
    if not isinstance(cell, dict) or set(cell) != {"bytes", "path"} or cell["bytes"] is not None:
        return cell
    path = str(cell["path"] or "")
    if not _is_own(path, own):
        return cell
    from datasets.utils.file_utils import xopen  # reads hf:// and members of archives too

    with xopen(path, "rb") as stream:
        return {"bytes": stream.read(), "path": path.rpartition("/")[2]}


def _is_own(path: str, own: tuple[str, ...]) -> bool:
    address = path.rpartition("::")[2]  # zip://7.jpg::hf://datasets/owner/name@main/photos.zip
    if address.startswith("hf://"):
        return address.startswith(own[0]) if own[0].startswith("hf://") else False
    resolved = Path(address).resolve()
    return any(resolved.is_relative_to(folder) for folder in own if not folder.startswith("hf://"))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(". ")
