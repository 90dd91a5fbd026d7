"""Callbacks: checks stop at the right moment and name samples, parts or settings; each step is
logged with its speed; predictions are scored, images shuffled, the best weights kept."""

import errno
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerState

from phi_vision.data.collator import Batch, CompletionCollator, select_labelled
from phi_vision.data.dataset import load_samples
from phi_vision.data.packing import collate_packs
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES, Template, find_template
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.model.checkpoint import load_model
from phi_vision.training.adapters import TrainableModel, load_trainable, save_model
from phi_vision.training.callbacks import (
    StepCallback,
    StepCheck,
    check_gradients,
    choose_samples,
    explain_out_of_memory,
    find_broken_rows,
    generate_texts,
    learning_rates,
)
from phi_vision.training.gpus import read_machine
from phi_vision.training.recipes import RECIPES, Recipe
from phi_vision.training.setup import best_metric
from phi_vision.training.tracking.tracker import MACHINE_DEPENDENT
from phi_vision.training.trainer import train

MakeRecipe = Callable[..., Recipe]
NAN = float("nan")
PADDING = 0
NO_TRACKING: Any = None


@pytest.fixture
def samples(products: Path) -> list[Sample]:
    return load_samples(products)[:4]


@pytest.fixture
def trainable(make_recipe: MakeRecipe) -> TrainableModel:
    return load_trainable(make_recipe("lora"))


@pytest.fixture
def collator(trainable: TrainableModel) -> CompletionCollator:
    return CompletionCollator(processor=trainable.processor, template=TEMPLATES["product"])


def spoil_image(batch: Batch, *images: int) -> Batch:
    """Make images of a batch NaN; each is one crop and its global view."""
    for image in images:
        batch["pixel_values"][2 * image : 2 * image + 2] = NAN
    return batch


def test_a_trainable_part_without_gradient_is_named() -> None:
    model = nn.ModuleDict({"seen": nn.Linear(2, 1), "unseen": nn.Linear(2, 1)})
    model["seen"](torch.ones(1, 2)).sum().backward()
    with pytest.raises(ValueError, match=r"no gradient reached unseen\.bias, unseen\.weight"):
        check_gradients(model)
    check_gradients(model["seen"])


def test_the_zero_half_of_a_fresh_adapter_counts_as_one_with_the_other() -> None:
    layer = nn.ModuleDict({"lora_A": nn.Linear(2, 2), "lora_B": nn.Linear(2, 2, bias=False)})
    layer["lora_A"].requires_grad_(False).weight.requires_grad_(True)
    layer["lora_A"].weight.grad = torch.zeros(2, 2)
    layer["lora_B"].weight.grad = torch.ones(2, 2)
    check_gradients(nn.ModuleDict({"qkv_proj": layer}))


def test_a_tower_that_no_sample_uses_stops_after_the_first_step(
    make_recipe: MakeRecipe, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = [replace(sample, images=()) for sample in samples]
    monkeypatch.setattr("phi_vision.data.dataset.load_samples", lambda *_, **__: blind)
    with pytest.raises(ValueError, match=r"no gradient reached .*img_processor.*layers\.\*"):
        train(make_recipe("full", validation_fraction=0.0))


def test_the_guard_takes_the_names_of_samples_before_the_model_sees_them(
    trainable: TrainableModel, collator: CompletionCollator, samples: list[Sample]
) -> None:
    guard = StepCheck(trainable.model)
    trainable.model(**select_labelled(collator(samples))).loss.backward()
    assert guard.since_step == ["p0", "p1", "p2", "p3"]
    assert guard.describe().startswith("step 1, at a batch of 4 rows of ")


def test_a_broken_loss_names_the_samples_that_cause_it(
    trainable: TrainableModel, collator: CompletionCollator, samples: list[Sample]
) -> None:
    StepCheck(trainable.model)
    batch = spoil_image(select_labelled(collator(samples)), 1, 3)
    with pytest.raises(ValueError, match=r"nan in step 1: of the 4 rows .* only 'p1', 'p3' caused"):
        trainable.model(**batch)
    trainable.model.eval()
    with pytest.raises(ValueError, match=r"in the evaluation before step 1.*only 'p1', 'p3'"):
        trainable.model(**batch)


def test_a_broken_loss_of_packed_rows_names_the_row(
    trainable: TrainableModel, collator: CompletionCollator, samples: list[Sample]
) -> None:
    StepCheck(trainable.model)
    packs = [tuple(samples[:3]), tuple(samples[3:])]
    batch = spoil_image(select_labelled(collate_packs(collator, packs)), 1)
    with pytest.raises(ValueError, match=r"only 'p0, p1, p2' caused it; without pack"):
        trainable.model(**batch)


def test_a_loss_that_all_samples_break_is_not_laid_on_one(
    trainable: TrainableModel, collator: CompletionCollator, samples: list[Sample]
) -> None:
    StepCheck(trainable.model)
    batch = spoil_image(select_labelled(collator(samples)), 0, 1, 2, 3)
    with pytest.raises(ValueError, match=r"all of its samples .*'p0', 'p1', 'p2', 'p3'.*too large"):
        trainable.model(**batch)


def test_broken_weights_are_distinguished_from_broken_samples(
    trainable: TrainableModel, collator: CompletionCollator, samples: list[Sample]
) -> None:
    StepCheck(trainable.model)
    name, weight = next((n, w) for n, w in trainable.model.named_parameters() if w.requires_grad)
    weight.data[0, 0] = NAN
    with pytest.raises(ValueError, match=f"{name} holds values that are not finite.*learning_rate"):
        trainable.model(**select_labelled(collator(samples)))


def test_rows_are_found_in_selected_and_in_all_logits() -> None:
    labels = torch.tensor([[-100, 1, 0], [-100, -100, 1], [-100, 0, -100]])
    logits = torch.zeros(3, 3, 2)
    logits[1, 1] = NAN  # the position before the label
    logits[2, 1] = NAN  # predicts nothing that is learnt
    keep = torch.tensor([[True, True, False], [False, True, False], [True, False, False]])
    assert find_broken_rows({"labels": labels}, logits) == [1]
    assert find_broken_rows({"labels": labels, "logits_to_keep": keep}, logits[keep]) == [1]


@pytest.mark.parametrize(("name", "value"), [("loss", NAN), ("grad_norm", float("inf"))])
def test_figures_of_a_step_must_be_numbers(name: str, value: float) -> None:
    check, state = StepCheck(nn.Linear(1, 1)), TrainerState(global_step=3)
    check.on_log(None, state, None, logs={name: 0.5})
    check.since_step = [f"p{number}" for number in range(10)]
    with pytest.raises(ValueError, match=rf"the {name} is {value} at step 3 .*'p7' and 2 more"):
        check.on_log(None, state, None, logs={name: value})


def test_a_sample_that_breaks_the_loss_stops_the_training_and_leaves_the_checkpoint(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    collate = CompletionCollator.__call__
    seen: list[str] = []

    def spoil_the_second_epoch(self: CompletionCollator, samples: list[Sample]) -> Batch:
        names = [sample.id for sample in samples]
        seen.extend(names)
        batch = collate(self, samples)
        # The checks look at the first batch before the first epoch does.
        is_second = "p5" in names and seen.count("p5") == 3
        return spoil_image(batch, names.index("p5")) if is_second else batch

    monkeypatch.setattr(CompletionCollator, "__call__", spoil_the_second_epoch)
    recipe = make_recipe("lora", num_train_epochs=3.0, save_steps=1, eval_steps=1)
    with pytest.raises(ValueError, match=r"of the 8 rows in the batch only 'p5' caused it"):
        train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    last = max(line["step"] for line in lines)
    assert 2 <= last <= 3
    monkeypatch.undo()
    assert train(recipe, resume=True).steps == 6


def test_a_gradient_that_is_no_number_stops_before_anything_is_saved(
    make_recipe: MakeRecipe,
) -> None:
    recipe = make_recipe("full", max_steps=3, learning_rate=1e30, warmup_steps=0.0, save_steps=1)
    with pytest.raises(ValueError, match=r"learning_rate"):
        train(recipe)
    assert not (recipe.output_dir / "checkpoints" / "checkpoint-3").exists()


def test_lack_of_main_memory_names_the_plan_and_the_settings() -> None:
    recipe = replace(RECIPES["full"](), data="shop")
    with (
        pytest.raises(ValueError, match="out of memory in main memory in step 3") as caught,
        explain_out_of_memory(recipe, doing=lambda: "step 3"),
    ):
        torch.empty(1 << 55)
    words = str(caught.value)
    assert "`phi-vision plan RECIPE`" in words
    for setting in (
        "--per-device-train-batch-size 4 --gradient-accumulation-steps 2, --gradient-checkpointing",
        "adamw_8bit",
        "the recipe to lora",
    ):
        assert setting in words


def test_lack_of_memory_on_a_gpu_advises_only_what_is_not_yet_done(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    recipe = replace(
        RECIPES["qlora"](),
        output_dir=tmp_path,
        per_device_train_batch_size=1,
        gradient_checkpointing=True,
        pack_length=4096,
    )
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has …")
    with (
        pytest.raises(ValueError, match=r"on the GPU \(2.50 GiB more requested\)") as caught,
        explain_out_of_memory(recipe),
    ):
        raise error
    words = str(caught.value)
    assert f"phi-vision plan {tmp_path / 'recipe.yaml'}" in words
    assert "--pack-length to less than 4096" in words
    for done in ("accumulation", "checkpointing", "nf4"):
        assert done not in words


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_every_kind_of_lack_of_memory_is_explained(error: Exception) -> None:
    with pytest.raises(ValueError, match="out of memory"), explain_out_of_memory(RECIPES["lora"]()):
        raise error


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(RECIPES["lora"]()):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("inputs", "samples", "tokens"),
    [
        (
            {
                "input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]]),
                "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
            },
            2,
            5,
        ),
        (
            {
                "input_ids": torch.tensor([[5, 6, 7, 8, 9, 0, 0], [4, 4, 4, 4, 4, 4, 4]]),
                "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]]),
            },
            3,
            12,
        ),
    ],
    ids=["padded", "packed"],
)
def test_padding_is_no_token_and_packed_samples_are_counted_one_by_one(
    inputs: dict[str, torch.Tensor], samples: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 11.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    model, callback = CountedModel(), StepCallback(NO_TRACKING, RECIPES["lora"]())
    callback.on_train_begin(model=model)
    model(**inputs)
    speed = callback.measure_speed()
    assert (speed["samples_per_second"], speed["tokens_per_second"]) == (samples, tokens)


class CountedModel(nn.Module):
    """Has what a count needs: the padding, and inputs by name."""

    config = type("Config", (), {"pad_token_id": PADDING})

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return inputs["input_ids"]


def test_only_training_samples_count_as_throughput(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 12.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    monkeypatch.setattr("phi_vision.training.distributed.world_size", lambda: 2)
    model, callback = CountedModel(), StepCallback(NO_TRACKING, RECIPES["lora"]())
    callback.on_train_begin(model=model)
    ids = torch.tensor([[5, 6, 7], [8, 0, 0]])
    model(input_ids=ids)
    model(input_ids=ids)
    with torch.no_grad():
        model(input_ids=ids)
    model.eval()
    model(input_ids=ids)
    # Two passes of 2 samples and 4 tokens in two seconds, by two processes.
    assert callback.measure_speed() == {
        "samples_per_second": 4.0,
        "tokens_per_second": 8.0,
        "seconds": 2.0,
    }


def test_a_training_logs_speed_memory_and_every_rate(make_recipe: MakeRecipe) -> None:
    rates = {"train_projector": True, "projector_learning_rate": 1e-4}
    recipe = make_recipe("full", max_steps=2, validation_fraction=0.0, **rates)
    train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    for line in lines:
        assert line.keys() >= (MACHINE_DEPENDENT - {"seconds"}) - {
            key for key in MACHINE_DEPENDENT if "gpu" in key
        }
        # Each sample has an image of at least 13 tokens and some twenty words.
        assert line["tokens_per_second"] > 20 * line["samples_per_second"] > 0
        assert line["learning_rate_language"] == pytest.approx(30 * line["learning_rate_projector"])
        assert line["learning_rate"] in (
            line["learning_rate_language"],
            line["learning_rate_projector"],
        )
    assert (recipe.output_dir / "plots" / "loss.png").is_file()


def test_the_machine_is_read() -> None:
    figures = read_machine()
    assert 0 <= figures["cpu_percent"] <= 100
    assert 100 < figures["memory_mib"] < 100_000


def test_learning_rates_are_named_by_their_parameter_groups() -> None:
    decayed = {"name": "language", "lr": 0.0, "initial_lr": 1e-4}
    second = {"name": "language", "lr": 0.0, "initial_lr": 16e-4}
    vision = {"name": "vision", "lr": 0.0, "initial_lr": 1e-5}
    assert learning_rates([decayed, decayed]) == {}
    assert learning_rates([second, decayed, vision]) == {
        "learning_rate_language": 0.0,
        "learning_rate_language_fast": 0.0,
        "learning_rate_vision": 0.0,
    }
    decayed, second = {**decayed, "lr": 5e-5}, {**second, "lr": 8e-4}
    named = learning_rates([second, decayed])
    assert named == {"learning_rate_language": 5e-5, "learning_rate_language_fast": 8e-4}


def test_each_evaluation_is_logged_with_shuffled_images(
    make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe("full", max_steps=2, eval_steps=1, eval_samples=4)
    with caplog.at_level(logging.WARNING):
        train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    evaluations = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in evaluations] == [1, 2]
    for line in evaluations:
        assert line["model"].keys() == line["shuffled"].keys() >= {"parse_rate", "full_price_mae"}
        # A model this young predicts nothing that parses, which is no evidence.
        assert line["uses_image"] is None
        assert "0 of 4 samples have predictions that parse" in line["shuffled_image_check"]
    assert "SHUFFLED-IMAGE CHECK at step 1" in caplog.text


def test_the_worse_model_is_not_kept(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []
    monkeypatch.setattr("phi_vision.training.callbacks.save_model", lambda *a: saved.append(a[-1]))
    recipe = make_recipe("full", max_steps=6, eval_steps=1, learning_rate=0.3, warmup_steps=0.0)
    train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    losses = [line["validation_loss"] for line in lines if "is_best" in line]
    kept = [line["is_best"] for line in lines if "is_best" in line]
    assert kept == [loss < min([*losses[:at], float("inf")]) for at, loss in enumerate(losses)]
    assert len(saved) == sum(kept) < len(kept)


def best_of(out: Path, metric: str) -> list[tuple[bool, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["is_best"], line["model"][metric]) for line in lines if "is_best" in line]


def test_the_best_weights_can_be_chosen_by_a_metric_of_the_answers(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are dictated: a model this young gives none that could be read."""
    right = iter([1, 3, 2])  # of the panel of four; all are right about shuffled images

    def dictate(
        _: TrainableModel, template: Template, samples: list[Sample], **__: int
    ) -> list[str]:
        texts = [template.render(sample.record) for sample in samples]
        half = len(texts) // 2
        count = next(right)
        return [*texts[:count], *["?"] * (half - count), *texts[half:]]

    monkeypatch.setattr("phi_vision.training.callbacks.generate_texts", dictate)
    recipe = make_recipe(
        "full", max_steps=3, eval_steps=1, eval_samples=4, metric_for_best_model="title_exact"
    )
    run = train(recipe)
    assert best_of(run.folder, "title_exact") == [(True, 0.25), (True, 0.75), (False, 0.5)]
    assert run.best == 0.75


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"template": "category-first"}, ("eval_category3_code_accuracy", True)),
        ({"template": "product"}, ("eval_loss", False)),
        ({"template": "category-first", "eval_samples": 0}, ("eval_loss", False)),
        (
            {"template": "category-first", "metric_for_best_model": "validation_loss"},
            ("eval_loss", False),
        ),
        (
            {"template": "product", "metric_for_best_model": "title_exact"},
            ("eval_title_exact", True),
        ),
    ],
)
def test_answers_that_begin_with_a_category_are_selected_by_it(
    changes: dict[str, object], expected: tuple[str, bool], make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe("lora", **{"eval_samples": 4, **changes})
    assert best_metric(recipe, find_template(str(recipe.template))) == expected


def test_by_default_the_trainer_keeps_what_the_category_selects(
    make_recipe: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe("lora", max_steps=2, eval_steps=1, eval_samples=2)
    with caplog.at_level("INFO"):
        run = train(replace(recipe, template="category-first"))
    assert "the weights with the best category3_code_accuracy are kept" in caplog.text
    accuracies = [value for _, value in best_of(run.folder, "category3_code_accuracy")]
    assert run.best == max(accuracies)


def test_a_metric_of_an_absent_field_selects_no_checkpoint(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    wording = tmp_path / "template.yaml"
    wording.write_text("question: What is it?\nanswer: 'Product: {title}'\n")
    recipe = replace(
        make_recipe("lora", eval_samples=2, template=str(wording)),
        metric_for_best_model="full_price_mae",
    )
    with pytest.raises(ValueError, match="full_price_mae, but predictions"):
        train(recipe)


def test_a_run_that_gets_no_better_is_stopped_and_stays_so(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        "full",
        num_train_epochs=20.0,
        eval_steps=1,
        learning_rate=0.3,
        warmup_steps=0.0,
        early_stopping_patience=2,
        save_steps=40,
    )
    run = train(recipe)
    lines = [
        json.loads(line) for line in (recipe.output_dir / "log.jsonl").read_text().splitlines()
    ]
    is_best = [line["is_best"] for line in lines if "is_best" in line]
    assert run.steps == len(is_best) < 40
    assert is_best[-3:] == [True, False, False]
    assert train(recipe, resume=True) == run


def test_answers_come_in_the_order_of_the_samples(make_recipe: MakeRecipe, products: Path) -> None:
    recipe = make_recipe("lora", per_device_train_batch_size=1)
    trainable = load_trainable(recipe)
    samples = load_samples(products)[:3]
    template = TEMPLATES["product"]
    answers = generate_texts(trainable, template, samples, batch_size=2)
    assert answers == [
        generate_texts(trainable, template, [sample], batch_size=1)[0] for sample in samples
    ]


def test_shuffled_images_need_no_text_of_their_own(
    trainable: TrainableModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def count(_: object, __: object, requests: Sequence[GenerationRequest], **___: int) -> object:
        counts.append(len(requests))
        return [Generation(str(place), (), ()) for place in range(len(requests))]

    monkeypatch.setattr("phi_vision.training.callbacks.generate", count)
    shuffled = [replace(samples[1], id="other"), samples[0]]
    template = TEMPLATES["product"]
    texts = generate_texts(trainable, template, [*samples[:2], *shuffled], batch_size=2)
    assert (counts, texts) == ([2], ["0", "1", "1", "0"])


def test_a_save_that_fails_leaves_the_former_weights(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("lora")
    trainable = load_trainable(recipe)
    save_model(trainable, tmp_path / "model")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(trainable.processor), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(trainable, tmp_path / "model")
    monkeypatch.undo()
    load_model(tmp_path / "model")
    save_model(trainable, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == ["model"]


@pytest.mark.parametrize(("count", "chosen"), [(3, "ace"), (9, "abcdef"), (0, "")])
def test_examined_samples_are_spread_over_all(count: int, chosen: str) -> None:
    samples = [Sample(id=name, group=name, images=(), record={}) for name in "abcdef"]
    assert "".join(sample.id for sample in choose_samples(samples, count)) == chosen
