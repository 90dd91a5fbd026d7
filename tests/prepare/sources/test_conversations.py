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
def test_roles_have_many_spellings(tmp_path: Path, turns: object, first: str) -> None:
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


def test_rows_without_turns_are_no_llava_data(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('[{"sku": "A"}]')
    with pytest.raises(ValueError, match=r"holds no conversations: its first row has sku"):
        open_source(str(tmp_path / "p.json"), kind="llava")


@pytest.mark.parametrize(
    "row",
    [
        {"query": "What is it?", "response": "A coat.", "history": []},
        {"instruction": "What is it?", "input": "", "output": "A coat."},
        {"prompt": "What is it?", "completion": "A coat."},
        {
            "prompt": [{"role": "user", "content": "What is it?"}],
            "completion": [{"role": "assistant", "content": "A coat."}],
        },
        {"question": "What is it?", "answer": "A coat."},
        {"conversations": [{"user": "What is it?", "assistant": "A coat."}]},
        {"conversations": json.dumps(TURNS).replace("<image>\\n", "")},
    ],
)
def test_the_forms_of_other_trainers_are_read(tmp_path: Path, row: dict[str, object]) -> None:
    (found,) = values(planted(tmp_path, [{"images": ["a.jpg"], **row}], "chats.jsonl"))
    asked = {"role": "user", "content": "What is it?"}
    assert found == {"images": ["a.jpg"], "messages": [asked, ANSWERED]}


def test_an_exchange_follows_its_history_input_and_system(tmp_path: Path) -> None:
    row = {"instruction": "And?", "input": "In red.", "output": "No.", "system": "Be brief."}
    (found,) = values(planted(tmp_path, [{**row, "history": [["Coat?", "Yes."]]}]))
    assert [turn["content"] for turn in found["messages"]] == [
        *("Be brief.", "Coat?", "Yes.", "And?\nIn red.", "No.")
    ]


def test_images_of_an_exchange_are_placed_in_its_question(tmp_path: Path) -> None:
    turns = [
        {"images": ["a.jpg"], "user": "What?", "assistant": "A hat."},
        {"images": ["b.jpg"], "user": "And <|image_1|>?", "assistant": "A bag."},
    ]
    (found,) = values(planted(tmp_path, [{"conversations": turns}]))
    assert found["images"] == ["a.jpg", "b.jpg"]
    assert found["messages"][0]["content"] == "<image>\nWhat?"
    assert found["messages"][2]["content"] == "And <image>?"


@pytest.mark.parametrize(
    ("text", "images", "marked", "ordered"),
    [
        ("<|image_1|>\nWhat?", ["a"], "<image>\nWhat?", ["a"]),
        ("<|image_2|> or <|image_1|>?", ["a", "b"], "<image> or <image>?", ["b", "a"]),
        ("<image_1> <|image|>", ["a", "b"], "<image> <image>", ["a", "b"]),
        ("<|vision_start|><|image_pad|><|vision_end|>?", ["a"], "<image>?", ["a"]),
        ("<img>a.jpg</img> What?", [], "<image> What?", ["a.jpg"]),
        ("<im_start><image><im_end> What?", ["a"], "<image> What?", ["a"]),
        ("<img><IMG_CONTEXT><IMG_CONTEXT></img> What?", ["a"], "<image> What?", ["a"]),
        ("<start_of_image><image_soft_token><end_of_image>?", ["a"], "<image>?", ["a"]),
        ("<image-placeholder>\nWhat?", ["a"], "<image>\nWhat?", ["a"]),
        ("<image_00> or <image_01>?", ["a", "b"], "<image> or <image>?", ["a", "b"]),
    ],
)
def test_the_image_tags_of_models_are_the_places_of_images(
    tmp_path: Path, text: str, images: list[str], marked: str, ordered: list[str]
) -> None:
    row = {"images": images, "messages": [{"role": "user", "content": text}, ANSWERED]}
    (found,) = values(planted(tmp_path, [row]))
    assert (found["messages"][0]["content"], found["images"]) == (marked, ordered)


def test_images_may_be_named_by_their_tags(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<image_01> or <image_00>?"}, ANSWERED]
    row = {"image": {"<image_00>": "a.jpg", "<image_01>": "b.jpg"}, "conversations": turns}
    (found,) = values(planted(tmp_path, [row]))
    assert found["messages"][0]["content"] == "<image> or <image>?"
    assert found["images"] == ["b.jpg", "a.jpg"]


def test_an_image_in_anthropics_form_is_read(tmp_path: Path) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    asked = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]
    row = {"messages": [{"role": "user", "content": asked}, ANSWERED]}
    (found,) = values(planted(tmp_path, [row]))
    assert found["images"] == ["data:image/png;base64,QUJD"]
    assert found["messages"][0]["content"] == "<image>\nWhat?"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"content": " "}, "a completion without text"),
        ({"content": "Hat", "weight": 0}, "not to be trained on (weight: 0); take it out"),
        ({"content": "Hat", "loss": False}, "not to be trained on (loss: False); take it out"),
    ],
)
def test_a_completion_that_should_not_be_learnt_breaks_its_row(
    tmp_path: Path, answer: dict[str, object], reason: str
) -> None:
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", **answer}]
    (row,) = planted(tmp_path, [{"images": ["a.jpg"], "messages": turns}]).rows()
    assert isinstance(row, UnreadableRow)
    assert row.reason.endswith(reason)


def test_a_tag_that_no_model_is_known_for_breaks_its_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<my_image> What?"}, ANSWERED]
    (row,) = planted(tmp_path, [{"images": ["a.jpg"], "messages": turns}]).rows()
    assert isinstance(row, UnreadableRow)
    assert row.reason == "an unknown image tag, <my_image>; write <image>"


def test_a_tag_of_a_missing_image_breaks_its_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<|image_3|>"}, ANSWERED]
    source = planted(tmp_path, [{"images": ["a.jpg"], "messages": turns}])
    (row,) = source.rows()
    assert isinstance(row, UnreadableRow)
    assert row.reason == "image tags name images that are missing: [3] of 1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "`phi-vision train dpo` reads"),
        ({"prompt": "Q", "completion": "A", "label": True}, r"\(KTO\); keep the rows"),
        ({"contents": [{"role": "user", "parts": []}]}, "Gemini's contents and parts; write"),
        ({"messages": [{"speaker": "me", "text": "Hi"}]}, "'messages' has speaker, text; write"),
    ],
)
def test_a_form_that_is_not_read_is_named(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planted(tmp_path, [row])


def test_columns_that_the_user_maps_stay_columns(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "question": "Q", "answer": "A"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert values(open_source(str(tmp_path / "rows.jsonl"), mapped=["answer"])) == [row]
