"""Rows of one batch: each with its own grammar, dice, limit, stop words and on_token."""

import functools
import json

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.generation.sampling import Reader, Row

NEW = 24
PLAIN = GenerationRequest(prompt=NONE, max_new_tokens=NEW)


class Ear:
    """Notes what it hears, and stops listening after so many calls."""

    def __init__(self, calls: int = 10_000) -> None:
        self.pieces: list[str] = []
        self.calls = calls

    def __call__(self, piece: str) -> bool:
        self.pieces.append(piece)
        return len(self.pieces) < self.calls


def asked(ear: Ear | None = None, **settings: object) -> GenerationRequest:
    return GenerationRequest(**{"prompt": NONE, "max_new_tokens": NEW, "on_token": ear, **settings})  # type: ignore[arg-type]


def spell(text: str, processor: Phi3VProcessor, question: GenerationRequest) -> Row:
    """Write a text into a row token by token, until the row is over."""
    row = Row(question, Reader(processor.tokenizer), [], matcher=None, prompt_tokens=0, limit=1000)
    for token in processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
        if row.finish_reason is None:
            row.take(token, -0.5)
    return row


def test_rows_of_all_kinds_share_a_batch_and_are_as_if_asked_alone(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    questions = [
        PLAIN,
        asked(max_new_tokens=3),
        asked(temperature=1.0, seed=7),
        asked(grammar='start: "light green"'),
        GenerationRequest(prompt=ONE, images=(images[0],), max_new_tokens=NEW),
        asked(Ear(2)),
    ]
    together = generate(model, processor, questions)
    for question, said in zip(questions[:-1], together, strict=False):
        (alone,) = generate(model, processor, [question])
        assert (said.text, said.finish_reason, said.token_ends) == (
            alone.text,
            alone.finish_reason,
            alone.token_ends,
        )
    assert [said.finish_reason for said in together] == [
        *("length", "length", "length", "stop", "length", "cancelled")
    ]
    assert [len(said.token_ends) for said in together][:2] == [NEW, 3]
    assert len(together[-1].token_ends) == 2


def test_prompts_are_counted_with_their_image_tokens(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    question = GenerationRequest(prompt=ONE, images=(images[0],), max_new_tokens=1)
    (said,) = generate(model, processor, [question])
    ids = processor(text=ONE, images=[images[0]], return_tensors="pt")["input_ids"]
    assert said.prompt_tokens == ids.shape[1]


# Drawing.


def test_a_seed_draws_the_same_answer_again_and_another_seed_another(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    seeds = [1, 2, 1, None, None]
    questions = [asked(temperature=1.0, seed=seed) for seed in seeds]
    texts = [said.text for said in generate(model, processor, questions)]
    assert texts[0] == texts[2]
    assert len({texts[0], texts[1], texts[3], texts[4]}) == 4


@pytest.mark.parametrize("settings", [{"temperature": 1e-300}, {"temperature": 2.0, "top_p": 0.0}])
def test_cold_dice_and_a_narrow_choice_are_greedy(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, settings: dict[str, float]
) -> None:
    greedy, drawn = generate(model, processor, [PLAIN, asked(seed=1, **settings)])
    assert drawn.text == greedy.text


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    counts = torch.zeros(4)
    for seed in range(2000):
        question = asked(temperature=0.5, top_p=0.99, seed=seed)
        row = Row(question, None, [], matcher=None, prompt_tokens=0, limit=1)  # type: ignore[arg-type]
        counts[row.choose(scores)] += 1
    expected = (scores / 0.5).softmax(-1)  # 0.02, 0.12, 0.87, 0: the third and second reach 0.99
    expected[0] = 0
    assert counts / 2000 == pytest.approx(expected / expected.sum(), abs=0.03)


# Listening and stopping.


def test_pieces_joined_are_the_answer(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    """Random weights write torn characters and blanks, which is the hard case."""
    for seed in range(12):
        ear = Ear()
        (said,) = generate(model, processor, [asked(ear, temperature=1.5, seed=seed)])
        assert "".join(ear.pieces) == said.text
        assert len(ear.pieces) == NEW


@pytest.mark.parametrize("text", ["Müller 茶 🙂 tea", "a  b\n\nc ", "  12.50 ", "##x#"])
def test_every_letter_is_told_once_and_soon(processor: Phi3VProcessor, text: str) -> None:
    ear = Ear()
    row = spell(text + "!", processor, asked(ear))
    assert "".join(ear.pieces) == row.generation().text == (text + "!").strip()
    assert sum(bool(piece) for piece in ear.pieces) > 1


@pytest.mark.parametrize("stop", [(" Coat",), ("zzz", "Co"), ("o", "Coat"), ("l Coat, ",)])
def test_a_stop_word_ends_the_answer_and_is_never_told(
    processor: Phi3VProcessor, stop: tuple[str, ...]
) -> None:
    ear = Ear()
    row = spell("A Wool Coat, red", processor, asked(ear, stop=stop))
    said = row.generation()
    first = min(place for word in stop if (place := "A Wool Coat, red".find(word)) >= 0)
    assert said.text == "A Wool Coat, red"[:first].rstrip() == "".join(ear.pieces)
    assert said.finish_reason == "stop"
    assert max(said.token_ends) == len(said.text)


def test_the_beginning_of_a_stop_word_that_does_not_come_is_told(
    processor: Phi3VProcessor,
) -> None:
    ear = Ear()
    row = spell("A Wool Coat", processor, asked(ear, stop=("Coats",)))
    assert "Coat" not in "".join(ear.pieces)
    row.give_up()
    assert "".join(ear.pieces) == "A Wool Coat"


def test_when_nobody_listens_the_batch_ends(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    forward = Phi3VForCausalLM.forward

    @functools.wraps(forward)
    def count(self: Phi3VForCausalLM, *inputs: object, **named: object) -> object:
        steps.append(1)
        return forward(self, *inputs, **named)

    monkeypatch.setattr(Phi3VForCausalLM, "forward", count)
    answers = generate(model, processor, [asked(Ear(2)), asked(Ear(4))])
    assert [said.finish_reason for said in answers] == ["cancelled", "cancelled"]
    assert len(steps) == 4


def test_a_row_that_is_over_says_so_before_its_batch_is(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    order: list[str] = []
    questions = [
        asked(on_finish=lambda said: order.append(f"long, {len(said.token_ends)} tokens")),
        asked(max_new_tokens=2, on_finish=lambda said: order.append(said.finish_reason)),
        asked(Ear(3), on_finish=lambda said: order.append(said.finish_reason)),
    ]
    generate(model, processor, questions)
    assert order == ["length", "cancelled", f"long, {NEW} tokens"]


STRANGE = {
    "endless": {"$defs": {"n": {"anyOf": [{"$ref": "#/$defs/n"}]}}, "$ref": "#/$defs/n"},
    "wide": {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(3000)}},
}


@pytest.mark.parametrize("schema", STRANGE.values(), ids=STRANGE)
def test_a_grammar_that_asks_for_too_much_ends_its_own_row_alone(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, schema: dict[str, object]
) -> None:
    grammar = f"start: %json {json.dumps(schema)}"
    cut, other = generate(model, processor, [asked(grammar=grammar), PLAIN])
    assert cut.finish_reason == "length"
    assert len(cut.token_ends) < NEW
    assert other.text == generate(model, processor, [PLAIN])[0].text


def test_a_prompt_longer_than_the_model_reads_is_refused(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    model.config.max_position_embeddings = 10
    with pytest.raises(ValueError, match=r"tokens long, and the model reads at most 10"):
        generate(model, processor, [PLAIN])
