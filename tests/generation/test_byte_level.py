"""A byte-level vocabulary, as of phi-vision-photo: grammars and streaming as with SentencePiece."""

import pytest
import torch
from parts_of_a_base import make_decoder, make_tokenizer, make_tower

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.data.template import TEMPLATES
from phi_vision.data.template_grammar import grammar_of
from phi_vision.generation.generate import generate
from phi_vision.generation.request import GenerationRequest
from phi_vision.generation.sampling import RowState, decoder_for
from phi_vision.model.assembly import assemble
from phi_vision.model.checkpoint import load_model

PROMPT = "<|user|>\nWhat is it?<|end|>\n<|assistant|>\n"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Phi3VForCausalLM, Phi3VProcessor]:
    folder = tmp_path_factory.mktemp("bases") / "toy"
    for part in assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=28):
        part.save_pretrained(folder)
    model, processor = load_model(folder)
    return model, processor  # type: ignore[return-value]


def constrained(grammar: str) -> GenerationRequest:
    return GenerationRequest(prompt=PROMPT, max_new_tokens=2, grammar=grammar, finite_grammar=True)


@pytest.mark.parametrize("seed", range(3))
def test_texts_are_complete_and_among_those_allowed(
    loaded: tuple[Phi3VForCausalLM, Phi3VProcessor], seed: int
) -> None:
    model, processor = loaded
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.lm_head.weight)
    allowed = ("red wool", "light green", "Müller茶")
    grammar = "start: " + " | ".join(f'"{each}"' for each in allowed)
    (said,) = generate(model, processor, [constrained(grammar)])
    assert said.text in allowed


def test_random_weights_generate_only_records_that_parse(
    loaded: tuple[Phi3VForCausalLM, Phi3VProcessor],
) -> None:
    template = TEMPLATES["category-first"]
    grammar = grammar_of(template, {"category3_code": ["Coats", "Hats & Caps"]})
    (said,) = generate(*loaded, [constrained(grammar)])
    record = template.parse(said.text)
    assert record is not None
    assert record["category3_code"] in ("Coats", "Hats & Caps")


@pytest.mark.parametrize("text", ["Müller 茶 🙂 tea", "a  b\n\nc ", "##x#"])
def test_every_character_is_streamed_once(
    loaded: tuple[Phi3VForCausalLM, Phi3VProcessor], text: str
) -> None:
    tokenizer, chunks = loaded[1].tokenizer, list[str]()

    def listen(chunk: str) -> bool:
        chunks.append(chunk)
        return True

    request = GenerationRequest(prompt=PROMPT, on_token=listen)
    decoder, stops = decoder_for(tokenizer), [tokenizer.convert_tokens_to_ids("<|end|>")]
    row = RowState(request, decoder, stops, matcher=None, prompt_tokens=1, limit=99)
    for token in [*tokenizer.encode(text + "!", add_special_tokens=False), *stops]:
        row.append(token, 0.0)
    assert "".join(chunks) == row.generation().text == text + "!"
    assert sum(map(bool, chunks)) > 1
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(chunks)
