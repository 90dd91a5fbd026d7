"""docs/guide.md runs as written, on a small scale; docs/mistakes.md shows what was measured."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import FENCE, type_commands

from benchmarks import baseline_loop, broken_recipes, leaks, public_recipe
from benchmarks.baseline_loop import start_full, start_lora
from benchmarks.full_size import full_size_config
from benchmarks.public_recipe import RESULTS, TABLES
from benchmarks.tables import Table
from phi_vision.cli.main import command_parser
from phi_vision.data.collator import IGNORED, CompletionCollator
from phi_vision.data.dataset import load_samples
from phi_vision.data.samples import Sample
from phi_vision.data.template import PRODUCT
from phi_vision.model.checkpoint import SMALL, load_processor
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.synthetic.catalog import write_catalog
from phi_vision.training.adapters import check_adapter_targets
from phi_vision.training.setup import check_images, check_labels

DOCS = Path(__file__).parents[1] / "docs"
GUIDE = (DOCS / "guide.md").read_text(encoding="utf-8")
MISTAKES = (DOCS / "mistakes.md").read_text(encoding="utf-8")
SMALLER = {
    "--rows 3040": "--rows 60",
    "--num-train-epochs 2": "--max-steps 2",
    "--per-device-train-batch-size 16": "--per-device-train-batch-size 4",
    "--eval-samples 64": "--eval-samples 2",
    "--split test": "--split test --limit 4",
}
"""What the guide types -> what the test does instead."""

MEASURED = {
    name: Table(columns=table["columns"], rows=table["rows"])
    for name, table in json.loads(RESULTS.read_text(encoding="utf-8")).items()
}
FACTS = [
    f"{broken_recipes.PADDED_TO}",
    f"crops of {public_recipe.OFFICIAL_CROP} pixels",
    f"rank {baseline_loop.RANK}",
    f"{leaks.RANDOM_SPLITS} splits",
    f"at most {baseline_loop.MAX_NEW_TOKENS} new tokens",
    f"{public_recipe.FEW} products, {public_recipe.MANY_EPOCHS} epochs",
    "642 training products, 158 test products of other styles",
    "1,024 is the default of TRL",
    "wrong by 100 %",
]
"""Every number in the prose of docs/mistakes.md; those of a table are measured with it."""


# docs/guide.md


def test_the_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but what needs the hub, an account or a GPU, which stands in fences of `sh`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for language, script in FENCE.findall(smaller(GUIDE)):
        if language == "bash":
            type_commands(script)
        elif language == "python":
            exec(compile(script, "guide.md", "exec"), {})
    for name in re.findall(r"`(runs/guide/[\w./-]+)`", GUIDE):
        assert Path(name).exists(), name
    # What `wandb sync` is given.
    assert list(Path("runs/guide/run/wandb").glob("offline-run-*"))


def smaller(page: str) -> str:
    """Write the guide's commands for a small catalog and a few steps."""
    for large, small in SMALLER.items():
        assert large in page, f"the guide no longer types {large}"
        page = page.replace(large, small)
    return page


def test_every_option_of_the_guide_exists() -> None:
    offered = {
        option
        for command in ("prepare", "sample", "plan", "train", "evaluate", "predict", "export")
        for action in command_parser(command)._actions
        for option in action.option_strings
    }
    assert set(re.findall(r"--[a-z][a-z-]+", GUIDE)) <= offered


# docs/mistakes.md


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_the_measured_tables(name: str) -> None:
    assert MEASURED[name].as_markdown() in MISTAKES
    assert MEASURED[name].put_into(MISTAKES) == MISTAKES


def test_no_number_of_the_page_goes_unchecked() -> None:
    text = FENCE.sub("", MISTAKES)
    for table in MEASURED.values():
        text = text.replace(table.as_markdown(), "")
    text = re.sub(r"`[^`]*`|Phi-3(-Vision)?", "", text.replace("\n", " "))
    for fact in sorted(FACTS, key=len, reverse=True):
        assert fact in text, fact
        text = text.replace(fact, "")
    assert re.findall(r"\S*\d\S*", text) == []


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("mistakes") / "catalog"
    write_catalog(folder, rows=24, seed=0)
    return load_samples(folder)


def test_an_image_has_as_many_tokens_as_documented(samples: list[Sample]) -> None:
    small = load_processor(SMALL)
    counted = {"4 crops": 4, "16 crops": 16}
    for place, crops in enumerate(counted.values(), start=1):
        cutter = Phi3VImageProcessor(num_crops=crops, crop_size=public_recipe.OFFICIAL_CROP)
        processor = Phi3VProcessor(cutter, small.tokenizer)
        collator = CompletionCollator(processor=processor, template=PRODUCT)
        tokens = {collator.count_tokens(sample)[0] for sample in samples}
        assert int(MEASURED["cutting"].rows[0][place]) in tokens
    collator = CompletionCollator(processor=small, template=PRODUCT)
    shown = {collator.count_tokens(sample)[0] for sample in samples}
    assert int(MEASURED["image"].rows[0][2]) in shown


def test_the_names_match_as_many_layers_as_documented() -> None:
    with torch.device("meta"):
        model = Phi3VForCausalLM(full_size_config(load_processor(SMALL).tokenizer))
    for row, is_clip in ((0, False), (1, True)):
        for place, targets in enumerate((broken_recipes.CLIP_NAMES, public_recipe.LORA_TARGETS), 1):
            hits = broken_recipes.count_hits(model, targets, is_clip=is_clip)
            assert MEASURED["targets"].rows[row][place] == str(hits)


def test_words_for_an_image_hold_no_image_token_and_are_rejected(samples: list[Sample]) -> None:
    setup = start_full(PRODUCT)
    batch = broken_recipes.recipe_rows(setup, samples[:2])
    assert batch["input_ids"].shape == (2, broken_recipes.PADDED_TO)
    assert not (batch["input_ids"] == setup.processor.image_token_id).any()
    refused(
        lambda: check_images(batch, samples[:2], setup.processor),
        "images but the batch has no pixel_values",
    )
    refused(lambda: check_labels(batch), "labels are on padding, so the model would")


def test_a_padded_row_is_labelled_everywhere_but_on_its_image(samples: list[Sample]) -> None:
    setup = start_full(PRODUCT)
    batch = broken_recipes.padded_rows(setup, samples[:2])
    is_image = batch["input_ids"] == setup.processor.image_token_id
    assert torch.equal(batch["labels"] == IGNORED, is_image)


def test_adapters_in_clip_alone_have_no_gradient_without_an_image(samples: list[Sample]) -> None:
    setup = start_lora(PRODUCT, broken_recipes.CLIP_NAMES)
    loss = baseline_loop.compute_loss(setup.model, broken_recipes.word_rows(setup, samples[:2]))
    assert not loss.requires_grad
    refused(
        lambda: check_adapter_targets(start_full(PRODUCT).model, broken_recipes.CLIP_NAMES),
        "reach no language-model layer, only the vision tower",
    )


def test_a_teacher_forced_answer_is_the_prediction_after_each_true_token(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        broken_recipes, "FAST", torch.float32
    )  # In bf16 a batch may tip a close guess.
    setup = start_full(PRODUCT)
    fed = broken_recipes.read_fed_answers(setup, broken_recipes.shown_rows, samples[:3])
    for sample, said in zip(samples[:3], fed, strict=True):
        batch = setup.collator([sample])
        with torch.inference_mode():
            logits = setup.model(
                input_ids=batch["input_ids"],
                pixel_values=batch["pixel_values"],
                image_sizes=batch["image_sizes"],
            ).logits
        guesses = logits[0, :-1].argmax(dim=-1)[batch["labels"][0, 1:] != IGNORED]
        assert said == setup.processor.decode(guesses, skip_special_tokens=True)


def refused(check: Callable[[], None], words: str) -> None:
    """Expect a guard to refuse in words of which the page quotes the beginning."""
    with pytest.raises(ValueError, match=re.escape(words)):
        check()
    assert words in MISTAKES.replace("\n", " "), f"the page does not quote {words!r}"
