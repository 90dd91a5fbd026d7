"""Hub datasets, loaded by the `datasets` library with images left encoded."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from phi_vision.prepare.sources.columnar import BATCH, label_names, read_batches
from phi_vision.prepare.sources.rows import (
    Row,
    Source,
    UnreadableRow,
    canonical_split,
    located,
    read_notes,
    select_notes,
    split_rank,
)

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
"""`owner/name`, optionally with a configuration after a colon."""


def open_hub(
    name: str, *, split: str | None = None, revision: str | None = None, streaming: bool = False
) -> Source:
    """Open a dataset through `datasets`.

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
            repository, configuration or None, revision=revision, streaming=streaming
        )
    # The library, its builders and the network fail in their own ways.
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(". ")
        raise ValueError(
            f"cannot load {name!r} through `datasets`: {type(error).__name__}: {reason}; "
            "check the id and the network, or download it and give its folder"
        ) from error
    splits = {str(part): loaded[part] for part in sorted(loaded, key=split_rank)}
    chosen = {n: each for n, each in splits.items() if split in (None, n, canonical_split(n))}
    if not chosen:
        raise ValueError(f"no split {split!r} in {name}; it has {', '.join(splits)}")
    info = next(iter(chosen.values())).info
    stated = {"license": info.license, "description": info.description, "homepage": info.homepage}
    folder = Path(name) if Path(name).is_dir() else None
    return Source(
        name=name,
        kind="hub",
        rows=partial(_read, name, chosen, _own_files(name)),
        folder=folder,
        detected={
            "splits": ", ".join(chosen),
            **({"revision": revision} if revision else {}),
            **({"streaming": "yes"} if streaming else {}),
        },
        notes={
            **(read_notes(folder) if folder else {}),
            **select_notes({**stated, "citation": info.citation}),
        },
    )


def _read(
    name: str, splits: Mapping[str, Any], own: tuple[str, ...]
) -> Iterator[Row | UnreadableRow]:
    number = 0
    for split, loaded in splits.items():
        names = label_names(loaded.features.to_dict() if loaded.features else None)
        # In Arrow's format nothing is decoded, so broken images do not end the reading.
        batches = loaded.with_format("arrow").iter(batch_size=BATCH)
        for place, found in read_batches(batches, names):
            if isinstance(found, Mapping):
                found = {column: _with_bytes(cell, own) for column, cell in found.items()}
            yield located(number, f"{name} {split}{place}", found, canonical_split(split))
            number += 1


def _own_files(name: str) -> tuple[str, ...]:
    """List where `datasets` keeps the files of this dataset; no other path is opened."""
    import datasets

    if Path(name).exists():
        return (str(Path(name).resolve()),)
    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME)
    return (f"hf://datasets/{name.partition(':')[0]}@", *(str(Path(c).resolve()) for c in caches))


def _with_bytes(cell: object, own: tuple[str, ...]) -> object:
    """Read an image of which `datasets` keeps only the path.

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
