"""Packing: which samples share a row, and what such a row looks like."""

import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from phi_vision.data.collator import IGNORED, CompletionCollator, select_labelled
from phi_vision.data.packing import (
    check_context_sides,
    collate_packs,
    original_context,
    pack_samples,
)
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import load_config, load_processor


def make_samples(names: Sequence[str], count: int = 0) -> list[Sample]:
    encoded = io.BytesIO()
    Image.new("RGB", (60, 40), "navy").save(encoded, "PNG")
    images = (encoded.getvalue(),) * count
    record = {"category3_code": "TIES", "full_price": 9.5}
    return [Sample(id=n, group=n, images=images, record={"title": n, **record}) for n in names]


def pack(lengths: dict[str, int], pack_length: int, split_at: int = 4096) -> list[str]:
    packs = pack_samples(
        make_samples(list(lengths)), list(lengths.values()), pack_length, split_at=split_at
    )
    return ["".join(sample.id for sample in row) for row in packs]


@pytest.fixture(scope="module")
def collator(tiny_checkpoint: Path) -> CompletionCollator:
    return CompletionCollator(
        processor=load_processor(tiny_checkpoint), template=TEMPLATES["product"]
    )


def test_samples_are_joined_to_full_rows() -> None:
    assert pack({"a": 50, "b": 30, "c": 70, "d": 20}, 100) == ["ad", "bc"]
    # The longest first, each into the fullest row that holds it: 7+3, 6+4, 5+2+2.
    lengths = {"a": 2, "b": 5, "c": 4, "d": 7, "e": 3, "f": 6, "g": 2}
    assert pack(lengths, 10) == ["abg", "cf", "de"]


def test_a_sample_as_long_as_a_row_is_a_row() -> None:
    assert pack({"a": 100, "b": 1}, 100) == ["a", "b"]


def test_without_samples_there_are_no_rows() -> None:
    assert pack({}, 100) == []


def test_packing_loses_nothing_leaves_little_and_is_repeatable() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(40, 900) for _ in range(2000)]
    samples = make_samples([str(number) for number in range(2000)])
    packs = pack_samples(samples, lengths, 1024, split_at=4096)
    assert sorted(int(s.id) for row in packs for s in row) == list(range(2000))
    tokens = [sum(lengths[int(sample.id)] for sample in row) for row in packs]
    assert max(tokens) <= 1024
    # Samples of more than half a row can leave room that no other sample fills.
    assert sum(tokens) / (1024 * len(packs)) > 0.95
    assert [*pack_samples(samples, lengths, 1024, split_at=4096)] == [*packs]


def test_neighbours_of_one_length_are_parted() -> None:
    samples = make_samples([str(number) for number in range(100)])
    packs = pack_samples(samples, [10] * 100, 40, split_at=4096)
    assert len(packs) == 25
    whole = sum(int(row[3].id) - int(row[0].id) == 3 for row in packs)
    assert whole == 0, "four neighbours of the catalog in one row"


def test_sides_of_the_original_context_share_no_row() -> None:
    lengths = {"a": 60, "b": 20, "c": 70, "d": 10}
    assert pack(lengths, 100, split_at=4096) == ["a", "bcd"]
    assert pack(lengths, 100, split_at=64) == ["abd", "c"]
    assert pack({"a": 65, "b": 20, "c": 64}, 100, split_at=64) == ["a", "bc"]


def test_samples_longer_than_a_row_are_named() -> None:
    with pytest.raises(
        ValueError, match="2 of 3 samples are longer than pack_length 100"
    ) as caught:
        pack({"a": 101, "b": 20, "c": 140}, 100)
    assert "'c' 140, 'a' 101 tokens; raise pack_length to 140 or leave them" in str(caught.value)


def test_of_many_samples_that_are_too_long_the_longest_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"'7' 107, '6' 106, '5' 105, '4' 104, '3' 103 tokens, \.\.\."
    ):
        pack({str(number): 100 + number for number in range(1, 8)}, 100)


def test_a_packed_row_is_its_samples_one_after_another(collator: CompletionCollator) -> None:
    a, b, c = make_samples(["Tie", "Silk Tie", "Tie with dots and stripes"])
    apart = collator([a, b, c])
    lengths = apart["attention_mask"].sum(dim=1).tolist()
    alone = [row[:length].tolist() for row, length in zip(apart["input_ids"], lengths, strict=True)]
    learnt = [row[:length].tolist() for row, length in zip(apart["labels"], lengths, strict=True)]
    batch = collate_packs(collator, [(a, b), (c,)])
    assert list(batch) == ["input_ids", "position_ids", "labels", "use_cache", "sample_ids"]
    assert batch["sample_ids"] == ["Tie, Silk Tie", "Tie with dots and stripes"]
    room = lengths[0] + lengths[1] - lengths[2]
    padding = collator.processor.tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [alone[0] + alone[1], alone[2] + [padding] * room]
    assert batch["labels"].tolist() == [learnt[0] + learnt[1], learnt[2] + [IGNORED] * room]
    positions = [list(range(length)) for length in lengths]
    expected = [positions[0] + positions[1], positions[2] + [0] * room]
    assert batch["position_ids"].tolist() == expected


def test_images_keep_the_order_of_the_rows(collator: CompletionCollator) -> None:
    one, two, none = (*make_samples(["one"], 1), *make_samples(["two"], 2), *make_samples(["no"]))
    batch = collate_packs(collator, [(one, none), (two,)])
    apart = collator([one, none, two])
    assert torch.equal(batch["pixel_values"], apart["pixel_values"])
    assert torch.equal(batch["image_sizes"], apart["image_sizes"])
    is_image = batch["input_ids"] == collator.processor.image_token_id
    assert is_image.sum(dim=1).tolist() == [13, 26]


def test_no_label_crosses_the_border_between_samples(collator: CompletionCollator) -> None:
    samples = make_samples(["Tie", "Silk Tie"], 1)
    packed, apart = (
        select_labelled(batch) for batch in (collate_packs(collator, [samples]), collator(samples))
    )
    assert torch.equal(packed["shift_labels"], apart["shift_labels"])
    first_of_second = packed["position_ids"][0].eq(0).nonzero().flatten()[1]
    assert not packed["logits_to_keep"][0, first_of_second - 1]


def test_the_original_context_is_where_the_rotation_changes(tiny_checkpoint: Path) -> None:
    config = load_config(tiny_checkpoint)
    assert original_context(config) == 4096
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    assert original_context(config) == 131072, "one set of factors, so no border"


@pytest.mark.parametrize(
    ("lengths", "most_rows"),
    [([10, 20], 8), ([5000, 6000], 8), ([10, 5000], 1), ([4096, 10], 2), ([], 8)],
)
def test_one_side_or_one_row_passes(lengths: list[int], most_rows: int) -> None:
    samples = make_samples([str(length) for length in lengths])
    check_context_sides(samples, lengths, most_rows=most_rows, split_at=4096)


def test_both_sides_in_batches_of_several_rows_are_rejected() -> None:
    samples = make_samples(["short", "long", "longer"])
    with pytest.raises(ValueError, match="2 of 3 samples have more than 4096 tokens") as caught:
        check_context_sides(samples, [10, 4097, 5000], most_rows=2, split_at=4096)
    assert "('longer' 5000, 'long' 4097 tokens)" in str(caught.value)
    assert "use per_device_train_batch_size 1 and gradient_accumulation" in str(caught.value)
