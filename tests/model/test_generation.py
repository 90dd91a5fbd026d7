"""Generation: batches, beams, caches and the border of the original context change no token."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from toy_rows import ONE, TWO, Inputs

from phi_vision import Phi3VForCausalLM, Phi3VProcessor

NEW = 12
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}


def tokens_after(inputs: Inputs, model: Phi3VForCausalLM, **options: Any) -> list[list[int]]:
    """Generate and give only the new tokens of each row."""
    ids = model.generate(**inputs, **{**GREEDY, **options})
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def fresh_readings(model: Phi3VForCausalLM, inputs: Inputs, count: int) -> list[int]:
    """Generate one row greedily, each step a forward pass over everything, without any cache."""
    inputs = dict(inputs)
    found: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits[0, -1]
        logits[model.generation_config.eos_token_id] = -torch.inf
        found.append(int(logits.argmax()))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([found[-1:]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return found


def test_rows_of_a_left_padded_batch_give_the_same_text_as_alone(
    model: Phi3VForCausalLM, rows: list[Inputs], batch_of_rows: Callable[[str], Inputs]
) -> None:
    together = tokens_after(batch_of_rows("left"), model)
    alone = [tokens_after(row, model)[0] for row in rows]
    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) == 3, "the toy model says the same to everyone"


def test_generation_equals_reading_everything_afresh_each_step(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    for row in rows:
        assert tokens_after(row, model)[0] == fresh_readings(model, row, NEW)


def test_without_a_cache_the_image_is_seen_at_every_step(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    """Phi-3's official code loses the image after the first step."""
    for row in rows:
        assert tokens_after(row, model, use_cache=False) == tokens_after(row, model)


def test_images_are_encoded_once(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    runs: list[int] = []
    model.model.vision_embed_tokens.register_forward_hook(lambda *_: runs.append(1))
    tokens_after(batch_of_rows("left"), model)
    assert runs == [1]


def test_beams_keep_the_images_of_their_row(
    model: Phi3VForCausalLM, rows: list[Inputs], batch_of_rows: Callable[[str], Inputs]
) -> None:
    """The official code repeats images one by one, so beams see those of other tags."""
    together = tokens_after(batch_of_rows("left"), model, num_beams=3)
    assert together == [tokens_after(row, model, num_beams=3)[0] for row in rows]


def test_several_answers_to_a_row_see_all_its_images(
    model: Phi3VForCausalLM, rows: list[Inputs], batch_of_rows: Callable[[str], Inputs]
) -> None:
    several = {"num_beams": 3, "num_return_sequences": 2}
    together = tokens_after(batch_of_rows("left"), model, **several)
    assert together == [tokens for row in rows for tokens in tokens_after(row, model, **several)]
    # With one candidate a sampled answer is the greedy one, whichever copy of the row gives it.
    sampled = tokens_after(rows[1], model, do_sample=True, top_k=1, num_return_sequences=3)
    assert sampled == tokens_after(rows[1], model) * 3


@pytest.mark.parametrize(
    "options",
    [{"prefill_chunk_size": 7}, {"cache_implementation": "static"}],
    ids=["chunked prefill", "static cache"],
)
def test_other_ways_to_fill_the_cache_give_the_same_text(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs], options: dict[str, Any]
) -> None:
    batch = batch_of_rows("left")
    assert tokens_after(batch, model, **options) == tokens_after(batch, model)


def test_generation_can_start_from_embeddings(model: Phi3VForCausalLM, rows: list[Inputs]) -> None:
    embeds = model.get_input_embeddings()(rows[2]["input_ids"])
    found = model.generate(inputs_embeds=embeds, **GREEDY)
    assert found.tolist() == tokens_after(rows[2], model)


def test_the_whole_output_decodes_and_keeps_its_placeholders(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, rows: list[Inputs]
) -> None:
    """The official prompt part comes back as `<unk>`, or as negative ids that cannot be decoded."""
    ids = model.generate(**rows[0], **GREEDY)
    assert torch.equal(ids[:, : rows[0]["input_ids"].shape[1]], rows[0]["input_ids"])
    assert processor.decode(ids[0]).count("<|image|>") == 27


def test_generation_stops_at_any_of_its_stop_tokens(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, rows: list[Inputs]
) -> None:
    names = ("<|end|>", "<|endoftext|>", "</s>")
    stops = [processor.tokenizer.convert_tokens_to_ids(name) for name in names]
    assert set(model.generation_config.eos_token_id) == set(stops)
    inputs = rows[2]
    for stop in stops:
        with torch.no_grad():
            model.lm_head.weight[stop] = 100 * model.model(**inputs).last_hidden_state[0, -1]
            ids = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
            model.lm_head.weight[stop] = 0
        assert ids[0, inputs["input_ids"].shape[1] :].tolist() == [stop]


# The border of the original context, 96 positions in `short_context`.


def long_row(processor: Phi3VProcessor, images: list[Image.Image], length: int) -> Inputs:
    """Make a row with two images that is exactly `length` long."""
    inputs = dict(processor(text=TWO, images=images[:2], return_tensors="pt"))
    short = length - inputs["input_ids"].shape[1]
    filler = torch.arange(300, 300 + short)[None]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], filler], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


# A prompt of 97 is past the border from the start, one of 84 reaches it with the last new token.
LENGTHS = [84, 85, 95, 96, 97]
CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "none": {"use_cache": False},
    "filled in pieces": {"prefill_chunk_size": 16},
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("cache", CACHES)
def test_generation_across_the_border_equals_reading_afresh(
    short_context: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    images: list[Image.Image],
    length: int,
    cache: str,
) -> None:
    inputs = long_row(processor, images, length)
    if length > 96 and cache == "filled in pieces":
        # Its first pieces would be rotated for a short text and the last for a long one.
        with pytest.raises(ValueError, match=r"past 96 tokens.*without prefill_chunk_size"):
            tokens_after(inputs, short_context, **CACHES[cache])
        return
    expected = fresh_readings(short_context, inputs, NEW)
    assert tokens_after(inputs, short_context, **CACHES[cache])[0] == expected


def test_bare_embeddings_are_rejected_at_the_border(short_context: Phi3VForCausalLM) -> None:
    """They are gone by the time they would have to be read again."""
    embeds = short_context.get_input_embeddings()(torch.arange(300, 394)[None])
    with pytest.raises(ValueError, match=r"past 96 tokens.*Pass the whole text as input_ids"):
        short_context.generate(inputs_embeds=embeds, **GREEDY)


def test_the_border_matters_to_this_toy(
    model: Phi3VForCausalLM,
    short_context: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    images: list[Image.Image],
) -> None:
    before, after = (long_row(processor, images, length) for length in (96, 97))
    with torch.no_grad():
        within = short_context(**before).logits[0, -1]
        beyond = short_context(**after).logits[0, 95]
    assert (within - beyond).abs().max() > 0.1


@pytest.mark.parametrize("extra", [0, 6], ids=["longest row unpadded", "every row padded"])
@pytest.mark.parametrize(
    "options", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"]
)
def test_a_left_padded_batch_crosses_the_border_as_if_nothing_were_cached(
    short_context: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    images: list[Image.Image],
    extra: int,
    options: dict[str, Any],
) -> None:
    """Padding has no positions: the border lies where the longest row's real tokens cross it."""
    pad = processor.tokenizer.pad_token_id
    longest = long_row(processor, images, 92)
    other = processor(text=ONE, images=images[2], return_tensors="pt")
    padding = 92 + extra - other["input_ids"].shape[1]
    batch = {
        "input_ids": torch.cat(
            [
                torch.nn.functional.pad(longest["input_ids"], (extra, 0), value=pad),
                torch.nn.functional.pad(other["input_ids"], (padding, 0), value=pad),
            ]
        ),
        "attention_mask": torch.cat(
            [
                torch.nn.functional.pad(longest["attention_mask"], (extra, 0)),
                torch.nn.functional.pad(other["attention_mask"], (padding, 0)),
            ]
        ),
        "pixel_values": torch.cat([longest["pixel_values"], other["pixel_values"]]),
        "image_sizes": torch.cat([longest["image_sizes"], other["image_sizes"]]),
    }
    expected = tokens_after(batch, short_context, use_cache=False)
    assert tokens_after(batch, short_context, **options) == expected
    assert expected[0] == fresh_readings(short_context, longest, NEW)
