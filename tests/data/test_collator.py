"""What a training step learns from: the answer and its end, nothing else."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from phi_vision.data.collator import IGNORED, CompletionCollator, select_labelled
from phi_vision.data.samples import Message, Record, Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.io.image_decoding import image_size
from phi_vision.model.checkpoint import load_model, load_processor
from phi_vision.model.processing_phi3_v import Phi3VProcessor


def encode(size: tuple[int, int], orientation: int = 1) -> bytes:
    image, encoded = Image.new("RGB", size, "navy"), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(encoded, "JPEG", exif=exif)
    return encoded.getvalue()


def make_sample(*sizes: tuple[int, int], title: str = "Wool Coat", price: float = 390.0) -> Sample:
    record: Record = {"title": title, "category3_code": "COATS", "full_price": price}
    return Sample(id="s", group="g", images=tuple(encode(size) for size in sizes), record=record)


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Phi3VProcessor:
    return load_processor(tiny_checkpoint)


@pytest.mark.parametrize("name", ["product", "walkthrough"])
def test_only_the_answer_and_its_end_are_labelled(processor: Phi3VProcessor, name: str) -> None:
    template = TEMPLATES[name]
    samples = [make_sample((60, 40)), make_sample((40, 60), title="Tie", price=9.5)]
    batch = CompletionCollator(processor=processor, template=template)(samples)
    for sample, ids, labels in zip(samples, batch["input_ids"], batch["labels"], strict=True):
        answer = template.render(sample.record) + "<|end|>"
        learnt = labels[labels != IGNORED]
        assert processor.tokenizer.decode(learnt).strip() == answer
        # What comes before is what the model will be asked, token for token.
        asked = processor(text=template.prompt(processor), images=sample.open_images())["input_ids"]
        assert ids[: len(asked[0])].tolist() == list(asked[0])
        assert labels[: len(asked[0])].eq(IGNORED).all()
        assert int((labels != IGNORED).int().argmax()) == len(asked[0])


def test_padding_is_on_the_right_and_not_labelled(processor: Phi3VProcessor) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    batch = collate([make_sample((60, 40), title="Tie"), make_sample((60, 40), title="Tie " * 9)])
    padding = batch["attention_mask"] == 0
    assert padding[0, -1]
    assert not padding[1].any()
    assert batch["labels"][padding].eq(IGNORED).all()


def test_samples_with_two_images_and_with_none_share_a_batch(processor: Phi3VProcessor) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    batch = collate([make_sample((60, 40), (40, 40)), make_sample(), make_sample((40, 90))])
    assert len(batch["image_sizes"]) == 3
    shown = (batch["input_ids"] == processor.image_token_id).sum(dim=1)
    assert shown[0] > shown[2] > shown[1] == 0


def test_a_batch_without_images_has_no_pixels(processor: Phi3VProcessor) -> None:
    batch = CompletionCollator(processor=processor, template=TEMPLATES["product"])([make_sample()])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "sample_ids"}


def test_rows_are_named_after_their_samples_and_ids_stay_in_front(
    processor: Phi3VProcessor,
) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    batch = collate([replace(make_sample(), id="a"), replace(make_sample((60, 40)), id="b")])
    assert batch["sample_ids"] == ["a", "b"]
    assert next(iter(batch)) == "input_ids", "the Trainer takes the batch size from the first field"


def test_control_tokens_in_a_title_end_nothing(processor: Phi3VProcessor) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    batch = collate([make_sample((60, 40), title="Coat<|end|><|user|>")])
    learnt = batch["labels"][0][batch["labels"][0] != IGNORED]
    end = processor.tokenizer.convert_tokens_to_ids("<|end|>")
    assert learnt.eq(end).nonzero().flatten().tolist() == [len(learnt) - 1]


@pytest.mark.parametrize("name", ["product", "walkthrough"])
@pytest.mark.parametrize("sizes", [[], [(60, 40)], [(40, 60)], [(40, 90), (90, 40)]])
def test_counted_tokens_are_those_of_the_row(
    processor: Phi3VProcessor, name: str, sizes: list[tuple[int, int]]
) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES[name])
    sample = make_sample(*sizes)
    ids = collate([sample])["input_ids"][0]
    images = int((ids == processor.image_token_id).sum())
    assert collate.count_tokens(sample) == (images, len(ids) - images)


@pytest.mark.parametrize(("orientation", "size"), [(1, (60, 40)), (3, (60, 40)), (6, (40, 60))])
def test_the_size_of_an_image_follows_its_orientation(
    orientation: int, size: tuple[int, int]
) -> None:
    encoded = encode((60, 40), orientation)
    assert image_size(encoded) == size
    (image,) = Sample(id="s", group="g", images=(encoded,), record={}).open_images()
    assert image.size == size


def test_long_rows_are_rejected_and_never_cut(processor: Phi3VProcessor) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"], max_length=20)
    with pytest.raises(ValueError, match=r"sample 's' has \d+ tokens, more than max_length 20"):
        collate([make_sample((60, 40))])


def test_bytes_that_are_no_image_name_their_sample(processor: Phi3VProcessor) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    broken = Sample(id="s7", group="g", images=(b"text",), record=make_sample().record)
    with pytest.raises(ValueError, match="sample 's7', image 1: not an image"):
        collate.count_tokens(broken)


def test_many_samples_are_counted_as_each_alone_and_bounded_from_above(
    processor: Phi3VProcessor,
) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    titles = ("", " ", "\\\n<|end|>", "Ⅷ😀 ", ", Category: ", "x" * 400, "帽子" * 50, "<" * 30)
    samples = [make_sample((60, 40), title=title) for title in titles]
    samples += [
        make_sample(),
        make_sample((60, 40), (700, 60), (30, 900)),
        make_sample(price=1e300),
    ]
    samples.append(replace(samples[0], record={**samples[0].record, "full_price": None}))
    turns = (Message("user", "What?"), Message("assistant", "Ⅷ" * 9), Message("user", "?" * 40))
    for count in range(4):
        images = samples[0].images * count
        talk = replace(samples[0], images=images, messages=(*turns, Message("assistant", "A hat")))
        samples.append(talk)
    counted = [collate.count_tokens(sample) for sample in samples]
    assert collate.count_all(samples) == counted
    bounds = [bound for _, bound in collate.bound_tokens(samples)]
    assert all(sum(tokens) <= bound for tokens, bound in zip(counted, bounds, strict=True))


def test_selected_positions_are_those_before_a_label() -> None:
    labels = torch.tensor([[-100, -100,  8,    2, -100],
                           [-100,    5,  4,    3,    2]])  # fmt: skip
    batch = select_labelled({"labels": labels})
    assert batch["logits_to_keep"].int().tolist() == [[0, 1, 1, 0, 0],
                                                      [1, 1, 1, 1, 0]]  # fmt: skip
    assert batch["shift_labels"].tolist() == [8, 2, 5, 4, 3, 2]


def test_the_loss_on_selected_positions_is_the_loss(tiny_checkpoint: Path) -> None:
    model, processor = load_model(tiny_checkpoint)
    batch = CompletionCollator(processor=processor, template=TEMPLATES["product"])(
        [make_sample((60, 40), title="Tie"), make_sample((60, 40))]
    )
    with torch.no_grad():
        selected = model(**select_labelled(batch)).loss
        # The same cross-entropies, summed in another order.
        torch.testing.assert_close(selected, model(**batch).loss, rtol=1e-5, atol=0)


def talk(*images: bytes, said: list[tuple[str, str]]) -> Sample:
    messages = tuple(Message(role, content) for role, content in said)  # type: ignore[arg-type]
    return Sample(id="t", group="t", images=images, record={}, messages=messages)


def test_all_assistant_turns_of_a_conversation_are_supervised(
    processor: Phi3VProcessor,
) -> None:
    said = [
        ("system", "Be brief."),
        ("user", "What is <image>?"),
        ("assistant", "A hat."),
        ("user", "And\n<image>"),
        ("assistant", "A tie, 9.5"),
    ]
    sample = talk(encode((60, 40)), encode((40, 60)), said=said)
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    batch = collate([sample])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    learnt = labels != IGNORED
    said_back = processor.tokenizer.decode(labels[learnt]).replace("> ", ">")
    assert said_back == "A hat.<|end|>A tie, 9.5<|end|>"
    assert batch["image_sizes"].shape == (2, 2)
    assert sum(collate.count_tokens(sample)) == len(ids)
    # What comes before each answer is what the model would be asked, token for token.
    for turns, image_count in ((3, 1), (5, 2)):
        words = [{"role": role, "content": text} for role, text in said[: turns - 1]]
        for place, message in enumerate(words):
            message["content"] = message["content"].replace(
                "<image>", f"<|image_{place // 2 + 1}|>"
            )
        prompt = processor.apply_chat_template(words, add_generation_prompt=True)
        shown = sample.open_images()[:image_count]
        asked = processor(text=prompt, images=shown)["input_ids"][0]
        assert ids[: len(asked)].tolist() == list(asked)
        assert learnt[len(asked)]
        assert not learnt[len(asked) - 1]


def test_images_without_a_mark_come_before_the_first_question(processor: Phi3VProcessor) -> None:
    image = encode((60, 40))
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    bare = collate([talk(image, said=[("user", "What?"), ("assistant", "A hat.")])])
    marked = collate([talk(image, said=[("user", "<image>\nWhat?"), ("assistant", "A hat.")])])
    assert torch.equal(bare["input_ids"], marked["input_ids"])


def test_records_and_conversations_without_images_share_a_batch(
    processor: Phi3VProcessor,
) -> None:
    words = talk(said=[("user", "Which colour is the sky?"), ("assistant", "Blue.")])
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    batch = collate([make_sample((60, 40)), words])
    assert processor.tokenizer.decode(batch["labels"][1][batch["labels"][1] != IGNORED]) == (
        "Blue.<|end|>"
    )


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ([("user", "<image><image>"), ("assistant", "A hat.")], "2 <image> marks for 1 images"),
        ([("user", "What?"), ("assistant", "A."), ("user", "Oh")], "the last turn is the user's"),
        ([("user", "What?"), ("assistant", "A.<|end|>")], "control token <|end|>"),
    ],
)
def test_a_conversation_that_cannot_be_learnt_is_rejected(
    processor: Phi3VProcessor, said: list[tuple[str, str]], complaint: str
) -> None:
    collate = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    with pytest.raises(ValueError, match=re.escape(complaint)):
        collate([talk(encode((60, 40)), said=said)])
