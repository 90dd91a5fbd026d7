"""Rejected answers in files: our own column, and the form of TRL's data sets."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi_vision.data.dataset import load_samples
from phi_vision.data.samples import Message, Sample

IMAGE = {"bytes": b"jpeg", "path": None}
ASKED = [{"role": "user", "content": "What is it?"}]
RIGHT = [{"role": "assistant", "content": "A hat."}]
WRONG = [{"role": "assistant", "content": "A bag."}]


def load(folder: Path, **row: object) -> Sample:
    file = folder / "one.parquet"
    pq.write_table(pa.Table.from_pylist([row]), file)
    return load_samples(file)[0]


def test_a_rejected_answer_is_no_field_of_the_record(tmp_path):
    sample = load(tmp_path, image=IMAGE, title="Hat", rejected="Product: Bag")
    assert sample.rejected == "Product: Bag"
    assert sample.record == {"title": "Hat"}
    assert load(tmp_path, image=IMAGE, title="Hat").rejected == ""
    assert load(tmp_path, image=IMAGE, title="Hat", rejected=None).rejected == ""


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is it?", "chosen": "A hat.", "rejected": "A bag."},
        {"prompt": ASKED, "chosen": RIGHT, "rejected": WRONG},
        {"chosen": ASKED + RIGHT, "rejected": ASKED + WRONG},
    ],
)
def test_preferences_of_trl_become_a_conversation(tmp_path, row):
    sample = load(tmp_path, images=[IMAGE], id="a", **row)
    assert sample.messages == (Message("user", "What is it?"), Message("assistant", "A hat."))
    assert sample.rejected == "A bag."
    assert sample.images == (b"jpeg",)
    assert sample.record == {"id": "a", "completion": "A hat."}


def test_images_among_the_words_are_marked(tmp_path):
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]
    asked = [{"role": "user", "content": parts}]
    sample = load(tmp_path, image=IMAGE, prompt=asked, chosen="A hat.", rejected="A bag.")
    assert sample.messages[0].content == "<image>\nWhat is it?"


def test_answers_to_different_prompts_are_rejected(tmp_path):
    other = [{"role": "user", "content": "What else?"}]
    with pytest.raises(
        ValueError, match=r"'0' in .*not two completions of one prompt.*the last turn"
    ):
        load(tmp_path, image=IMAGE, chosen=ASKED + RIGHT, rejected=other + WRONG)
    with pytest.raises(ValueError, match="not two completions of one prompt"):
        load(tmp_path, image=IMAGE, chosen=ASKED, rejected=ASKED)


def test_values_that_are_neither_text_nor_turns_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="its preference holds 7; write a text"):
        load(tmp_path, image=IMAGE, prompt="What?", chosen=7, rejected=8)
