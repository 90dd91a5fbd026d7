"""Rows of one batch: each has its own grammar, seed, limit, stop words and callbacks."""

import functools
import json
import re
from collections import Counter

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.generation.sampling import RowState, TokenDecoder

NEW = 24
PLAIN = GenerationRequest(prompt=NONE, max_new_tokens=NEW)


class Listener:
    """Collects chunks, and cancels after so many calls."""

    def __init__(self, calls: int = 10_000) -> None:
        self.chunks: list[str] = []
        self.calls = calls

    def __call__(self, chunk: str) -> bool:
        self.chunks.append(chunk)
        return len(self.chunks) < self.calls


def asked(listener: Listener | None = None, **settings: object) -> GenerationRequest:
    return GenerationRequest(
        **{"prompt": NONE, "max_new_tokens": NEW, "on_token": listener, **settings}
    )  # type: ignore[arg-type]


def spell(text: str, processor: Phi3VProcessor, request: GenerationRequest) -> RowState:
    """Append a text to a row token by token, until the row ends."""
    row = RowState(
        request, TokenDecoder(processor.tokenizer), [], matcher=None, prompt_tokens=0, limit=1000
    )
    for token in processor.tokenizer(text, add_special_tokens=False)["input_ids"]:
        if row.finish_reason is None:
            row.append(token, -0.5)
    return row


def test_rows_of_all_kinds_share_a_batch_and_equal_single_rows(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    requests = [
        PLAIN,
        asked(max_new_tokens=3),
        asked(temperature=1.0, seed=7),
        asked(grammar='start: "light green"'),
        GenerationRequest(prompt=ONE, images=(images[0],), max_new_tokens=NEW),
        asked(Listener(2)),
    ]
    together = generate(model, processor, requests)
    for request, said in zip(requests[:-1], together, strict=False):
        (alone,) = generate(model, processor, [request])
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


def test_prompt_tokens_include_image_tokens(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    request = GenerationRequest(prompt=ONE, images=(images[0],), max_new_tokens=1)
    (said,) = generate(model, processor, [request])
    ids = processor(text=ONE, images=[images[0]], return_tensors="pt")["input_ids"]
    assert said.prompt_tokens == ids.shape[1]


# Sampling.


def test_a_seed_reproduces_its_text_and_other_seeds_differ(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    seeds = [1, 2, 1, None, None]
    requests = [asked(temperature=1.0, seed=seed) for seed in seeds]
    texts = [said.text for said in generate(model, processor, requests)]
    assert texts[0] == texts[2]
    assert len({texts[0], texts[1], texts[3], texts[4]}) == 4


@pytest.mark.parametrize("settings", [{"temperature": 1e-300}, {"temperature": 2.0, "top_p": 0.0}])
def test_low_temperature_and_zero_top_p_are_greedy(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, settings: dict[str, float]
) -> None:
    greedy, drawn = generate(model, processor, [PLAIN, asked(seed=1, **settings)])
    assert drawn.text == greedy.text


def test_tokens_are_sampled_by_their_probability() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    counts = torch.zeros(4)
    for seed in range(2000):
        request = asked(temperature=0.5, top_p=0.99, seed=seed)
        row = RowState(request, None, [], matcher=None, prompt_tokens=0, limit=1)  # type: ignore[arg-type]
        counts[row.sample(scores)] += 1
    expected = (scores / 0.5).softmax(-1)  # 0.02, 0.12, 0.87, 0: the third and second reach 0.99
    expected[0] = 0
    assert counts / 2000 == pytest.approx(expected / expected.sum(), abs=0.03)


def test_evenly_spaced_places_draw_each_text_as_often_as_it_is_likely(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, logits_V = {"a": 0.5, "b": 0.3, "c": 0.2}, torch.full((model.config.vocab_size,), -40.0)
    ids = processor.tokenizer.convert_tokens_to_ids(list(shares))
    logits_V[ids] = torch.tensor([*shares.values()]).log()
    monkeypatch.setattr(model.lm_head, "forward", lambda h: logits_V.expand(*h.shape[:-1], -1))
    places = [(number + 0.5) / 100 for number in range(100)]
    requests = [asked(max_new_tokens=2, temperature=1.0, place=place) for place in places]
    drawn = Counter(said.text for said in generate(model, processor, requests))
    expected = {one + two: 100 * shares[one] * shares[two] for one in shares for two in shares}
    assert drawn == {text: pytest.approx(count) for text, count in expected.items()}


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_place_never_draws_what_a_grammar_forbids(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, place: float
) -> None:
    request = asked(grammar="start: /[a-z]{3,6}/", temperature=1.0, place=place)
    (said,) = generate(model, processor, [request])
    assert re.fullmatch("[a-z]{3,6}", said.text)


# Streaming and stopping.


def test_joined_chunks_are_the_text(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    """Random weights generate partial characters and blanks, which is the hard case."""
    for seed in range(12):
        listener = Listener()
        (said,) = generate(model, processor, [asked(listener, temperature=1.5, seed=seed)])
        assert "".join(listener.chunks) == said.text
        assert len(listener.chunks) == len(said.tokens)


@pytest.mark.parametrize("text", ["Müller 茶 🙂 tea", "a  b\n\nc ", "  12.50 ", "##x#"])
def test_every_character_is_streamed_once_and_early(processor: Phi3VProcessor, text: str) -> None:
    listener = Listener()
    row = spell(text + "!", processor, asked(listener))
    assert "".join(listener.chunks) == row.generation().text == (text + "!").strip()
    assert sum(bool(chunk) for chunk in listener.chunks) > 1


@pytest.mark.parametrize("stop", [(" Coat",), ("zzz", "Co"), ("o", "Coat"), ("l Coat, ",)])
def test_a_stop_word_ends_the_text_and_is_never_streamed(
    processor: Phi3VProcessor, stop: tuple[str, ...]
) -> None:
    listener = Listener()
    row = spell("A Wool Coat, red", processor, asked(listener, stop=stop))
    said = row.generation()
    first = min(place for word in stop if (place := "A Wool Coat, red".find(word)) >= 0)
    assert said.text == "A Wool Coat, red"[:first].rstrip() == "".join(listener.chunks)
    assert said.finish_reason == "stop"
    assert max(said.token_ends) == len(said.text)


def test_a_beginning_of_a_stop_word_is_streamed_at_the_end(
    processor: Phi3VProcessor,
) -> None:
    listener = Listener()
    row = spell("A Wool Coat", processor, asked(listener, stop=("Coats",)))
    assert "Coat" not in "".join(listener.chunks)
    row.finish_reason = "length"
    row.report()
    assert "".join(listener.chunks) == "A Wool Coat"


def test_a_batch_of_cancelled_rows_ends(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    forward = Phi3VForCausalLM.forward

    @functools.wraps(forward)
    def count(self: Phi3VForCausalLM, *inputs: object, **named: object) -> object:
        steps.append(1)
        return forward(self, *inputs, **named)

    monkeypatch.setattr(Phi3VForCausalLM, "forward", count)
    answers = generate(model, processor, [asked(Listener(2)), asked(Listener(4))])
    assert [said.finish_reason for said in answers] == ["cancelled", "cancelled"]
    assert len(steps) == 1 + 4  # the prompts, and then each token


def test_a_row_finishes_before_its_batch(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    order: list[str] = []
    requests = [
        asked(on_finish=lambda said: order.append(f"long, {len(said.token_ends)} tokens")),
        asked(max_new_tokens=2, on_finish=lambda said: order.append(said.finish_reason)),
        asked(Listener(3), on_finish=lambda said: order.append(said.finish_reason)),
    ]
    generate(model, processor, requests)
    assert order == ["length", "cancelled", f"long, {NEW} tokens"]


STRANGE = {
    "endless": {"$defs": {"n": {"anyOf": [{"$ref": "#/$defs/n"}]}}, "$ref": "#/$defs/n"},
    "wide": {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(3000)}},
}


@pytest.mark.parametrize("schema", STRANGE.values(), ids=STRANGE)
def test_a_grammar_beyond_its_budget_ends_only_its_own_row(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, schema: dict[str, object]
) -> None:
    grammar = f"start: %json {json.dumps(schema)}"
    cut, other = generate(model, processor, [asked(grammar=grammar), PLAIN])
    assert cut.finish_reason == "length"
    assert len(cut.token_ends) < NEW
    assert other.text == generate(model, processor, [PLAIN])[0].text


def test_a_prompt_beyond_the_context_is_rejected(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    model.config.max_position_embeddings = 10
    with pytest.raises(ValueError, match=r"tokens, and the model reads at most 10"):
        generate(model, processor, [PLAIN])
