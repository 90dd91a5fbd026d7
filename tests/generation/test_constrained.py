"""Constrained decoding: any model, in any batch, generates only what the grammar allows."""

from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE, TWO

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.data.template import PRODUCT
from phi_vision.data.template_grammar import grammar_of
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.generation.sampling import compile_grammar, control_tokens

COLORS = 'start: "red" | "light green" | "Müller茶"'
TOLERANCE = 1e-4


def limited(
    grammar: str, prompt: str = NONE, images: Sequence[Image.Image] = ()
) -> GenerationRequest:
    """A request for a few tokens, which a finite grammar may exceed."""
    return GenerationRequest(
        prompt=prompt, images=tuple(images), max_new_tokens=2, grammar=grammar, finite_grammar=True
    )


def test_random_weights_generate_only_texts_that_parse(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    a, b, c = images
    grammar = grammar_of(PRODUCT, {"category3_code": ["COATS", "HATS & CAPS", "N.A."]})
    asked = [(ONE, [a]), (TWO, [b, c]), (NONE, []), (ONE, [c])]
    requests = [limited(grammar, *each) for each in asked]
    answers = generate(model, processor, requests)
    records = [PRODUCT.parse(said.text) for said in answers]
    assert None not in records
    assert {record["category3_code"] for record in records if record} <= {
        "COATS",
        "HATS & CAPS",
        "N.A.",
    }
    assert len({said.text for said in answers}) > 1, "the toy model says the same to everyone"


@pytest.mark.parametrize("seed", range(3))
def test_texts_are_complete_and_among_those_allowed(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, seed: int
) -> None:
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.lm_head.weight)
    (said,) = generate(model, processor, [limited(COLORS)])
    assert said.text in ("red", "light green", "Müller茶")
    assert said.token_ends[-1] == len(said.text)


def test_characters_of_several_tokens_can_be_generated(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    (said,) = generate(model, processor, [limited('start: "Müller茶🙂"')])
    assert said.text == "Müller茶🙂"


def test_the_rows_of_a_batch_do_not_constrain_each_other(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    grammar = "start: /[a-z]{1,3}( [a-z]{1,5})?/"
    asked = [(ONE, [image]) for image in images] + [(NONE, [])]
    requests = [limited(grammar, *each) for each in asked]
    for request, said in zip(requests, generate(model, processor, requests), strict=True):
        (alone,) = generate(model, processor, [request])
        assert said.text == alone.text
        assert said.logprobs == pytest.approx(alone.logprobs, abs=TOLERANCE)


def test_probabilities_are_those_without_the_grammar(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    ids = processor(text=NONE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits[0, -1].log_softmax(-1)
    (said,) = generate(model, processor, [limited('start: "7"')])
    written = processor.tokenizer.convert_tokens_to_ids("7")
    assert said.logprobs[0] == pytest.approx(expected[written].item(), abs=TOLERANCE)
    assert len(said.logprobs) == 2, "the stop token counts"


def test_logits_without_a_token_are_never_selected(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    """The official checkpoints have 32,064 logits for fewer tokens."""
    model.resize_token_embeddings(model.config.vocab_size + 20)
    with torch.no_grad():
        model.lm_head.weight[-20:] = 100.0
    (said,) = generate(model, processor, [limited("start: /[^x]{1,4}/")])
    assert 1 <= len(said.text) <= 4


def test_an_invalid_grammar_is_rejected(model: Phi3VForCausalLM, processor: Phi3VProcessor) -> None:
    with pytest.raises(ValueError, match=r"the grammar is invalid: .*grammar_of"):
        generate(model, processor, [limited("start: unknown_rule")])


def test_a_grammar_is_compiled_once_for_many_batches(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    stops = tuple(model.generation_config.eos_token_id)
    size = model.config.vocab_size
    assert compile_grammar(processor.tokenizer, COLORS, size, stops) is compile_grammar(
        processor.tokenizer, COLORS, size, stops
    )


def test_tokens_of_one_byte_are_no_control_tokens(processor: Phi3VProcessor) -> None:
    controls = control_tokens(processor.tokenizer)
    number = processor.tokenizer.convert_tokens_to_ids
    assert {number("<|end|>"), number("<s>"), number("<|image|>")} <= controls
    assert number("<0xC3>") not in controls
