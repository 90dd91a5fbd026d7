"""Conversations about images, in the many forms of trainers and chat APIs, normalised to one.

A row holds a list of turns (LLaVA, chat APIs), a list of exchanges (`user` and `assistant`), or is
one (alpaca, `prompt` and `completion`). Image tags become marks, the n-th for the n-th image.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from phi_vision.data.samples import IMAGE_MARK
from phi_vision.prepare.sources.files import VOCABULARY, failure
from phi_vision.prepare.sources.rows import AnyRow, Row, Source, UnreadableRow, storable

TURN_COLUMNS = ("conversations", "messages", "conversation")
IMAGE_COLUMNS = ("images", "image")
ROLES: dict[str, str] = VOCABULARY["roles"]  # role in the source -> role of a message
EXCHANGES: list[list[str]] = VOCABULARY["exchanges"]  # names of a prompt and its completion
REFUSED: dict[str, str] = VOCABULARY["refused_forms"]  # columns -> what to do with them
TAGS = re.compile(VOCABULARY["image_tags"])
UNKNOWN_TAG = re.compile(r"(?i)<[^<>\s]{0,20}(?:image|img)[^<>\s]{0,20}>")
UNSUPERVISED: dict[str, object] = VOCABULARY["unsupervised"]  # key of a turn -> its value


def with_conversations(source: Source, mapped: Collection[str] = ()) -> Source:
    """Convert rows to messages if the first is a conversation; a `mapped` exchange is none."""
    first = next((row for row in islice(source.rows(), 20) if isinstance(row, Row)), None)
    if first is None:
        return source
    column, exchange = turn_column(first.values), _exchange_of(first.values)
    _check_form(source.name, first.values, column)
    if column or (exchange and not {*exchange} & {*mapped}):
        rows, found = partial(_read, source.rows, column or ""), column or ", ".join(exchange)
        return replace(source, rows=rows, detected={**source.detected, "conversations": found})
    if source.kind == "llava":
        raise failure("no_conversations", name=source.name, columns=", ".join(first.values))
    return source


def turn_column(values: Mapping[str, object]) -> str | None:
    """Find the column with turns or exchanges: a list of objects, also as JSON."""
    found = {name: _turns(values.get(name))[:1] for name in TURN_COLUMNS}
    return next((n for n, turns in found.items() if turns and isinstance(turns[0], dict)), None)


def _turns(cell: object) -> list[Any]:
    """Return a cell's list, also from JSON; [] where it holds none."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return []
    return cell if isinstance(cell, list) else []


def _exchange_of(values: Mapping[str, object]) -> list[str]:
    """Find the names of a prompt and its completion; [] without."""
    given = {name for name, cell in values.items() if isinstance(cell, str | list)}
    return next((pair for pair in EXCHANGES if given.issuperset(pair)), [])


def _check_form(name: str, values: Mapping[str, object], column: str | None) -> None:
    for columns, advice in REFUSED.items():
        if values.keys() >= {*columns.split()}:
            raise failure("refused_form", name=name, columns=", ".join(columns.split()), to=advice)
    turn = _turns(values[column])[0] if column else None
    keys = {*turn} if turn else set[str]()
    has_role = keys & {"from", "role"} and keys & {"value", "content"}
    if turn and not has_role and not _exchange_of(turn):
        forms = ", ".join(" and ".join(pair) for pair in EXCHANGES)
        found = ", ".join(map(str, turn))
        raise failure("unknown_turns", name=name, column=column, found=found, forms=forms)


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
    cells = [values.get(name) for name in IMAGE_COLUMNS]
    images = [image for cell in cells for image in _listed(cell) if image]
    dropped, messages = {column, *IMAGE_COLUMNS}, list[dict[str, str]]()
    if isinstance(system := values.get("system"), str):  # ShareGPT keeps it beside the turns
        dropped.add("system")
        messages = [{"role": "system", "content": system}] if system else []
    if not column:
        dropped |= {"history", "input", *_exchange_of(values)}
        messages += _read_exchange(values, images)
    elif turns := _turns(values.get(column)):
        messages += [message for turn in turns for message in _read_turn(turn, images)]
    else:
        raise ValueError("holds no turns")
    messages, images = _mark_images(messages, images)
    others = {name: value for name, value in values.items() if name not in dropped}
    return {**others, "images": images, "messages": messages}


def _listed(cell: object) -> list[Any]:
    """List the images of a cell: `"a.jpg"`, `["a.jpg"]`, MiniCPM's `{"<image_00>": "a.jpg"}`."""
    if isinstance(cell, dict) and cell and all(TAGS.fullmatch(str(key)) for key in cell):
        return list(cell.values())
    return cell if isinstance(cell, list) else [cell]


def _read_exchange(values: Mapping[str, Any], images: list[object]) -> list[dict[str, str]]:
    """Read a prompt and its completion, texts or lists of turns, after those of `history`.

    Input:  {"instruction": "Name it.", "input": "In French.", "output": "Un chapeau."}
    Output: user "Name it.\\nIn French.", assistant "Un chapeau."
    """
    exchange = _exchange_of(values)
    if not exchange:
        raise ValueError("holds no prompt and completion")
    prompt, completion = (values[name] for name in exchange)
    if isinstance(prompt, str) and isinstance(more := values.get("input"), str) and more:
        prompt = f"{prompt}\n{more}"
    earlier = values.get("history") or []
    if not all(isinstance(each, list) and len(each) == 2 for each in earlier):
        raise ValueError("a history that is no list of prompts and completions")
    messages: list[dict[str, str]] = []
    for pair in [*earlier, (prompt, completion)]:
        for role, said in zip(("user", "assistant"), pair, strict=True):
            turns = said if isinstance(said, list) else [{"role": role, "content": said}]
            messages += [message for turn in turns for message in _read_turn(turn, images)]
    return messages


def _mark_images(
    messages: list[dict[str, str]], images: list[object]
) -> tuple[list[dict[str, str]], list[object]]:
    """Replace image tags by marks, and order the images as the tags name them.

    Input:  "Is <|image_2|> like <|image_1|>?", ["a.jpg", "b.jpg"]; "<img>a.jpg</img> What?", []
    Output: "Is <image> like <image>?", ["b.jpg", "a.jpg"];         "<image> What?", ["a.jpg"]
    """
    found = [tag for message in messages for tag in TAGS.finditer(message["content"])]
    numbers = [int(tag["number"]) for tag in found if tag["number"]]
    if 0 in numbers:  # counted from 0
        numbers = [number + 1 for number in numbers]
    paths: list[object] = [tag["path"].strip() for tag in found if tag["path"]]
    if numbers != [*range(1, len(numbers) + 1)]:
        if not 1 <= min(numbers) <= max(numbers) <= len(images):
            raise ValueError(f"image tags name images that are missing: {numbers} of {len(images)}")
        rest = [image for place, image in enumerate(images, 1) if place not in numbers]
        images = [*(images[number - 1] for number in numbers), *rest]
    marked = [{**each, "content": TAGS.sub(IMAGE_MARK, each["content"])} for each in messages]
    left = [UNKNOWN_TAG.search(each["content"]) for each in marked] if images and not found else []
    if unknown := next(filter(None, left), None):
        raise ValueError(f"an unknown image tag, {unknown[0]}; write {IMAGE_MARK}")
    return marked, images or paths


def _read_turn(turn: object, images: list[object]) -> list[dict[str, str]]:
    """Read one turn, or an exchange; images inside it are appended to `images`."""
    if not isinstance(turn, dict):
        raise ValueError("a turn is not an object")
    if "role" not in turn and "from" not in turn and _exchange_of(turn):
        own = _listed(turn.get("images") or [])
        messages = _read_exchange(turn, images)
        if own and not TAGS.search(messages[0]["content"]):
            messages[0]["content"] = f"{IMAGE_MARK}\n" * len(own) + messages[0]["content"]
        images += own
        return messages
    role = turn.get("from") or turn.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise ValueError(f"a turn of an unknown role, {role!r}")
    content = turn.get("value", turn.get("content"))
    if isinstance(content, list):  # the parts of a chat API
        content = "\n".join(_read_part(part, images) for part in content)
    if not isinstance(content, str):
        raise ValueError("a turn without text")
    if ROLES[role.lower()] == "assistant" and not content.strip():
        raise ValueError("a completion without text")
    for name, value in UNSUPERVISED.items():
        if turn.get(name) == value:
            found = f"{name}: {turn[name]}"
            raise ValueError(f"a turn that is not to be trained on ({found}); take it out")
    return [{"role": ROLES[role.lower()], "content": content}]


def _read_part(part: object, images: list[object]) -> str:
    if not isinstance(part, dict):
        return str(part)
    if isinstance(part.get("text"), str):
        return str(part["text"])
    image = part.get("image_url") or part.get("image") or part.get("source")
    if isinstance(image, dict) and "data" in image:  # Anthropic's
        image = f"data:{image.get('media_type')};base64,{image['data']}"
    image = image["url"] if isinstance(image, dict) and "url" in image else image
    images += [image] if image is not None else []
    return IMAGE_MARK
