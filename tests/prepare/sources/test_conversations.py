"""Conversations in the spellings of LLaVA, ShareGPT and chat APIs."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow

ASKED = {"role": "user", "content": "<image>\nWhat is it?"}
ANSWERED = {"role": "assistant", "content": "A coat."}
TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A coat."}]


def planted(folder: Path, rows: list[object], name: str = "chats.json") -> Source:
    lines = name.endswith(".jsonl")
    text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=2)
    (folder / name).write_text(text)
    return open_source(str(folder / name))


def values(source: Source) -> list[dict[str, object]]:
    return [dict(row.values) for row in source.rows() if isinstance(row, Row)]


@pytest.mark.parametrize("name", ["chats.json", "chats.jsonl"])
def test_llava_is_found_out_and_made_messages(tmp_path: Path, name: str) -> None:
    row = {"id": "7", "image": "coco/7.jpg", "conversations": TURNS}
    source = planted(tmp_path, [row, row], name)
    assert (source.kind, source.folder) == ("llava", tmp_path)
    assert values(source)[0] == {
        "id": "7",
        "images": ["coco/7.jpg"],
        "messages": [ASKED, ANSWERED],
    }


@pytest.mark.parametrize(
    ("turns", "first"),
    [
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], "user"),
        ([{"from": "user", "value": "Hi"}, {"from": "model", "value": "Ho"}], "user"),
        ([{"from": "system", "value": "Hi"}, {"from": "GPT", "value": "Ho"}], "system"),
    ],
)
def test_speakers_are_spelt_in_many_ways(tmp_path: Path, turns: object, first: str) -> None:
    (found,) = values(planted(tmp_path, [{"conversations": turns}]))
    assert found == {
        "images": [],
        "messages": [{"role": first, "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
    }


def test_several_images_and_turns_without_any(tmp_path: Path) -> None:
    several = [{"from": "human", "value": "<image> or <image>?"}, TURNS[1]]
    rows: list[object] = [
        {"image": ["a.jpg", "b.jpg"], "conversations": several},
        {"images": ["a.jpg"], "conversations": TURNS},
        {"image": "", "conversations": [{"from": "human", "value": "Hello"}]},
    ]
    source = planted(tmp_path, rows)
    assert [row["images"] for row in values(source)] == [["a.jpg", "b.jpg"], ["a.jpg"], []]


def test_pieces_of_chat_apis_become_text_and_images(tmp_path: Path) -> None:
    pieces = [
        {"type": "image_url", "image_url": {"url": "https://x.example/a.jpg"}},
        {"type": "text", "text": "What is it?"},
    ]
    row = {"messages": [{"role": "user", "content": pieces}, ANSWERED]}
    assert values(planted(tmp_path, [row])) == [
        {"images": ["https://x.example/a.jpg"], "messages": [ASKED, ANSWERED]}
    ]


def test_the_system_text_beside_the_turns_comes_first(tmp_path: Path) -> None:
    (found,) = values(planted(tmp_path, [{"system": "Be brief.", "conversations": TURNS}]))
    assert found["messages"] == [{"role": "system", "content": "Be brief."}, ASKED, ANSWERED]


def test_faults_of_turns_break_their_row_only(tmp_path: Path) -> None:
    rows: list[object] = [
        {"conversations": TURNS},
        {"conversations": [{"from": "ghost", "value": "Boo"}]},
        {"conversations": [{"from": "human"}]},
        {"conversations": []},
        {"conversations": ["Hello"]},
        {"conversations": TURNS},
    ]
    source = planted(tmp_path, rows)
    assert [
        (row.number, row.reason) for row in source.rows() if isinstance(row, UnreadableRow)
    ] == [
        (1, "a turn of an unknown role, 'ghost'"),
        (2, "a turn without text"),
        (3, "holds no turns"),
        (4, "a turn is not an object"),
    ]
    assert len(values(source)) == 2


def test_turns_in_parquet_are_made_messages_too(tmp_path: Path) -> None:
    row = {"image": {"bytes": b"x", "path": None}, "conversations": TURNS}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "p.parquet")
    source = open_source(str(tmp_path / "p.parquet"))
    assert source.kind == "parquet"
    assert source.detected["conversations"] == "conversations"
    assert values(source) == [
        {"images": [{"bytes": b"x", "path": None}], "messages": [ASKED, ANSWERED]}
    ]


def test_what_holds_no_turns_cannot_be_read_as_llava(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('[{"sku": "A"}]')
    with pytest.raises(ValueError, match=r"holds no conversations: its first row has sku"):
        open_source(str(tmp_path / "p.json"), kind="llava")
