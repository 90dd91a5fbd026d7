"""Generation per token: its end in the text and its probability."""

import pytest
import torch
from PIL import Image
from toy_rows import NONE, ONE, TWO

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.data.prediction import field_confidence
from phi_vision.data.template import PRODUCT
from phi_vision.generation.generate import generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.generation.sampling import RowState, TokenDecoder

NEW = 12
TOLERANCE = 1e-4
"""Of float32 logits up to about 30, added up in another order."""


def plain(prompt: str, *images: Image.Image) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, images=images, max_new_tokens=NEW)


PLAIN = plain(NONE)


def ids_of(text: str, processor: Phi3VProcessor) -> list[int]:
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def read(text: str, processor: Phi3VProcessor) -> Generation:
    """Decode a text as if it had been generated."""
    return read_ids(ids_of(text, processor), processor)


def read_ids(ids: list[int], processor: Phi3VProcessor) -> Generation:
    row = RowState(
        PLAIN, TokenDecoder(processor.tokenizer), [], matcher=None, prompt_tokens=0, limit=len(ids)
    )
    for token in ids:
        row.append(token, -0.5)
    return row.generation()


def stop_at(model: Phi3VForCausalLM, token: int) -> None:
    """Make a token of the text a stop token."""
    model.generation_config.eos_token_id = [token]


def first_written(model: Phi3VForCausalLM, processor: Phi3VProcessor, count: int) -> list[int]:
    inputs = processor(text=NONE, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    written: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return written


def test_logprobs_equal_those_of_a_forward_pass_over_the_text(
    model: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    written = first_written(model, processor, NEW)
    prompt = processor(text=NONE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits_LV = model(torch.cat([prompt, torch.tensor([written])], dim=1)).logits[0]
    expected = logits_LV[prompt.shape[1] - 1 : -1].log_softmax(-1)[range(NEW), written]
    (said,) = generate(model, processor, [PLAIN])
    assert said.logprobs == pytest.approx(expected.tolist(), abs=TOLERANCE)


def test_logprobs_in_a_batch_equal_those_of_single_rows(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    a, b, c = images
    asked = [plain(TWO, b, c), PLAIN, plain(ONE, a)]
    for request, said in zip(asked, generate(model, processor, asked), strict=True):
        (alone,) = generate(model, processor, [request])
        assert said.token_ends == alone.token_ends
        assert said.logprobs == pytest.approx(alone.logprobs, abs=TOLERANCE)


def test_the_stop_token_counts_and_padding_does_not(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    (cut,) = generate(model, processor, [PLAIN])
    assert len(cut.logprobs) == NEW
    written = first_written(model, processor, NEW)
    stop = next(token for token in written[3:] if token not in written[:3])
    stop_at(model, stop)
    both = generate(model, processor, [PLAIN, plain(ONE, images[0])])
    ended, other = both
    count = written.index(stop) + 1
    assert len(ended.token_ends) == len(ended.logprobs) == count
    assert ended.logprobs == pytest.approx(cut.logprobs[:count], abs=TOLERANCE)
    assert len(other.token_ends) == len(other.logprobs)


def test_each_token_ends_where_its_characters_do(processor: Phi3VProcessor) -> None:
    tokens = processor.tokenizer.convert_ids_to_tokens(ids_of("Wool Coat, 39", processor))
    assert tokens == ["▁Wool", "▁Coat", ",", "▁", "3", "9"]
    said = read("Wool Coat, 39<|end|>", processor)
    assert (said.text, said.token_ends) == ("Wool Coat, 39", (4, 9, 10, 11, 12, 13, 13))


def test_a_character_of_several_tokens_belongs_to_the_last_of_them(
    processor: Phi3VProcessor,
) -> None:
    tokens = processor.tokenizer.convert_ids_to_tokens(ids_of("Aü茶B", processor))
    assert tokens == ["▁A", "<0xC3>", "<0xBC>", "<0xE8>", "<0x8C>", "<0xB6>", "B"]
    said = read("Aü茶B", processor)
    assert (said.text, said.token_ends) == ("Aü茶B", (1, 1, 2, 2, 2, 3, 4))


def test_surrounding_whitespace_counts_for_no_character(processor: Phi3VProcessor) -> None:
    said = read("  A b  <|end|>", processor)
    assert said.text == "A b"
    assert said.token_ends[-1] == 3
    assert list(said.token_ends) == sorted(said.token_ends)
    assert read("<|end|>", processor).token_ends == (0,)


def test_a_partial_character_is_not_an_error(processor: Phi3VProcessor) -> None:
    said = read_ids(ids_of("Aü", processor)[:-1], processor)
    assert said.text.startswith("A")
    assert said.token_ends[-1] == len(said.text)


def test_token_ends_and_logprobs_give_the_confidence_of_fields(processor: Phi3VProcessor) -> None:
    said = read("Product: Wool Coat, Category: COATS, Full Price: 390.0<|end|>", processor)
    confidence = field_confidence(PRODUCT, said.text, said.token_ends, said.logprobs)
    assert sorted(confidence) == ["category3_code", "full_price", "title"]
    # Each token is held probable at exp(-0.5): "▁Wool" "▁Coat" and the "," that ends the title.
    assert confidence["title"] == pytest.approx(torch.tensor(-1.5).exp().item())
