"""Numbers of a generated text, written as the median of several draws.

A greedy text has the likeliest first digit, then the likeliest second one after it, and so on.
The median of the numbers that a model may write instead has the smallest expected distance to the
true one, as long as its probabilities are right: minimum Bayes risk decoding of one number. Draws
are evenly spaced over the texts that may follow, as random ones would have to be many.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from phi_vision.generation.growing_batch import Inputs
from phi_vision.generation.request import Generation, GenerationRequest, NumberSpan
from phi_vision.generation.sampling import RowState

DRAWS = 16  # of each number: a batch of rows that share one prompt

Run = Callable[[Sequence[GenerationRequest], Sequence[Inputs]], Sequence[RowState]]


def draw_numbers(rows: Sequence[RowState], encoded: Sequence[Inputs], run: Run) -> None:
    """Draw the numbers of ended rows that ask for it, all together, and finish these rows.

    Each draw continues the greedy text from where the number begins. A number of which no draw can
    be read stays as it is.
    """
    plans = list[tuple[RowState, Generation, Sequence[NumberSpan]]]()
    requests, inputs = list[GenerationRequest](), list[Inputs]()
    for row, read in zip(rows, encoded, strict=True):
        if row.request.numbers is None:
            continue
        greedy = row.generation()
        spans = row.request.numbers(greedy.text) if greedy.finish_reason == "stop" else ()
        plans.append((row, greedy, spans))
        for span in spans:
            request = _request(row.request, greedy, span)
            requests += [replace(request, place=(n + 0.5) / DRAWS) for n in range(DRAWS)]
            inputs += [with_prefix(read, request.prefix)] * DRAWS
    drawn = iter([row.generation() for row in run(requests, inputs)] if requests else [])
    for row, generation, spans in plans:
        draws = [[next(drawn) for _ in range(DRAWS)] for _ in spans]
        # From the last number to the first, so that the places before stay.
        for span, each in reversed(list(zip(spans, draws, strict=True))):
            generation = _with_median(generation, span, each)
        row.finish(generation)


def with_prefix(inputs: Inputs, prefix: Sequence[int]) -> Inputs:
    """Append tokens to the prompt of one row."""
    if not prefix:
        return inputs
    ids = inputs["input_ids"]
    return inputs | {"input_ids": torch.cat([ids, ids.new_tensor([prefix])], dim=1)}


def _tokens_before(generation: Generation, place: int) -> int:
    """Count the tokens that end at a place of the text or before it."""
    return sum(end <= place for end in generation.token_ends)


def _request(request: GenerationRequest, greedy: Generation, span: NumberSpan) -> GenerationRequest:
    """Build the request of a text that continues the one before a number."""
    first, last = (_tokens_before(greedy, place) for place in (span.start, span.end))
    return replace(
        request,
        prefix=(*request.prefix, *greedy.tokens[:first]),
        max_new_tokens=2 * (last - first) + len(span.stop) + 8,  # a number of twice the digits
        temperature=1.0,
        top_p=1.0,
        stop=(span.stop,) if span.stop else (),
        on_token=None,
        on_finish=None,
        numbers=None,
    )


def _with_median(
    generation: Generation, span: NumberSpan, draws: Sequence[Generation]
) -> Generation:
    """Replace a number by the median of its draws, with their tokens and log-probabilities."""
    text, ends, tokens = generation.text, generation.token_ends, generation.tokens
    first = _tokens_before(generation, span.start)
    at = ends[first - 1] if first else 0
    # A token may hold the blank before the number, or more of what stands there.
    head = text[at : span.start].lstrip()
    read = [draw for draw in draws if draw.finish_reason == "stop" and draw.text.startswith(head)]
    median = span.median([draw.text.removeprefix(head) for draw in read])
    if median is None:
        return generation
    chosen = next(draw for draw in read if draw.text == head + median)
    # Its tokens; the one after them closes the number in place of the greedy one.
    inside = sum(start < len(chosen.text) for start in _starts(chosen))
    pairs = zip(_starts(generation), ends, strict=True)
    after = sum(start < span.end and end <= span.end for start, end in pairs)
    shift, moved = span.start - len(head), len(median) - (span.end - span.start)
    logprobs = (*generation.logprobs[:first], *chosen.logprobs[: inside + 1])
    return generation._replace(
        text=text[: span.start] + median + text[span.end :],
        tokens=(*tokens[:first], *chosen.tokens[:inside], *tokens[after:]),
        token_ends=(
            *ends[:first],
            *(shift + end for end in chosen.token_ends[:inside]),
            *(end + moved for end in ends[after:]),
        ),
        logprobs=(*logprobs, *generation.logprobs[after + 1 :]),
    )


def _starts(generation: Generation) -> Sequence[int]:
    return (0, *generation.token_ends[:-1])
