"""The generation loop beside transformers' own `generate`, row by row."""

import pytest
import torch
from PIL import Image
from test_generate import prompt_of
from torch.nn.functional import scaled_dot_product_attention
from toy_rows import NONE, ONE, TWO

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.generation.cpu_attention import attend
from phi_vision.generation.generate import generate
from phi_vision.generation.growing_batch import COLUMNS_AT_ONCE, GrowingBatch, Inputs
from phi_vision.generation.request import GenerationRequest

NEW = 12


def alone(model: Phi3VForCausalLM, inputs: Inputs, new: int = NEW) -> list[int]:
    """Generate with transformers alone."""
    ids = model.generate(**inputs, max_new_tokens=new, do_sample=False, eos_token_id=None)
    written: list[int] = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return written


def together(model: Phi3VForCausalLM, rows: list[Inputs], new: int = NEW) -> list[list[int]]:
    """Generate in one batch, whose longest row leaves it half-way."""
    batch = GrowingBatch(model, rows, new)
    written: list[list[int]] = [[] for _ in rows]
    order = list(range(len(rows)))
    with torch.inference_mode(), batch.attention():
        for group in batch.groups():
            batch.read(group)
        for count in range(new):
            tokens = batch.logits().argmax(-1).tolist()
            batch.append(tokens)
            for row, token in zip(order, tokens, strict=True):
                written[row].append(token)
            if count == new // 2 and len(order) > 1:
                left = [place for place, row in enumerate(order) if row != len(rows) - 1]
                order = [order[place] for place in batch.keep(left)]
    return written


@pytest.mark.parametrize("attention", ["own", "masked"])
def test_rows_of_a_batch_equal_those_of_transformers(
    model: Phi3VForCausalLM, rows: list[Inputs], attention: str
) -> None:
    rows.sort(key=lambda row: row["input_ids"].shape[1])
    if attention == "masked":  # as on a GPU
        model.config.sliding_window = 10_000
    written = together(model, rows)
    expected = [alone(model, row) for row in rows]
    assert written == [*expected[:-1], expected[-1][: NEW // 2 + 1]]


def test_rows_of_equal_length_are_read_together(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    asked = [(NONE, None), (NONE, None), (ONE, images[:1]), (TWO, images[1:])]
    rows = [dict(processor(text=t, images=shown, return_tensors="pt")) for t, shown in asked]
    assert list(GrowingBatch(model, rows, 1).groups()) == [range(2), range(2, 3), range(3, 4)]


def test_a_text_longer_than_the_columns_allocated_at_once_continues(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    new = COLUMNS_AT_ONCE + 5
    assert together(model, rows[:1], new) == [alone(model, rows[0], new)]


def test_rows_are_read_again_beyond_the_original_context(
    short_context: Phi3VForCausalLM, processor: Phi3VProcessor
) -> None:
    rows = [dict(processor(text=prompt_of(90, processor), return_tensors="pt"))] * 2
    assert together(short_context, rows, NEW)[0] == alone(short_context, rows[0])


def test_the_model_is_as_before_even_after_an_error(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, last = model.config._attn_implementation, model.model.layers[-1]

    def fail(_: object) -> str:
        assert model.config._attn_implementation != usual
        raise RuntimeError

    monkeypatch.setattr(GrowingBatch, "logits", fail)
    with pytest.raises(RuntimeError):
        generate(model, processor, [GenerationRequest(prompt=NONE)])
    assert model.config._attn_implementation == usual
    assert "forward" not in vars(last)


def drawn(rows: int, heads: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(rows, heads, length, 16, dtype=dtype)


TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 0.01}
"""In bfloat16 only the result, of about 1, is rounded to 8 bits."""


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_of_one_token_does_not_read_padding(dtype: torch.dtype, groups: int) -> None:
    query = drawn(2, 4, 1, dtype)
    key, value = (drawn(2, 4 // groups, 9, dtype) for _ in range(2))
    expected = [
        scaled_dot_product_attention(
            *(each[row : row + 1, :, first:].float() for each, first in parts),
            scale=0.25,
            enable_gqa=True,
        )
        for row, parts in enumerate(
            [[(query, 0), (key, start), (value, start)] for start in (0, 3)]
        )
    ]
    key[1, :, :3] = value[1, :, :3] = torch.nan
    found, _ = attend(None, query, key, value, None, scaling=0.25, first_columns=[0, 3])  # type: ignore[arg-type]
    torch.testing.assert_close(
        found.float(), torch.cat(expected).transpose(1, 2), rtol=0, atol=TOLERANCES[dtype]
    )
