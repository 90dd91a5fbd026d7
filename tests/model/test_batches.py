"""Batches, losses and shortcuts: whatever saves work or joins rows gives the numbers of one row."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import torch
from PIL import Image
from toy_rows import Inputs
from transformers.modeling_layers import GradientCheckpointingLayer

from phi_vision import Phi3VForCausalLM, Phi3VProcessor

# Different order of summation in float32; logits here are of size 1 to 10.
SAME = {"atol": 2e-5, "rtol": 1e-5}
IGNORED = -100


def labels_of(inputs: Inputs, model: Phi3VForCausalLM) -> torch.Tensor:
    """Label every real token that is no placeholder."""
    ids, placeholder = inputs["input_ids"], model.config.image_token_id
    return ids.masked_fill((ids == placeholder) | (inputs["attention_mask"] == 0), IGNORED)


def gradients(model: Phi3VForCausalLM) -> dict[str, torch.Tensor]:
    named = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return {name: gradient for name, gradient in named.items() if gradient is not None}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rows_of_a_batch_equal_the_rows_alone(
    model: Phi3VForCausalLM,
    rows: list[Inputs],
    batch_of_rows: Callable[[str], Inputs],
    side: str,
    attention: str,
) -> None:
    model.set_attn_implementation(attention)
    batch = batch_of_rows(side)
    with torch.no_grad():
        together = model(**batch).logits
        for row, alone in enumerate(rows):
            real = together[row][batch["attention_mask"][row] == 1]
            torch.testing.assert_close(real, model(**alone).logits[0], **SAME)


def test_a_row_depends_on_its_own_images_only(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    batch = batch_of_rows("right")
    with torch.no_grad():
        before = model(**batch).logits
        batch["pixel_values"] = batch["pixel_values"].clone()
        batch["pixel_values"][:5] = 0.5  # the first row's image: a global view and 2 x 2 crops
        after = model(**batch).logits
    assert (before[0] - after[0]).abs().max() > 0.1
    torch.testing.assert_close(before[1:], after[1:], **SAME)


def test_sdpa_equals_eager_in_loss_and_gradients(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    batch = batch_of_rows("right")
    found = {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        model(**batch, labels=labels_of(batch, model)).loss.backward()
        found[attention] = gradients(model)
    for name, gradient in found["eager"].items():
        largest = gradient.abs().max().item()
        # In proportion to the largest entry; a gradient that is mathematically zero is noise.
        torch.testing.assert_close(
            found["sdpa"][name], gradient, atol=1e-4 * largest + 1e-6, rtol=0.0
        )


def test_logits_to_keep_gives_the_last_or_the_chosen_positions(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    batch = batch_of_rows("left")
    chosen = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.2
    with torch.no_grad():
        whole = model(**batch).logits
        last = model(**batch, logits_to_keep=2).logits
        picked = model(**batch, logits_to_keep=chosen).logits
    torch.testing.assert_close(last, whole[:, -2:], **SAME)
    torch.testing.assert_close(picked, whole[chosen], **SAME)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_last_positions_are_multiplied_together(model: Phi3VForCausalLM, rows: int) -> None:
    """A slice of (B, L, H) would be multiplied row by row, each by its own copy of the weight."""
    strides = list[tuple[int, ...]]()

    def note(_: object, given: tuple[torch.Tensor, ...]) -> None:
        strides.append(given[0].stride())

    watch = model.lm_head.register_forward_pre_hook(note)
    with torch.no_grad():
        model(input_ids=torch.arange(5, 5 + 3 * rows).view(rows, 3), logits_to_keep=1)
    watch.remove()
    width = model.config.hidden_size
    assert strides == [(width, width, 1)]


@pytest.mark.parametrize("items", [None, 7])
def test_the_loss_of_labelled_positions_only_is_the_whole_loss(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs], items: int | None
) -> None:
    batch = batch_of_rows("right")
    labels = labels_of(batch, model)
    shift = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    keep = shift != IGNORED
    whole = model(**batch, labels=labels, num_items_in_batch=items)
    whole.loss.backward()
    expected = gradients(model)
    selective = model(
        **batch,
        labels=labels,
        shift_labels=shift[keep],
        logits_to_keep=keep,
        num_items_in_batch=items,
    )
    selective.loss.backward()
    assert selective.logits.shape[0] == int(keep.sum()) < whole.logits[..., 0].numel()
    torch.testing.assert_close(selective.loss, whole.loss, **SAME)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], **SAME)


def test_gradient_checkpointing_gives_the_same_loss_and_gradients(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    batch = batch_of_rows("right")
    model.train()
    plain = model(**batch, labels=labels_of(batch, model)).loss
    plain.backward()
    expected = gradients(model)
    model.activation_checkpointing_enable()
    runs: Counter[str] = Counter()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # Hooks of a layer itself stay outside its checkpoint; those of its parts do not.
            count = partial(runs.update, [type(layer).__name__])
            next(layer.children()).register_forward_pre_hook(lambda *_, count=count: count())
    loss = model(**batch, labels=labels_of(batch, model)).loss
    loss.backward()
    found = gradients(model)
    # Two of the three CLIP layers and both decoder layers: forward, and again for the gradients.
    assert runs == {"CLIPEncoderLayer": 2 * 2, "Phi3DecoderLayer": 2 * 2}
    torch.testing.assert_close(loss, plain, atol=0.0, rtol=0.0)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], **SAME)


def pad_as_officially(inputs: Inputs, slots: int) -> Inputs:
    """Turn ragged crops into the official `(images, slots, 3, S, S)` with zeros at the end."""
    counts = [(h // 56) * (w // 56) + 1 for h, w in inputs["image_sizes"].tolist()]
    pieces = inputs["pixel_values"].split(counts)
    padded = torch.zeros(len(pieces), slots, *inputs["pixel_values"].shape[1:])
    for place, crops in enumerate(pieces):
        padded[place, : len(crops)] = crops
    return inputs | {"pixel_values": padded}


@pytest.mark.parametrize("layout", ["ragged", "official"])
def test_padding_crops_and_the_last_clip_layer_are_never_computed(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs], layout: str
) -> None:
    batch = batch_of_rows("right")
    crops = batch["pixel_values"].shape[0]
    if layout == "official":
        batch = pad_as_officially(batch, slots=5)
        assert batch["pixel_values"].shape[:2].numel() > crops
    tower = model.model.vision_embed_tokens.img_processor.vision_model
    computed: list[int] = []
    for layer in tower.encoder.layers:
        layer.register_forward_hook(lambda *call: computed.append(call[2].shape[0]))
    with torch.no_grad():
        model(**batch)
    assert computed == [crops] * (len(tower.encoder.layers) - 1)


def test_a_single_crop_is_encoded_once_and_everything_is_as_if_twice(
    model: Phi3VForCausalLM, processor: Phi3VProcessor, images: list[Image.Image]
) -> None:
    embedding = model.model.vision_embed_tokens
    cutter = processor.image_processor
    made = [cutter(image, num_crops=most) for image, most in zip(images, (1, 4, 1), strict=True)]
    pixel_values = torch.cat([each["pixel_values"] for each in made])
    sizes = torch.cat([each["image_sizes"] for each in made])
    grids = [[1, 1], [3, 1], [1, 1]]
    assert (sizes // embedding.crop_size).tolist() == grids
    assert torch.equal(pixel_values[0], pixel_values[1])  # the view and the crop

    def twice() -> list[torch.Tensor]:
        counts = [rows * columns + 1 for rows, columns in grids]
        features = embedding.img_processor(pixel_values).split(counts)
        return [
            embedding.img_projection(embedding._arrange(each, *grid))
            for each, grid in zip(features, grids, strict=True)
        ]

    shown: list[int] = []
    results = {}
    for name, encode in {"twice": twice, "once": partial(embedding, pixel_values, sizes)}.items():
        hook = embedding.img_processor.register_forward_pre_hook(
            lambda _, given: shown.append(len(given[0]))
        )
        tokens = encode()
        hook.remove()
        # Tokens of the crops, the separators and the view count differently.
        weights = torch.linspace(-1, 1, sum(len(each) for each in tokens))[:, None]
        (torch.cat(tokens).square() * weights).sum().backward()
        results[name] = tokens, gradients(model)
    assert shown == [2 + 4 + 2, 1 + 4 + 1]
    for found, expected in zip(results["once"][0], results["twice"][0], strict=True):
        torch.testing.assert_close(found, expected, **SAME)
    assert results["once"][1].keys() == results["twice"][1].keys()
    for name, expected in results["twice"][1].items():
        if name.endswith("k_proj.bias"):  # mathematically zero: rounding alone
            continue
        largest = expected.abs().max().item()
        torch.testing.assert_close(
            results["once"][1][name], expected, atol=1e-4 * largest + 1e-6, rtol=0.0, msg=name
        )


def test_the_official_padded_pixel_values_give_the_same_logits(
    model: Phi3VForCausalLM, batch_of_rows: Callable[[str], Inputs]
) -> None:
    batch = batch_of_rows("right")
    with torch.no_grad():
        ragged = model(**batch).logits
        padded = model(**pad_as_officially(batch, slots=5)).logits
    assert torch.equal(ragged, padded)


def test_the_tower_does_not_run_for_words_alone(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the tower ran")

    model.model.vision_embed_tokens.register_forward_pre_hook(refuse)
    with torch.no_grad():
        assert model(**rows[2]).logits.isfinite().all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rows_packed_by_restarting_positions_equal_the_rows_alone(
    model: Phi3VForCausalLM, rows: list[Inputs], attention: str
) -> None:
    model.set_attn_implementation(attention)
    lengths = [row["input_ids"].shape[1] for row in rows]
    with torch.no_grad():
        packed = model(
            input_ids=torch.cat([row["input_ids"] for row in rows], dim=1),
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            pixel_values=torch.cat([row["pixel_values"] for row in rows if "pixel_values" in row]),
            image_sizes=torch.cat([row["image_sizes"] for row in rows if "image_sizes" in row]),
            use_cache=False,
        ).logits[0]
        for found, alone in zip(packed.split(lengths), rows, strict=True):
            torch.testing.assert_close(found, model(**alone).logits[0], **SAME)


def test_the_callers_inputs_stay_as_they_are(model: Phi3VForCausalLM, rows: list[Inputs]) -> None:
    """Phi-3's official code overwrites the placeholders, so that a second call sees no image."""
    before = {name: values.clone() for name, values in rows[1].items()}
    with torch.no_grad():
        first, second = model(**rows[1]).logits, model(**rows[1]).logits
    assert torch.equal(first, second)
    assert all(torch.equal(rows[1][name], values) for name, values in before.items())


def test_a_bfloat16_model_with_a_float32_projection_works(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    """The official code fails here, with "Index put requires ... dtypes match"."""
    with torch.no_grad():
        expected = model(**rows[0]).logits
        model.bfloat16()
        model.model.vision_embed_tokens.img_projection.float()
        found = model(**rows[0]).logits
    assert found.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: about 1 % of logits of size 10, through two layers.
    torch.testing.assert_close(found.float(), expected, atol=0.8, rtol=0.0)


def test_pixel_values_without_image_sizes_are_rejected(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    """The official code ignores the image."""
    inputs = {name: values for name, values in rows[0].items() if name != "image_sizes"}
    with pytest.raises(ValueError, match="pixel_values came without image_sizes"):
        model(**inputs)
    with pytest.raises(ValueError, match="pixel_values came without image_sizes"):
        model.generate(**inputs, max_new_tokens=1)


def test_placeholders_without_images_are_rejected(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    ids, mask = rows[0]["input_ids"], rows[0]["attention_mask"]
    complaint = "Image features and image tokens do not match: 0 features for 27 placeholders"
    with pytest.raises(ValueError, match=complaint):
        model(input_ids=ids, attention_mask=mask)
    with pytest.raises(ValueError, match=complaint):
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=1)


def test_a_text_cut_through_an_image_is_rejected_with_both_counts(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    cut = rows[0] | {name: rows[0][name][:, :20] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=r"27 features for 1\d placeholders"):
        model(**cut)


def test_crops_that_do_not_fit_image_sizes_are_rejected(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    with pytest.raises(ValueError, match=r"image_sizes describe 5 crops.*hold 4"):
        model(**rows[0] | {"pixel_values": rows[0]["pixel_values"][1:]})


def test_images_beside_bare_embeddings_are_rejected(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    """The official code ignores the image."""
    embeds = model.get_input_embeddings()(rows[0]["input_ids"])
    inputs = {name: values for name, values in rows[0].items() if name != "input_ids"}
    with pytest.raises(ValueError, match="without input_ids"):
        model(inputs_embeds=embeds, **inputs)


def test_more_words_can_be_added(model: Phi3VForCausalLM, rows: list[Inputs]) -> None:
    """The official code keeps a second, stale table of word embeddings under `wte`."""
    before = model(**rows[0]).logits
    words = before.shape[-1]
    model.resize_token_embeddings(words + 64, mean_resizing=False)
    after = model(**rows[0]).logits
    assert after.shape[-1] == words + 64
    torch.testing.assert_close(after[..., :words], before, **SAME)
    assert not [name for name in model.state_dict() if "wte" in name]


def test_hidden_states_and_attentions_can_be_requested(
    model: Phi3VForCausalLM, rows: list[Inputs]
) -> None:
    model.set_attn_implementation("eager")
    out = model(**rows[0], output_hidden_states=True, output_attentions=True)
    length = rows[0]["input_ids"].shape[1]
    assert len(out.hidden_states) == 3
    assert [tuple(a.shape) for a in out.attentions] == [(1, 4, length, length)] * 2
