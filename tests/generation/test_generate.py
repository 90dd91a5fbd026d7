"""Generation: batching changes no text, order is kept, the model keeps its mode."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE, TWO, Inputs

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.generation.generate import generate, left_pad
from phi_vision.generation.growing_batch import GrowingBatch
from phi_vision.generation.request import GenerationRequest

Asked = tuple[str, list[Image.Image]]
NEW = 12
SHORT = GenerationRequest(prompt=NONE, max_new_tokens=1)


def said(model: Phi3VForCausalLM, processor: Phi3VProcessor, asked: list[Asked]) -> list[str]:
    requests = [
        GenerationRequest(prompt=prompt, images=tuple(shown), max_new_tokens=NEW)
        for prompt, shown in asked
    ]
    return [each.text for each in generate(model, processor, requests, batch_size=3)]


@pytest.fixture
def asked(images: list[Image.Image]) -> list[Asked]:
    """Prompts with one, two and no images; neither sorted by length nor of one kind."""
    a, b, c = images
    return [(TWO, [b, c]), (NONE, []), (ONE, [a]), (ONE, [c]), (TWO, [c, b])]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the prompts of each generated batch."""
    seen: list[list[int]] = []
    make = GrowingBatch.__init__

    def note(self: GrowingBatch, model: object, rows: Sequence[Inputs], new_tokens: int) -> None:
        seen.append([row["input_ids"].shape[1] for row in rows])
        make(self, model, rows, new_tokens)

    monkeypatch.setattr(GrowingBatch, "__init__", note)
    return seen


def test_batched_texts_equal_single_texts_in_the_order_given(
    model: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    asked: list[Asked],
    batches: list[list[int]],
) -> None:
    together = said(model, processor, asked)
    assert [len(lengths) for lengths in batches] == [3, 2]
    assert together == [said(model, processor, [one])[0] for one in asked]
    assert len(set(together)) == len(asked), "the toy model says the same to everyone"


def test_texts_contain_neither_control_tokens_nor_the_prompt(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    (text,) = said(model, processor, [(ONE, images[:1])])
    assert text == text.strip()
    assert "<|" not in text
    assert "What is it?" not in text


def test_no_requests_give_no_generations(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    assert generate(model, processor, []) == []


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, training: bool
) -> None:
    model.train(training)
    generate(model, processor, [SHORT])
    assert model.training is training


def test_training_continues_after_generation(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, rows: list[Inputs]
) -> None:
    generate(model, processor, [SHORT])
    model(**rows[0], labels=rows[0]["input_ids"]).loss.backward()
    assert model.lm_head.weight.grad is not None


def test_left_padding_keeps_the_ends_of_rows_aligned() -> None:
    crops = torch.ones(3, 3, 56, 56)
    rows = [
        {"input_ids": torch.tensor([[1, 5]])},
        {
            "input_ids": torch.tensor([[1, 6, 7]]),
            "pixel_values": crops,
            "image_sizes": torch.tensor([[56, 112]]),
        },
    ]
    batch = left_pad(rows, pad_token_id=9)
    assert batch["input_ids"].tolist() == [[9, 1, 5], [1, 6, 7]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert torch.equal(batch["pixel_values"], crops)
    assert batch["image_sizes"].tolist() == [[56, 112]]


def test_rows_without_images_make_a_batch_without_images() -> None:
    batch = left_pad([{"input_ids": torch.tensor([[1, 5]])}], pad_token_id=9)
    assert sorted(batch) == ["attention_mask", "input_ids"]


# The border of the original context, 96 positions in `short_context`.


def prompt_of(length: int, processor: Phi3VProcessor) -> str:
    """Build a prompt of exactly `length` tokens."""
    frame = "<|user|>\n{}<|end|>\n<|assistant|>\n"
    rest = len(processor(text=frame.format("?"))["input_ids"][0]) - 1
    return frame.format("?" * (length - rest))


def test_no_batch_straddles_the_context_border_during_generation(
    short_context: Phi3VForCausalLM, processor: Phi3VProcessor, batches: list[list[int]]
) -> None:
    """Alone, each row crosses the border at its own new token; its batch has to as well."""
    lengths = [97, 40, 96, 88, 84, 100, 88, 95]
    asked: list[Asked] = [(prompt_of(length, processor), []) for length in lengths]
    requests = [GenerationRequest(prompt=prompt, max_new_tokens=NEW) for prompt, _ in asked]
    texts = [each.text for each in generate(short_context, processor, requests)]
    #                  never crosses, four cross underway,      beyond from the start
    assert batches == [[40, 84], [88, 88], [95], [96], [97, 100]]
    assert texts == [said(short_context, processor, [one])[0] for one in asked]


def test_the_step_of_a_prompt_ends_once_all_rows_are_cancelled(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    asked = [0, 0]

    def requests(least: int) -> list[GenerationRequest]:
        def is_cancelled(row: int) -> bool:
            asked[row] += 1
            return row >= least and asked[row] > 1  # Within the first step.

        checks = [partial(is_cancelled, row) for row in range(2)]
        return [
            GenerationRequest(prompt="<|user|>\nHi<|end|>\n", max_new_tokens=2, is_cancelled=check)
            for check in checks
        ]

    kept = generate(model, processor, requests(1))
    assert [len(generation.logprobs) for generation in kept] == [2, 2]
    asked[:] = [0, 0]
    cancelled = generate(model, processor, requests(0))
    assert [generation[:4] for generation in cancelled] == [("", (), (), "cancelled")] * 2
    assert asked[0] < 9
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_rows_that_continue_do_not_wait_for_the_long_prompt_of_a_cancelled_one(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, batches: list[list[int]]
) -> None:
    asked = 0

    def is_cancelled() -> bool:
        nonlocal asked
        asked += 1
        return True

    heard: list[str] = []
    long, short = (
        GenerationRequest(prompt=prompt_of(length, processor), max_new_tokens=NEW)
        for length in (90, 40)
    )
    cancelled = replace(long, is_cancelled=is_cancelled)
    listened = replace(short, on_token=lambda chunk: heard.append(chunk) or True)
    gone, kept = generate(model, processor, [cancelled, listened])
    assert (batches, asked) == ([[40, 90]], 1)
    assert gone[:4] == ("", (), (), "cancelled")
    (alone,) = generate(model, processor, [short])
    assert (kept.text, kept.token_ends) == (alone.text, alone.token_ends)
    assert "".join(heard) == alone.text
