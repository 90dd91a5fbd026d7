"""Packed rows, padded batches and single rows train alike, whatever the samples look like.

Also shown: with a mask of ones, with a cache, or beside a row beyond the original context they do
not, so that these comparisons can fail.
"""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from phi_vision.data.collator import IGNORED, Batch, CompletionCollator, select_labelled
from phi_vision.data.packing import collate_packs, pack_samples
from phi_vision.data.samples import Message, Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.training.recipes import Recipe
from phi_vision.training.trainer import train
from pretraining.tiny import Sizes, make_config, make_processor

MakeRecipe = Callable[..., Recipe]

SIDE = 400
"""Where the original context of this test's model ends."""


@dataclass(frozen=True)
class Learnt:
    loss: float
    gradients: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def collator(tokenizer: Any) -> CompletionCollator:
    processor = make_processor(Sizes(num_crops=4), tokenizer)
    return CompletionCollator(processor=processor, template=TEMPLATES["product"])


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Phi3VForCausalLM:
    torch.manual_seed(0)
    config = make_config(Sizes(), tokenizer)
    config.original_max_position_embeddings = SIDE
    config.rope_parameters["original_max_position_embeddings"] = SIDE
    config.rope_parameters["short_factor"] = [1.0, 1.1, 1.3, 1.6, 2.0, 2.4, 2.8, 3.2]
    return Phi3VForCausalLM(config).eval()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """No image, one, three; lying and upright; a conversation; an answer of 250 words."""
    wide, high, square = draw("red", (90, 40)), draw("blue", (40, 60)), draw("black", (50, 50))

    def product(name: str, *images: bytes) -> Sample:
        record = {"title": name, "category3_code": "HATS", "full_price": 9.5}
        return Sample(id=name, group=name, images=images, record=record)

    talk = (
        Message("user", "What is <image>?"),
        Message("assistant", "A hat."),
        Message("user", "And\n<image>"),
        Message("assistant", "A bag in blue, 390"),
    )
    return [
        product("Red Hat", wide),
        product("A hat of which there is no image"),
        Sample(id="talk", group="talk", images=(wide, high), record={}, messages=talk),
        product("Long Hat " * 125, high),
        product("Bag", high, square, wide),
        product("Tie"),
    ]


def draw(color: str, size: tuple[int, int]) -> bytes:
    image, encoded = Image.new("RGB", size, "white"), io.BytesIO()
    image.paste(color, (8, 8, size[0] - 20, size[1] - 8))
    image.save(encoded, "PNG")
    return encoded.getvalue()


def learn(model: Phi3VForCausalLM, batches: Sequence[Batch]) -> Learnt:
    """Loss and gradients of one step over all batches, as the Trainer accumulates them."""
    answers = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "sample_ids"}
        part = model(**inputs, num_items_in_batch=answers).loss
        part.backward()
        loss += part.item()
    weights = model.named_parameters()
    return Learnt(loss, {n: w.grad.float() for n, w in weights if w.grad is not None})


def distance(left: Learnt, right: Learnt) -> float:
    """How far apart two gradients are, as a share of their length."""
    names = [name for name in left.gradients if not name.endswith("k_proj.bias")]
    ours, theirs = (torch.cat([g.gradients[n].flatten() for n in names]) for g in (left, right))
    return float((ours - theirs).norm() / theirs.norm())


def alone(collator: CompletionCollator, samples: Sequence[Sample]) -> list[Batch]:
    return [select_labelled(collator([sample])) for sample in samples]


def padded(collator: CompletionCollator, samples: Sequence[Sample]) -> list[Batch]:
    return [select_labelled(collator(samples))]


def packed(collator: CompletionCollator, samples: Sequence[Sample]) -> list[Batch]:
    lengths = [sum(collator.count_tokens(sample)) for sample in samples]
    packs = pack_samples(samples, lengths, SIDE, split_at=SIDE)
    assert 1 < len(packs) < len(samples) - 1
    return [select_labelled(collate_packs(collator, packs))]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("together", [padded, packed])
def test_rows_together_train_like_rows_alone(
    model: Phi3VForCausalLM,
    collator: CompletionCollator,
    samples: list[Sample],
    together: Any,
    attention: str,
) -> None:
    model.set_attn_implementation(attention)
    ours = learn(model, together(collator, samples))
    theirs = learn(model, alone(collator, samples))
    # float32 sums in another order; measured 5e-8 and 2e-7.
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert distance(ours, theirs) < 2e-6
    assert ours.gradients.keys() == theirs.gradients.keys()


@pytest.mark.parametrize("together", [padded, packed])
def test_in_bf16_they_differ_no_more_than_bf16_from_float32(
    model: Phi3VForCausalLM, collator: CompletionCollator, samples: list[Sample], together: Any
) -> None:
    model.set_attn_implementation("eager")
    exact = learn(model, alone(collator, samples))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = learn(model, alone(collator, samples))
        ours = learn(model, together(collator, samples))
    assert ours.loss == pytest.approx(theirs.loss, rel=2**-8)  # a step of bf16
    # Two roundings of the same gradient, each as far from it as `theirs` is from `exact`.
    assert 0 < distance(ours, theirs) < 2 * distance(theirs, exact)


@pytest.mark.parametrize(
    "spoilt", [{"attention_mask": True}, {"use_cache": True}, {"position_ids": None}]
)
def test_a_mask_of_ones_a_cache_or_counted_on_positions_would_leak(
    model: Phi3VForCausalLM,
    collator: CompletionCollator,
    samples: list[Sample],
    spoilt: dict[str, Any],
) -> None:
    model.set_attn_implementation("sdpa")
    (batch,) = packed(collator, samples)
    if "attention_mask" in spoilt:
        spoilt = {"attention_mask": torch.ones_like(batch["input_ids"])}
    leaking: Any = {**batch, **spoilt}
    ours, theirs = learn(model, [leaking]), learn(model, [batch])
    # Measured 3e-3 and 0.24, a thousand times the tolerances above and more.
    assert abs(ours.loss / theirs.loss - 1) > 1e-3
    assert distance(ours, theirs) > 0.1


def test_a_row_beyond_the_original_context_would_change_the_others(
    model: Phi3VForCausalLM, collator: CompletionCollator, samples: list[Sample]
) -> None:
    model.set_attn_implementation("sdpa")
    longer = Sample(
        id="l", group="l", images=(), record={**samples[5].record, "title": "Hat in red " * 200}
    )
    beside = [*samples[:2], longer]
    ours = learn(model, padded(collator, beside))
    theirs = learn(model, alone(collator, beside))
    assert distance(ours, theirs) > 2e-4, "measured 5e-4, where 2e-7 is the sums' own"


def test_padding_beyond_the_original_context_changes_nothing(
    model: Phi3VForCausalLM, collator: CompletionCollator, samples: list[Sample]
) -> None:
    model.set_attn_implementation("sdpa")
    packs = [[samples[3]] * 3, [samples[5]]]  # a row of short samples, longer than the context
    ours = learn(model, [select_labelled(collate_packs(collator, packs))])
    assert collate_packs(collator, packs)["input_ids"].shape[1] > 2 * SIDE
    theirs = learn(model, alone(collator, [sample for pack in packs for sample in pack]))
    assert distance(ours, theirs) < 2e-6


def read_log(out: Path, field: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if field in line]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("full", {"per_device_train_batch_size": 16}),
        ("lora", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}),
    ],
)
def test_a_packed_run_is_the_unpacked_run(
    make_recipe: MakeRecipe, tmp_path: Path, method: str, changes: dict[str, int]
) -> None:
    # A step of all 16 samples, so that both learn from the same: as rows, or in 6 packs of up to 3.
    apart = make_recipe(method, per_device_train_batch_size=16, num_train_epochs=3.0)
    if method == "lora":
        apart = replace(apart, lora_dropout=0.0)
    packed = replace(apart, pack_length=230, output_dir=tmp_path / "packed", **changes)
    assert train(apart).steps == train(packed).steps == 3
    ours, theirs = read_log(packed.output_dir, "loss"), read_log(apart.output_dir, "loss")
    for left, right in zip(ours, theirs, strict=True):
        # float32 sums in another order, through three steps of Adam
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-3)
    for left, right in zip(
        read_log(packed.output_dir, "validation_loss"),
        read_log(apart.output_dir, "validation_loss"),
        strict=True,
    ):
        assert left["validation_loss"] == pytest.approx(right["validation_loss"], rel=1e-4)


def test_samples_longer_than_a_pack_stop_a_run_before_it_starts(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", pack_length=20)
    with pytest.raises(ValueError, match="16 of 16 samples are longer than pack_length 20: 'p"):
        train(recipe)
    assert not recipe.output_dir.exists()


@pytest.mark.parametrize("pack_length", [None, 500])
def test_both_sides_of_the_original_context_need_rows_alone(
    make_recipe: MakeRecipe, tiny_checkpoint: Path, tmp_path: Path, pack_length: int | None
) -> None:
    short = tmp_path / "short"
    shutil.copytree(tiny_checkpoint, short)
    config = json.loads((short / "config.json").read_text())
    config["original_max_position_embeddings"] = 60
    (short / "config.json").write_text(json.dumps(config))
    recipe = make_recipe(
        "lora",
        model=str(short),
        pack_length=pack_length,
        max_steps=1,
        per_device_train_batch_size=2,
    )
    with pytest.raises(ValueError, match=r"of 16 samples have more than 60 tokens .* 2 rows share"):
        train(recipe)
    train(replace(recipe, per_device_train_batch_size=1, gradient_accumulation_steps=2))
