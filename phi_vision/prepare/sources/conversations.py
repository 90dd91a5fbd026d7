"""Conversations about images, in the spellings of LLaVA, ShareGPT and chat APIs, made one.

`<image>` stays in the text where it was: which image it means is said by its count.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from phi_vision.prepare.sources.parts import Fault, broken
from phi_vision.prepare.sources.row import Broken, Row, Source

TURN_COLUMNS = ("conversations", "messages", "conversation")
IMAGE_COLUMNS = ("images", "image")
IMAGE_MARK = "<image>"

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
}
"""Who speaks, as data sets spell it -> as messages have it."""

_LOOK_AT = 20  # rows, until one can be read


def with_conversations(source: Source) -> Source:
    """Make the rows of a source messages, where its first readable row holds turns.

    Any kind of source can hold them: JSON as LLaVA has it, Parquet, tar shards, a hub id.
    """
    first = [row for row in islice(source.rows(), _LOOK_AT) if isinstance(row, Row)]
    column = turn_column(first[0].values) if first else None
    if column is None:
        return source
    return replace(
        source,
        rows=partial(_conversations, source.rows, column),
        detected={**source.detected, "conversations": column},
    )


def turn_column(values: Mapping[str, object]) -> str | None:
    """Find the column that holds turns: a list of objects that say who speaks and what."""
    for column in TURN_COLUMNS:
        turns = values.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            spoken = {"value", "content"} & set(turns[0])
            if spoken and {"from", "role"} & set(turns[0]):
                return column
    return None


def read_conversation(values: Mapping[str, object], column: str) -> dict[str, object] | Fault:
    """Bring one row into one spelling; its other columns stay.

    Input:  {"id": "7", "image": "a.jpg", "conversations": [
                {"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A"}]}
    Output: {"id": "7", "images": ["a.jpg"], "messages": [
                {"role": "user", "content": "<image>\\nWhat is it?"},
                {"role": "assistant", "content": "A"}]}
    """
    turns = values.get(column)
    if not isinstance(turns, list) or not turns:
        return Fault(reason="holds no turns", raw=str(values))
    images = [image for name in IMAGE_COLUMNS for image in _listed(values.get(name))]
    messages: list[dict[str, str]] = []
    dropped = {column, *IMAGE_COLUMNS}
    if isinstance(values.get("system"), str):  # ShareGPT keeps it beside the turns
        dropped.add("system")
        messages += [{"role": "system", "content": str(values["system"])}] * bool(values["system"])
    for turn in turns:
        message = _message(turn, images)
        if isinstance(message, Fault):
            return message
        messages.append(message)
    others = {name: value for name, value in values.items() if name not in dropped}
    return {**others, "images": images, "messages": messages}


def _conversations(
    rows: Callable[[], Iterator[Row | Broken]], column: str
) -> Iterator[Row | Broken]:
    for row in rows():
        if isinstance(row, Broken):
            yield row
            continue
        values = read_conversation(row.values, column)
        if isinstance(values, Fault):
            yield broken(row.number, row.origin, values)
        else:
            yield replace(row, values=values)


def _listed(images: object) -> list[object]:
    if isinstance(images, list):
        return [image for image in images if image]
    return [images] if images else []


def _message(turn: object, images: list[object]) -> dict[str, str] | Fault:
    """Read one turn; images that stand inside it are added to the others."""
    if not isinstance(turn, dict):
        return Fault(reason="a turn is not an object", raw=str(turn))
    role = turn.get("from") or turn.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        return Fault(reason=f"a turn of an unknown speaker, {role!r}", raw=str(turn))
    content = turn.get("value", turn.get("content"))
    if isinstance(content, list):
        content = "\n".join(_piece(piece, images) for piece in content)
    if not isinstance(content, str):
        return Fault(reason="a turn without text", raw=str(turn))
    return {"role": ROLES[role.lower()], "content": content}


def _piece(piece: object, images: list[object]) -> str:
    """One piece of a turn as chat APIs write it: text, or an image that stands here."""
    if not isinstance(piece, dict):
        return str(piece)
    if isinstance(piece.get("text"), str):
        return str(piece["text"])
    image = piece.get("image_url") or piece.get("image")
    if isinstance(image, dict) and "url" in image:
        image = image["url"]
    if image is not None:
        images.append(image)
    return IMAGE_MARK
