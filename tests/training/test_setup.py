"""Each check fires at the mistake that it is for, and suggests a fix."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_products import product_rows

from phi_vision.data.collator import IGNORED, Batch, CompletionCollator
from phi_vision.data.dataset import load_samples
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import load_model, load_processor
from phi_vision.training import setup as checks
from phi_vision.training.adapters import check_adapters_are_attached, load_trainable
from phi_vision.training.recipes import RECIPES, Recipe
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def collator(tiny_checkpoint: Path) -> CompletionCollator:
    return CompletionCollator(
        processor=load_processor(tiny_checkpoint), template=TEMPLATES["product"]
    )


@pytest.fixture
def samples(products: Path) -> list[Sample]:
    return load_samples(products)[:4]


@pytest.fixture
def batch(collator: CompletionCollator, samples: list[Sample]) -> Batch:
    return collator(samples)


def test_a_good_batch_passes(
    collator: CompletionCollator, samples: list[Sample], batch: Batch
) -> None:
    checks.check_samples(collator, samples)
    checks.check_images(batch, samples, collator.processor)
    checks.check_labels(batch)
    checks.check_prompt(collator, samples[0], batch)


@pytest.mark.parametrize("name", ["pixel_values", "image_sizes"])
def test_missing_image_inputs_are_rejected(
    collator: CompletionCollator, samples: list[Sample], batch: Batch, name: str
) -> None:
    del batch[name]
    with pytest.raises(ValueError, match=f"4 images but the batch has no {name}"):
        checks.check_images(batch, samples, collator.processor)


def test_missing_image_positions_are_rejected(
    collator: CompletionCollator, samples: list[Sample], batch: Batch
) -> None:
    batch["input_ids"][batch["input_ids"] == collator.processor.image_token_id] = 5
    with pytest.raises(ValueError, match="but the text has 0 of them"):
        checks.check_images(batch, samples, collator.processor)


def test_supervised_padding_is_rejected(batch: Batch) -> None:
    batch["labels"][batch["attention_mask"] == 0] = 0
    with pytest.raises(ValueError, match="labels are on padding"):
        checks.check_labels(batch)


def test_a_row_without_labels_is_rejected(batch: Batch) -> None:
    batch["labels"][1] = IGNORED
    with pytest.raises(ValueError, match="1 of 4 rows have no label"):
        checks.check_labels(batch)


def test_a_supervised_prompt_is_rejected(batch: Batch) -> None:
    real = batch["attention_mask"] == 1
    batch["labels"] = torch.where(real, batch["input_ids"], IGNORED)
    with pytest.raises(ValueError, match="100% of all tokens are labelled"):
        checks.check_labels(batch)


def test_another_prompt_than_at_inference_is_rejected(
    collator: CompletionCollator, samples: list[Sample], batch: Batch
) -> None:
    batch["input_ids"][0, 0] += 1
    with pytest.raises(ValueError, match=r"sample 'p0' trains after \d+ prompt tokens"):
        checks.check_prompt(collator, samples[0], batch)


def test_samples_that_would_be_cut_stop_before_the_first_step(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", max_length=30)
    with pytest.raises(ValueError, match="20 of 20 samples have more than max_length 30 tokens"):
        train(recipe)
    assert not recipe.output_dir.exists()


def test_an_adapter_that_misses_the_language_model_is_rejected(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("lora", target_modules=("q_proj", "v_proj"))
    names = "down_proj, gate_up_proj, o_proj, qkv_proj"
    with pytest.raises(
        ValueError, match=f"no language-model layer.*the language model has {names}"
    ):
        train(recipe)
    assert not recipe.output_dir.exists()


def test_a_target_that_matches_nothing_is_rejected(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValueError, match="no linear layer is named gate_proj"):
        load_trainable(make_recipe("lora", target_modules=("qkv_proj", "gate_proj")))


def test_a_model_without_adapters_is_rejected(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint)
    with pytest.raises(ValueError, match="no language-model layer carries an adapter"):
        check_adapters_are_attached(model, RECIPES["lora"]())
    adapted = replace(RECIPES["lora"](), train_language=False, train_vision=True)
    with pytest.raises(
        ValueError, match="12 layers of the CLIP tower that would learn carry no adapter"
    ):
        check_adapters_are_attached(model, adapted)


def test_missing_values_of_a_supervised_field_are_counted(
    collator: CompletionCollator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = product_rows(4)
    for row, price in zip(rows, (10.0, float("nan"), None, float("inf")), strict=True):
        row["full_price"] = price
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    samples = load_samples(tmp_path)
    assert [sample.record["full_price"] for sample in samples] == [10.0, None, None, None]
    with caplog.at_level("WARNING", "phi_vision"):
        checks.check_samples(collator, samples)
    assert caplog.messages[0].startswith("3 of 4 samples have no full_price, and the model learns")
    assert len(caplog.messages) == 1


def test_beyond_a_usual_size_only_long_texts_are_counted(
    collator: CompletionCollator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = product_rows(40)
    for place in (5, 25):
        rows[place]["title"] = "coat " * 500
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    samples = load_samples(tmp_path)
    exact = checks.check_samples(collator, samples)
    monkeypatch.setattr("phi_vision.data.dataset.MAX_CHECKED", 10)
    monkeypatch.setattr("phi_vision.data.dataset.RUN", 5)
    lengths = checks.check_samples(collator, samples, enough=2000)
    checked = [*range(5), *range(20, 25), 5, 25]
    assert [lengths[place] for place in checked] == [exact[place] for place in checked]
    others = set(range(40)) - set(checked)
    assert all(exact[place] < lengths[place] <= 2000 for place in others)
    limited = replace(collator, max_length=400)
    with pytest.raises(ValueError, match=f"2 of 40 samples .* 400 .*longest {max(exact)}"):
        checks.check_samples(limited, samples, enough=400)


def test_a_field_that_no_sample_has_is_rejected(
    collator: CompletionCollator, samples: list[Sample]
) -> None:
    empty = [replace(s, record={**s.record, "full_price": None}) for s in samples]
    with pytest.raises(ValueError, match=r"no sample has a full_price \(all are null or NaN\)"):
        checks.check_samples(collator, empty)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_weights_that_are_not_finite_are_rejected_by_name(
    make_recipe: MakeRecipe,
    tiny_checkpoint: Path,
    tmp_path: Path,
    value: float,
    quantization: str | None,
) -> None:
    model, processor = load_model(tiny_checkpoint)
    # A row of the vocabulary that no sample uses: the loss would not show it.
    name = "model.layers.1.mlp.down_proj.weight" if quantization else "model.embed_tokens.weight"
    model.get_parameter(name).data[-1, 0] = value
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    recipe = make_recipe("lora", model=str(tmp_path / "model"), quantization=quantization)
    with pytest.raises(ValueError, match=rf"damaged: {name} holds values that are not finite"):
        train(recipe)
    assert not recipe.output_dir.exists()


def lengthen(tiny_checkpoint: Path, folder: Path) -> Path:
    """A model whose original context ends after 100 tokens."""
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["original_max_position_embeddings"] = 100
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_few_samples_that_are_too_long_for_a_batch_are_left_out_with_a_count(
    make_recipe: MakeRecipe,
    tiny_checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = product_rows(20)
    rows[7]["title"] = "Wool " * 100
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    model = str(lengthen(tiny_checkpoint, tmp_path / "model"))
    recipe = make_recipe("lora", data=str(tmp_path), model=model, validation_fraction=0.0)
    with caplog.at_level("WARNING", "phi_vision"):
        assert len(checks.prepare(recipe).training) == 19
    assert "1 of 20 samples have more than 100 tokens ('p7' has " in caplog.text
    assert "--per-device-train-batch-size 1 trains them too" in caplog.text
    assert len(checks.prepare(replace(recipe, per_device_train_batch_size=1)).training) == 20
    rows[8]["title"] = rows[9]["title"] = "Silk " * 100
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="3 of 20 samples have more than 100 tokens"):
        checks.prepare(recipe)


def test_conversations_may_consist_of_their_replies(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    reply = "A long coat of grey wool with two pockets. " * 20
    talk = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": reply}]
    rows = [{"id": str(at), "messages": talk} for at in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    assert len(checks.prepare(make_recipe("lora", data=str(tmp_path))).training) == 4


def test_missing_values_of_an_optional_field_are_trained_as_its_phrase(
    tiny_checkpoint: Path, samples: list[Sample], caplog: pytest.LogCaptureFixture
) -> None:
    product = TEMPLATES["product"]
    answer = product.answer.replace("category}", "category?}").replace("number}", "number?}")
    template = replace(product, answer=answer, missing="none")
    collator = CompletionCollator(processor=load_processor(tiny_checkpoint), template=template)
    nothing = {"category3_code": None, "full_price": None}
    known = [*samples[:2], *(replace(s, record={**s.record, **nothing}) for s in samples[2:])]
    with caplog.at_level("INFO"):
        checks.check_samples(collator, known)
    assert "2 of 4 samples have no full_price: none" in caplog.text
    assert "answer null" not in caplog.text
    labels = collator(known)["labels"]
    texts = [collator.processor.tokenizer.decode(row[row != IGNORED]) for row in labels]
    assert "Category: none, Full Price: none" in texts[2]
    assert "none" not in texts[0]
    recipe = replace(RECIPES["lora"](), metric_for_best_model=None)
    first = replace(TEMPLATES["category-first"], answer="{category3_code:category?}, {title}")
    assert checks.best_metric(recipe, first)[0] == "eval_category3_code_overall"
