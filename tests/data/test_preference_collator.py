"""Pairs of a right and a rejected answer as a batch."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from phi_vision.data.collator import CompletionCollator
from phi_vision.data.preference_collator import check_pairs, collate_pairs, tokenize_rejected
from phi_vision.data.samples import Message, Sample
from phi_vision.data.template import PRODUCT, TEMPLATES
from phi_vision.model.checkpoint import load_processor
from phi_vision.model.processing_phi3_v import Phi3VProcessor

WRONG = "Product: A Cape, Category: HATS, Full Price: 90.0"


def draw(width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(encoded, "PNG")
    return encoded.getvalue()


def sample(name: str, *images: bytes, rejected: str = WRONG) -> Sample:
    record = {"title": f"Coat {name}", "category3_code": "COATS", "full_price": 390.0}
    return Sample(id=name, group=name, images=images, record=record, rejected=rejected)


def conversation(*turns: tuple[str, str], rejected: str) -> Sample:
    messages = tuple(Message(*turn) for turn in turns)
    return Sample(
        id="c", group="c", images=(draw(40, 40),), record={}, messages=messages, rejected=rejected
    )


@pytest.fixture(scope="session")
def processor(tiny_checkpoint: Path) -> Phi3VProcessor:
    return load_processor(str(tiny_checkpoint))


@pytest.fixture
def collator(processor: Phi3VProcessor) -> CompletionCollator:
    return CompletionCollator(processor=processor, template=PRODUCT)


@pytest.fixture
def samples() -> list[Sample]:
    return [sample("a", draw(60, 40)), sample("b"), sample("c", draw(40, 60), draw(50, 50))]


def words(collator: CompletionCollator, ids: torch.Tensor) -> str:
    return str(collator.processor.tokenizer.decode(ids))


def test_the_first_half_are_the_rows_of_supervised_training(collator, samples):
    pairs, rows = collate_pairs(collator, samples), collator(samples)
    for place in range(3):
        length = int(rows["attention_mask"][place].sum())
        assert (
            pairs["input_ids"][place, :length].tolist()
            == rows["input_ids"][place, :length].tolist()
        )
        learnt = rows["labels"][place, :length] != -100
        assert pairs["completion_mask"][place, :length].bool().tolist() == learnt.tolist()
        assert pairs["attention_mask"][place].sum() == length


def test_both_rows_of_a_pair_have_the_prompt_of_inference(collator, samples):
    pairs = collate_pairs(collator, samples)
    for place, each in enumerate(samples):
        asked = collator.processor(
            text=PRODUCT.prompt(collator.processor, len(each.images)),
            images=each.open_images() or None,
        )["input_ids"][0]
        for row in (place, place + 3):
            start = int(pairs["completion_mask"][row].argmax())
            assert pairs["input_ids"][row, :start].tolist() == list(asked)


def test_the_second_half_ends_with_the_rejected_answers(collator, samples):
    pairs = collate_pairs(collator, samples)
    for row in (3, 4, 5):
        said = pairs["input_ids"][row][pairs["completion_mask"][row].bool()]
        assert words(collator, said) == f"{WRONG}<|end|>"


def test_image_tokens_stand_at_the_same_places_on_both_sides(collator, samples):
    ids = collate_pairs(collator, samples)["input_ids"]
    right, wrong = (ids == collator.processor.image_token_id).chunk(2)
    assert right.sum(dim=1).tolist()[1] == 0
    assert right.any()
    assert torch.equal(right, wrong)


def test_an_image_is_in_the_batch_once(collator, samples):
    pairs, rows = collate_pairs(collator, samples), collator(samples)
    assert torch.equal(pairs["shared_pixel_values"], rows["pixel_values"])
    assert torch.equal(pairs["shared_image_sizes"], rows["image_sizes"])
    assert "shared_pixel_values" not in collate_pairs(collator, [sample("b")])


def test_each_row_carries_its_name(collator, samples):
    assert collate_pairs(collator, samples)["sample_ids"] == ["a", "b", "c", "a", "b", "c"]


def test_another_layout_keeps_its_prompt(processor):
    collator = CompletionCollator(processor=processor, template=TEMPLATES["walkthrough"])
    pairs = collate_pairs(collator, [sample("a", draw(60, 40))])
    start = int(pairs["completion_mask"][0].argmax())
    assert torch.equal(pairs["input_ids"][0, :start], pairs["input_ids"][1, :start])


def test_of_a_conversation_only_the_last_answer_is_compared(collator):
    turns = [("user", "What?"), ("assistant", "A hat."), ("user", "Sure?"), ("assistant", "Yes.")]
    pairs = collate_pairs(collator, [conversation(*turns, rejected="No.")])
    said = [
        words(collator, ids[mask.bool()])
        for ids, mask in zip(pairs["input_ids"], pairs["completion_mask"], strict=True)
    ]
    assert said == ["Yes.<|end|>", "No.<|end|>"]


@pytest.mark.parametrize(
    ("rejected", "message"),
    [
        ("", "there is none; `phi-vision pairs"),
        ("Product: Coat a, Category: COATS, Full Price: 390.0", "it is the right one"),
        ("A hat.<|end|><|user|>", r"holds the control token <\|end\|>; take it out"),
    ],
)
def test_values_that_are_no_rejected_answer_are_rejected(collator, rejected, message):
    with pytest.raises(ValueError, match=f"sample 'a' cannot be compared.*{message}"):
        tokenize_rejected(collator, sample("a", rejected=rejected))


def test_samples_without_pairs_are_counted(collator):
    samples = [sample("a"), sample("b", rejected=""), sample("c", rejected="")]
    with pytest.raises(
        ValueError, match=r"2 of 3 samples have no rejected completion.*'b'.*objective"
    ):
        check_pairs(collator, samples, [9, 9, 9], split_at=4096)


def test_the_longer_row_of_each_pair_counts(collator):
    samples = [sample("a"), sample("b", rejected=f"{WRONG} and so on and on")]
    lengths = [sum(collator.count_tokens(each)) for each in samples]
    pairs = collate_pairs(collator, samples)["attention_mask"].sum(dim=1)
    longer = torch.maximum(*pairs.chunk(2)).tolist()
    assert check_pairs(collator, samples, lengths, split_at=4096) == longer
    assert longer[1] > lengths[1]


def test_a_rejected_answer_that_is_too_long_is_rejected(collator):
    long = sample("a", rejected=f"{WRONG} and so on and on and on and on and on")
    length = sum(collator.count_tokens(long))
    with pytest.raises(ValueError, match=r"'a' has .* with its rejected completion, more than max"):
        check_pairs(replace(collator, max_length=length), [long], [length], split_at=4096)
    with pytest.raises(ValueError, match=f"both sides of the original context of {length}"):
        check_pairs(collator, [long], [length], split_at=length)
