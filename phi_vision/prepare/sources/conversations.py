"""Conversations about images: the formats of LLaVA, ShareGPT and chat APIs, normalised to one.

`<image>` stays in the text where it was; the n-th mark stands for the n-th image.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from phi_vision.data.samples import IMAGE_MARK
from phi_vision.prepare.sources.files import VOCABULARY, failure
from phi_vision.prepare.sources.rows import AnyRow, Row, Source, UnreadableRow, storable

TURN_COLUMNS = ("conversations", "messages", "conversation")
IMAGE_COLUMNS = ("images", "image")
ROLES: dict[str, str] = VOCABULARY["roles"]  # role in the source -> role of a message


def with_conversations(source: Source) -> Source:
    """Convert the rows of a source of any kind to messages if its first row holds turns."""
    first = next((row for row in islice(source.rows(), 20) if isinstance(row, Row)), None)
    column = turn_column(first.values) if first else None
    if column:
        detected = {**source.detected, "conversations": column}
        return replace(source, rows=partial(_read, source.rows, column), detected=detected)
    if first and source.kind == "llava":
        raise failure("no_conversations", name=source.name, columns=", ".join(first.values))
    return source


def turn_column(values: Mapping[str, object]) -> str | None:
    """Find the column with turns: a list of objects with a role and a text."""
    for column in TURN_COLUMNS:
        turns = values.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            keys = set(turns[0])
            if keys & {"value", "content"} and keys & {"from", "role"}:
                return column
    return None


def _read(rows: Callable[[], Iterator[AnyRow]], column: str) -> Iterator[AnyRow]:
    for row in rows():
        if isinstance(row, Row):
            try:
                row = replace(row, values=_normalise(row.values, column))
            except ValueError as error:
                raw = storable(str(row.values))
                row = UnreadableRow(str(error), raw, row.number, row.origin)
        yield row


def _normalise(values: Mapping[str, object], column: str) -> dict[str, object]:
    """Normalise one row; its other columns stay.

    Input:  {"id": "7", "image": "a.jpg", "conversations": [{"from": "gpt", "value": "A"}, …]}
    Output: {"id": "7", "images": ["a.jpg"], "messages": [{"role": "assistant", "content": "A"}, …]}
    """
    turns = values.get(column)
    if not isinstance(turns, list) or not turns:
        raise ValueError("holds no turns")
    cells = [values.get(name) for name in IMAGE_COLUMNS]
    listed = [cell if isinstance(cell, list) else [cell] for cell in cells]
    images = [image for each in listed for image in each if image]
    dropped = {column, *IMAGE_COLUMNS}
    messages = []
    if isinstance(system := values.get("system"), str):  # ShareGPT keeps it beside the turns
        dropped.add("system")
        messages = [{"role": "system", "content": system}] if system else []
    messages += [_read_turn(turn, images) for turn in turns]
    others = {name: value for name, value in values.items() if name not in dropped}
    return {**others, "images": images, "messages": messages}


def _read_turn(turn: object, images: list[object]) -> dict[str, str]:
    """Read one turn; images inside it are appended to `images`."""
    if not isinstance(turn, dict):
        raise ValueError("a turn is not an object")
    role = turn.get("from") or turn.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise ValueError(f"a turn of an unknown role, {role!r}")
    content = turn.get("value", turn.get("content"))
    if isinstance(content, list):  # the parts of a chat API
        content = "\n".join(_read_part(part, images) for part in content)
    if not isinstance(content, str):
        raise ValueError("a turn without text")
    return {"role": ROLES[role.lower()], "content": content}


def _read_part(part: object, images: list[object]) -> str:
    if not isinstance(part, dict):
        return str(part)
    if isinstance(part.get("text"), str):
        return str(part["text"])
    image = part.get("image_url") or part.get("image")
    image = image["url"] if isinstance(image, dict) and "url" in image else image
    images += [image] if image is not None else []
    return IMAGE_MARK
