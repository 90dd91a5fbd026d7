"""The cost of each mistake of the public recipe: the tables of `docs/mistakes.md`.

    phi-vision sample --rows 800 --seed 0 --out runs/mistakes
    OMP_NUM_THREADS=1 python -m benchmarks.public_recipe runs/mistakes

Trains phi-vision-small correctly and with one mistake at a time, on the same samples for as many
steps, and writes every table to `benchmarks/public_recipe.json` and into the page: about 20 minutes
of one core. `--only NAME ...` measures some tables again and keeps the others.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch

from benchmarks.ablation_runs import AblationRuns, category_accuracy, price_errors
from benchmarks.baseline_loop import (
    BATCH_SIZE,
    generate,
    learn,
    mean_loss,
    start_full,
)
from benchmarks.broken_recipes import (
    CLIP_NAMES,
    PADDED_TO,
    count_hits,
    count_moved,
    label_shares,
    shown_prompts,
    shown_rows,
)
from benchmarks.dropped_rows import count_losses
from benchmarks.full_size import full_size_config
from benchmarks.leaks import image_features, measure_leak
from benchmarks.tables import Table, as_percent, as_share, lay_out
from phi_vision.data.collator import CompletionCollator
from phi_vision.data.template import PRODUCT, TEMPLATES
from phi_vision.model.checkpoint import SMALL, load_processor
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.recipes import LORA_TARGETS

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "mistakes.md"
OFFICIAL_CROP, OFFICIAL_STOP = 336, 2
FEW, MANY_EPOCHS = 160, 12
LABELLED = 80


def measure_rows(ablation_runs: AblationRuns) -> Table:
    """A corrupted export: rows lost by dropping failures, and by `phi-vision prepare`."""
    columns = {}
    methods = ("drop what fails", "prepare")
    for name, loss in zip(methods, count_losses(ablation_runs.folder), strict=True):
        columns[name] = [
            f"{loss.lost} of {loss.repairable}",
            f"{loss.kept} of {loss.irreparable}",
        ]
    names = ["repairable rows lost", "unusable rows kept"]
    return lay_out(names, columns)


def measure_image(ablation_runs: AblationRuns) -> Table:
    """The image's tag as words, and as the image: same steps, same labels."""
    processor = load_processor(SMALL)
    shown = median(count_image_tokens(ablation_runs, processor))
    columns = []
    for recipe, tokens in (("words", 0.0), ("right", shown)):
        trained = ablation_runs.trained(recipe)
        answers = trained.answer(ablation_runs.held_out)
        elsewhere = trained.answer(ablation_runs.shuffled)
        columns.append(
            [
                f"{tokens:.0f}",
                f"{trained.losses[0]:.1f}, then {fmean(trained.losses[-10:]):.2f}",
                f"{len(set(answers))} of {len(answers)}",
                as_share(category_accuracy(answers, ablation_runs.held_out)),
                as_share(category_accuracy(elsewhere, ablation_runs.held_out)),
                as_percent(median(price_errors(answers, ablation_runs.held_out))),
            ]
        )
    names = [
        "image tokens",
        "loss per completion token, first and last",
        "distinct predictions",
        "category accuracy",
        "category accuracy, shuffled images",
        "median price error",
    ]
    return lay_out(names, {"tag as text": columns[0], "image shown": columns[1]})


def measure_fed(ablation_runs: AblationRuns) -> Table:
    """Predictions from a pass that contains the true answer, and generated predictions."""
    columns = {}
    for recipe, name in (("words", "blind model"), ("right", "sighted model")):
        trained = ablation_runs.trained(recipe)
        for how, answers in (
            ("teacher forcing", trained.read_fed(ablation_runs.held_out)),
            ("generated", trained.answer(ablation_runs.held_out)),
        ):
            columns[f"{name}, {how}"] = [
                as_share(category_accuracy(answers, ablation_runs.held_out)),
                as_percent(median(price_errors(answers, ablation_runs.held_out))),
            ]
    return lay_out(["category accuracy", "median price error"], columns)


def measure_supervision(ablation_runs: AblationRuns) -> Table:
    """All positions labelled, padding included, and only the answers."""
    columns = {}
    for recipe, name in (("padded", f"all {PADDED_TO} tokens"), ("right", "completion only")):
        trained = ablation_runs.trained(recipe)
        setup = trained.setup
        answers = trained.answer(ablation_runs.held_out)
        columns[name] = [
            *map(as_percent, label_shares(setup, recipe, ablation_runs.training[:LABELLED])),
            f"{fmean(trained.losses[-10:]):.2f}",
            f"{mean_loss(setup, partial(shown_rows, setup), ablation_runs.held_out):.2f}",
            as_share(category_accuracy(answers, ablation_runs.held_out)),
            as_percent(median(price_errors(answers, ablation_runs.held_out))),
        ]
    names = [
        "labels on padding",
        "labels on the prompt",
        "labels on the completion",
        "last logged loss",
        "loss per completion token, held out",
        "category accuracy",
        "median price error",
    ]
    return lay_out(names, columns)


def measure_cutting(ablation_runs: AblationRuns) -> Table:
    """Answers left when rows are cut at a length, at the official crop size."""
    columns = {}
    for crops in (4, 16):
        cutter = Phi3VImageProcessor(num_crops=crops, crop_size=OFFICIAL_CROP)
        processor = Phi3VProcessor(cutter, load_processor(SMALL).tokenizer)
        images = count_image_tokens(ablation_runs, processor)
        left = [
            f"{sum(image < limit for image in images)} of {len(images)}"
            for limit in (512, 1024, 2048)
        ]
        columns[f"{crops} crops"] = [f"{median(images):.0f}", *left]
    names = [
        "tokens per image, median",
        "rows with all image tokens at 512",
        "at 1,024",
        "at 2,048",
    ]
    return lay_out(names, columns)


def measure_targets(ablation_runs: AblationRuns) -> Table:
    """Adapters on names that only CLIP has, and on the layers of the language model."""
    with torch.device("meta"):
        config = full_size_config(load_processor(SMALL).tokenizer)
        full_size = Phi3VForCausalLM(config)
    columns = {}
    for recipe, targets in (("clip", CLIP_NAMES), ("lora", LORA_TARGETS)):
        trained = ablation_runs.trained(recipe)
        setup = trained.setup
        answers = trained.answer(ablation_runs.held_out)
        moved, adapters = count_moved(setup, ablation_runs.training[:BATCH_SIZE])
        columns[", ".join(targets)] = [
            str(count_hits(full_size, targets, is_clip=False)),
            str(count_hits(full_size, targets, is_clip=True)),
            f"{moved} of {adapters}",
            f"{mean_loss(setup, partial(shown_rows, setup), ablation_runs.held_out):.2f}",
            as_share(category_accuracy(answers, ablation_runs.held_out)),
        ]
    names = [
        "language-model layers hit, 4.15 B",
        "CLIP layers hit, 4.15 B",
        "adapter matrices with a gradient, tag as text",
        "loss per completion token, held out",
        "category accuracy",
    ]
    return lay_out(names, columns)


def measure_split(ablation_runs: AblationRuns) -> Table:
    """A random split by row, and one by style; predicted by the nearest training image."""
    everything = [*ablation_runs.training, *ablation_runs.held_out]
    features = image_features(everything)
    columns = {}
    for name, whole in (("random rows", False), ("grouped by style", True)):
        leak = measure_leak(everything, features, whole=whole)
        columns[name] = [
            as_percent(leak.known),
            as_percent(leak.price_error),
            as_share(leak.category),
        ]
    names = [
        "test rows whose title and price are in training",
        "median price error, nearest neighbour",
        "category accuracy, nearest neighbour",
    ]
    return lay_out(names, columns)


def measure_prompt(ablation_runs: AblationRuns) -> Table:
    """The correct model, prompted as in training and otherwise."""
    trained = ablation_runs.trained("right")
    blanks = replace(PRODUCT, layout="walkthrough")
    columns = {}
    for name, template in (
        ("other line breaks", blanks),
        ("walkthrough prompt", TEMPLATES["walkthrough"]),
        ("training prompt", PRODUCT),
    ):
        setup = replace(trained.setup, template=template)
        answers, _ = generate(setup, shown_prompts(setup, ablation_runs.held_out))
        columns[name] = [
            as_share(fmean(PRODUCT.parse(text) is not None for text in answers)),
            as_share(category_accuracy(answers, ablation_runs.held_out)),
            as_percent(median(price_errors(answers, ablation_runs.held_out))),
        ]
    return lay_out(["parse rate", "category accuracy", "median price error"], columns)


def measure_stop(ablation_runs: AblationRuns) -> Table:
    """The correct model, stopped at the token of the official config and at its own."""
    setup = ablation_runs.trained("right").setup
    rows = shown_prompts(setup, ablation_runs.held_out)
    columns = {}
    for name, stops in (("</s> only", OFFICIAL_STOP), ("own stop tokens", None)):
        answers, lengths = generate(setup, rows, **({"eos_token_id": stops} if stops else {}))
        columns[name] = [
            f"{median(lengths):.0f}",
            as_share(fmean(PRODUCT.parse(text) is not None for text in answers)),
        ]
    return lay_out(["generated tokens, median", "parse rate"], columns)


def measure_checkpoint(ablation_runs: AblationRuns) -> Table:
    """The weights kept of one run by three criteria; few samples, many epochs."""
    setup = start_full(PRODUCT)
    seen: list[tuple[float, float, float]] = []
    weights: list[dict[str, torch.Tensor]] = []

    def look(epoch: int) -> None:
        answers, _ = generate(setup, shown_prompts(setup, ablation_runs.validation))
        seen.append(
            (
                mean_loss(setup, partial(shown_rows, setup), ablation_runs.training[:FEW]),
                mean_loss(setup, partial(shown_rows, setup), ablation_runs.validation),
                median(price_errors(answers, ablation_runs.validation)),
            )
        )
        state = setup.model.state_dict()
        weights.append({name: weight.clone() for name, weight in state.items()})

    few = ablation_runs.training[:FEW]
    learn(setup, partial(shown_rows, setup), few, epochs=MANY_EPOCHS, after_epoch=look)
    columns = {}
    for place, name in enumerate(("training loss", "validation loss", "validation price error")):
        chosen = min(range(len(seen)), key=lambda epoch, by=place: seen[epoch][by])  # type: ignore[misc]
        setup.model.load_state_dict(weights[chosen])
        answers, _ = generate(setup, shown_prompts(setup, ablation_runs.test))
        columns[f"lowest {name}"] = [
            str(chosen + 1),
            f"{seen[chosen][0]:.2f}",
            f"{seen[chosen][1]:.2f}",
            as_share(category_accuracy(answers, ablation_runs.test)),
            as_percent(median(price_errors(answers, ablation_runs.test))),
        ]
    names = ["epoch", "training loss", "validation loss", "test category accuracy", "test: price"]
    return lay_out([*names[:-1], "test median price error"], columns)


def measure_together(ablation_runs: AblationRuns) -> Table:
    """The public recipe unchanged: its monitor's figures, and the real ones."""
    columns = {}
    for recipe, name in (("recipe", "public recipe"), ("right", "phi-vision")):
        trained = ablation_runs.trained(recipe)
        fed, answers = (f(ablation_runs.held_out) for f in (trained.read_fed, trained.answer))
        columns[name] = [
            f"{trained.losses[0]:.1f}, then {fmean(trained.losses[-10:]):.2f}",
            as_percent(median(price_errors(fed, ablation_runs.held_out))),
            as_percent(median(price_errors(answers, ablation_runs.held_out))),
            as_share(category_accuracy(answers, ablation_runs.held_out)),
            as_share(
                category_accuracy(trained.answer(ablation_runs.shuffled), ablation_runs.held_out)
            ),
            f"{len(set(answers))} of {len(answers)}",
        ]
    names = [
        "logged loss, first and last",
        "median price error, teacher forcing",
        "median price error",
        "category accuracy",
        "category accuracy, shuffled images",
        "distinct predictions",
    ]
    return lay_out(names, columns)


def count_image_tokens(ablation_runs: AblationRuns, processor: Phi3VProcessor) -> list[int]:
    """Count the tokens of each training image without decoding it."""
    collator = CompletionCollator(processor=processor, template=PRODUCT)
    return [collator.count_tokens(sample)[0] for sample in ablation_runs.training]


TABLES: dict[str, Callable[[AblationRuns], Table]] = {
    "rows": measure_rows,
    "image": measure_image,
    "fed": measure_fed,
    "supervision": measure_supervision,
    "cutting": measure_cutting,
    "targets": measure_targets,
    "split": measure_split,
    "prompt": measure_prompt,
    "stop": measure_stop,
    "checkpoint": measure_checkpoint,
    "together": measure_together,
}
"""Name -> measurement; the sections of the page, in its order."""


def main() -> None:
    """Measure, print and store the tables."""
    parser = argparse.ArgumentParser(description="Measure the mistakes of the public recipe.")
    parser.add_argument("catalog", type=Path, help="folder written by phi-vision sample")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    options = parser.parse_args()
    ablation_runs = AblationRuns.open(options.catalog)
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in options.only:
        table = TABLES[name](ablation_runs)
        print(f"{name}\n{table.as_markdown()}", flush=True)
        stored[name] = {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}
        text = json.dumps({each: stored[each] for each in TABLES if each in stored}, indent=1)
        RESULTS.write_text(text + "\n", encoding="utf-8")
        PAGE.write_text(table.put_into(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
