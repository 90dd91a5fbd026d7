"""Numbers as the median of draws: each continues the greedy text; one of them replaces it."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.generation.generate import generate
from phi_vision.generation.growing_batch import GrowingBatch
from phi_vision.generation.number_draws import DRAWS
from phi_vision.generation.request import Generation, GenerationRequest, NumberSpan

PRICE, AFTER = r"[1-9][0-9]{2}\.[0-9]", ", Hat"
FIRST = f"start: /Costs {PRICE}{AFTER}/"
LAST = f"start: /Hat at {PRICE}/"
TWO_PRICES = f"start: /From {PRICE} to {PRICE}{AFTER}/"


def median(texts: Sequence[str]) -> str | None:
    numbers = [text for text in texts if re.fullmatch(PRICE, text)]
    return statistics.median_low(sorted(numbers, key=float)) if numbers else None


def find(text: str) -> list[NumberSpan]:
    return [
        NumberSpan(match.start(), match.end(), text[match.end() :][:1], median)
        for match in re.finditer(PRICE, text)
    ]


def asked(
    grammar: str, prompt: str = NONE, images: Sequence[Image.Image] = ()
) -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt, images=tuple(images), grammar=grammar, finite_grammar=True
    )


def drawn_alone(
    model: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    request: GenerationRequest,
    greedy: Generation,
    span: NumberSpan,
) -> list[Generation]:
    """The draws of a number, one after the other, each after the whole prompt."""
    before = sum(end <= span.start for end in greedy.token_ends)
    stop = (span.stop,) if span.stop else ()
    one = replace(request, prefix=greedy.tokens[:before], temperature=1.0, stop=stop)
    places = [(number + 0.5) / DRAWS for number in range(DRAWS)]
    return [generate(model, processor, [replace(one, place=place)])[0] for place in places]


@pytest.mark.parametrize("grammar", [FIRST, LAST])
def test_a_number_becomes_the_median_of_its_draws(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image], grammar: str
) -> None:
    request = asked(grammar, ONE, images[:1])
    (greedy,) = generate(model, processor, [request])
    (found,) = generate(model, processor, [replace(request, numbers=find)])
    (span,) = find(greedy.text)
    draws = drawn_alone(model, processor, request, greedy, span)
    numbers = [draw.text for draw in draws]
    assert len(set(numbers)) > DRAWS / 2, "the toy model draws the same again and again"
    middle = sorted(numbers, key=float)[DRAWS // 2 - 1]
    assert found.text == greedy.text[: span.start] + middle + greedy.text[span.end :]
    assert (found.finish_reason, found.prompt_tokens) == ("stop", greedy.prompt_tokens)

    # Token by token: those before, those of the chosen draw, and those after.
    chosen = draws[numbers.index(middle)]
    spelled = processor.tokenizer.decode(found.tokens, skip_special_tokens=True)
    assert found.token_ends[-1] == len(found.text)
    assert list(found.token_ends) == sorted(found.token_ends)
    assert len(found.tokens) == len(found.token_ends) == len(found.logprobs)
    assert spelled.strip() == found.text
    inside = [
        logprob
        for end, logprob in zip(found.token_ends, found.logprobs, strict=True)
        if span.start < end <= span.start + len(middle)
    ]
    of_draw = [
        logprob
        for start, logprob in zip((0, *chosen.token_ends), chosen.logprobs, strict=False)
        if start < len(middle)
    ]
    ends_text = grammar == LAST  # where the stop token, too, ends with the number
    assert inside[: len(of_draw)] == pytest.approx(of_draw, abs=1e-4)
    assert len(inside) == len(of_draw) + ends_text
    closing = found.logprobs[found.token_ends.index(span.start + len(middle)) + 1]
    assert closing == pytest.approx(chosen.logprobs[len(of_draw)], abs=1e-4)


def test_every_number_of_every_row_is_drawn(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    requests = [asked(TWO_PRICES, ONE, [image]) for image in images] + [asked(FIRST)]
    together = generate(model, processor, [replace(each, numbers=find) for each in requests])
    greedy = generate(model, processor, requests)
    for request, found, before in zip(requests, together, greedy, strict=True):
        expected = before.text
        for span in reversed(find(before.text)):
            draws = drawn_alone(model, processor, request, before, span)
            middle = median([draw.text for draw in draws])
            assert middle is not None
            expected = expected[: span.start] + middle + expected[span.end :]
        assert found.text == expected
    assert [len(find(each.text)) for each in together] == [2, 2, 2, 1]


def test_draws_read_their_prompt_once(
    model: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    images: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, read = [], GrowingBatch.read

    def note(batch: GrowingBatch, group: range) -> None:
        seen.append(len(group))
        read(batch, group)

    monkeypatch.setattr(GrowingBatch, "read", note)
    generate(model, processor, [replace(asked(FIRST, ONE, images[:1]), numbers=find)])
    assert seen == [1, 1]  # for the text, and for the 16 draws


def test_a_number_that_no_draw_can_replace_stays(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    def unread(text: str) -> list[NumberSpan]:
        return [span._replace(median=lambda texts: None) for span in find(text)]

    (greedy,) = generate(model, processor, [asked(FIRST)])
    (found,) = generate(model, processor, [replace(asked(FIRST), numbers=unread)])
    assert found == greedy


def test_a_row_is_finished_once_with_its_final_text(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    finished: list[Generation] = []
    request = replace(asked(FIRST), numbers=find, on_finish=finished.append)
    plain = replace(asked(LAST), on_finish=finished.append)
    drawn, simple = generate(model, processor, [request, plain])
    assert finished == [simple, drawn]


def test_a_text_that_was_cut_short_is_not_drawn_again(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    request = GenerationRequest(prompt=NONE, max_new_tokens=4)
    looked: list[str] = []

    def look(text: str) -> list[NumberSpan]:
        looked.append(text)
        return []

    (found,) = generate(model, processor, [replace(request, numbers=look)])
    assert (found.finish_reason, looked) == ("length", [])


def test_a_prefix_is_continued_like_a_text_of_ones_own(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    request = GenerationRequest(prompt=ONE, images=(images[0],), max_new_tokens=12)
    (whole,) = generate(model, processor, [request])
    (rest,) = generate(
        model, processor, [replace(request, prefix=whole.tokens[:5], max_new_tokens=7)]
    )
    assert rest.tokens == whole.tokens[5:]
    assert rest.logprobs == pytest.approx(whole.logprobs[5:], abs=1e-4)
    assert rest.prompt_tokens == whole.prompt_tokens + 5


def test_the_median_is_in_the_middle_where_the_likeliest_number_is_not(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = {"100.0": 0.35, "200.0": 0.25, "900.0": 0.4}
    grammar = f"start: /Costs ({'|'.join(map(re.escape, shares))}){AFTER}/"
    logits_V = torch.full((model.config.vocab_size,), -20.0)
    for number, share in shares.items():
        logits_V[processor.tokenizer.convert_tokens_to_ids(number[0])] = math.log(share)

    def constant(hidden: torch.Tensor) -> torch.Tensor:
        return logits_V.expand(*hidden.shape[:-1], -1)

    monkeypatch.setattr(model.lm_head, "forward", constant)
    requests = [asked(grammar), replace(asked(grammar), numbers=find)]
    greedy, drawn = (each.text for each in generate(model, processor, requests))
    assert (greedy, drawn) == ("Costs 900.0, Hat", "Costs 200.0, Hat")
