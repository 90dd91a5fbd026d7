"""Writing under a grammar: nothing else is written, by whatever model, in whatever batch."""

from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE, TWO

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.data.template import PRODUCT
from phi_vision.data.template_grammar import grammar_of
from phi_vision.generation.constrained import begin, control_tokens
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest

COLOURS = 'start: "red" | "light green" | "Müller茶"'
TOLERANCE = 1e-4


def limited(
    grammar: str, prompt: str = NONE, images: Sequence[Image.Image] = ()
) -> GenerationRequest:
    """Ask for an answer of a few tokens, which the grammar may lengthen."""
    return GenerationRequest(
        prompt=prompt, images=tuple(images), max_new_tokens=2, grammar=grammar, finite_grammar=True
    )


def test_a_model_of_random_weights_writes_only_what_its_template_reads(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    a, b, c = images
    grammar = grammar_of(PRODUCT, {"category3_code": ["COATS", "HATS & CAPS", "N.A."]})
    asked = [(ONE, [a]), (TWO, [b, c]), (NONE, []), (ONE, [c])]
    questions = [limited(grammar, *each) for each in asked]
    answers = generate(model, processor, questions)
    records = [PRODUCT.parse(said.text) for said in answers]
    assert None not in records
    assert {record["category3_code"] for record in records if record} <= {
        "COATS",
        "HATS & CAPS",
        "N.A.",
    }
    assert len({said.text for said in answers}) > 1, "the toy model says the same to everyone"


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_complete_and_among_those_allowed(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, seed: int
) -> None:
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.lm_head.weight)
    (said,) = generate(model, processor, [limited(COLOURS)])
    assert said.text in ("red", "light green", "Müller茶")
    assert said.token_ends[-1] == len(said.text)


def test_characters_of_several_tokens_can_be_written(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    (said,) = generate(model, processor, [limited('start: "Müller茶🙂"')])
    assert said.text == "Müller茶🙂"


def test_the_rows_of_a_batch_do_not_constrain_each_other(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    grammar = "start: /[a-z]{1,3}( [a-z]{1,5})?/"
    asked = [(ONE, [image]) for image in images] + [(NONE, [])]
    questions = [limited(grammar, *each) for each in asked]
    for question, said in zip(questions, generate(model, processor, questions), strict=True):
        (alone,) = generate(model, processor, [question])
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
    assert len(said.logprobs) == 2, "the token that ends the answer counts"


def test_a_model_with_more_logits_than_tokens_writes_none_of_the_others(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    """The official checkpoints have 32,064 logits for fewer tokens."""
    model.resize_token_embeddings(model.config.vocab_size + 20)
    with torch.no_grad():
        model.lm_head.weight[-20:] = 100.0
    (said,) = generate(model, processor, [limited("start: /[^x]{1,4}/")])
    assert 1 <= len(said.text) <= 4


def test_a_grammar_that_cannot_be_read_is_refused(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    with pytest.raises(ValueError, match=r"the grammar cannot be read: .*grammar_of"):
        generate(model, processor, [limited("start: unknown_rule")])


def test_a_grammar_is_read_once_for_many_batches(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    stops = tuple(model.generation_config.eos_token_id)
    size = model.config.vocab_size
    assert begin(processor.tokenizer, COLOURS, size, stops) is begin(
        processor.tokenizer, COLOURS, size, stops
    )


def test_tokens_of_one_byte_are_no_control_tokens(processor: Phi3VProcessor) -> None:
    controls = control_tokens(processor.tokenizer)
    number = processor.tokenizer.convert_tokens_to_ids
    assert {number("<|end|>"), number("<s>"), number("<|image|>")} <= controls
    assert number("<0xC3>") not in controls
