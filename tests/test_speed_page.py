"""docs/speed.md: its derived figures are those of the formulas, its commands and parts exist."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.full_size import full_size_config
from benchmarks.gpu.__main__ import PARTS as GPU_PARTS
from benchmarks.gpu.costs import Costs, StepShape
from benchmarks.gpu.model import RECIPE
from benchmarks.growth import AXES
from benchmarks.speed import PARTS, TABLES
from phi_vision.model.checkpoint import SMALL, resolve
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.training.gpus import GPUS

PAGE = (Path(__file__).parents[1] / "docs" / "speed.md").read_text(encoding="utf-8")
TEXT, SUPERVISED, CONTEXT = 60, 30, 832
PRODUCT_RATE = 750e12
COPY_RATES = (3.0e12, 4.3e12)


@pytest.fixture(scope="module")
def costs() -> Costs:
    return Costs(full_size_config(AutoTokenizer.from_pretrained(resolve(SMALL))), RECIPE.r or 0)


@pytest.fixture(scope="module")
def shapes() -> list[StepShape]:
    found = []
    for side in (2, 4):
        tokens = Phi3VImageProcessor().count_tokens(336 * side, 336 * side)
        length, crops = tokens + TEXT, side**2 + 1
        found.append(
            StepShape(
                rows=1,
                length=length,
                crops=crops,
                image_tokens=tokens,
                supervised=SUPERVISED,
                last=SUPERVISED,
            )
        )
    return found


def cells(first: str) -> list[str]:
    """Take the cells after the first of a table's row."""
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")[1:]]


def test_flops_of_a_sample_are_those_of_the_formulas(costs: Costs, shapes: list[StepShape]) -> None:
    assert cells("TFLOP per sample") == [
        f"{crops} crops, {shape.length} tokens"
        for crops, shape in zip((4, 16), shapes, strict=True)
    ]
    rows = {
        "tower, forward": lambda s: costs.tower(s.crops),
        "decoder's matrices, forward": costs.decoder,
        "attention, forward": costs.attention,
        "adapters, forward": costs.adapters,
        "LoRA step": costs.lora_step,
        "full step": costs.full_step,
        "recomputed by `--gradient-checkpointing`, at most": lambda s: (
            costs.decoder(s) + costs.attention(s) + costs.adapters(s)
        ),
    }
    for name, flops in rows.items():
        assert cells(name) == [f"{flops(shape) / 1e12:.2f}" for shape in shapes], name


def test_bounds_of_samples_per_second_follow_from_them(
    costs: Costs, shapes: list[StepShape]
) -> None:
    lora, full = (
        [PRODUCT_RATE / step(shape) for shape in shapes]
        for step in (costs.lora_step, costs.full_step)
    )
    assert cells("LoRA, at the rate of products") == [f"{rate:.1f}" for rate in lora]
    assert cells("LoRA, at half of it") == [f"{rate / 2:.1f}" for rate in lora]
    assert cells("full, at the rate of products") == [f"{rate:.1f}" for rate in full]
    assert f"an MFU of {50 * PRODUCT_RATE / GPUS['H100'].bf16:.0f} %" in PAGE


def test_bytes_of_a_token_are_those_of_the_formulas(costs: Costs) -> None:
    for rows in (1, 8, 32, 64):
        size = costs.token_bytes(rows, CONTEXT)
        expected = [f"{size / 1e9:.2f}"]
        for rate in COPY_RATES:
            expected += [f"{1e3 * size / rate:.2f} ms", f"{rows * rate / size:,.0f}"]
        assert cells(str(rows)) == expected
    assert f"({costs.token_bytes(0, 0) / 1e9:.2f} GB) and {costs.cache_bytes:,} bytes" in PAGE


def test_shares_in_the_prose_follow_from_them(costs: Costs, shapes: list[StepShape]) -> None:
    shape, step = shapes[0], costs.lora_step(shapes[0])
    recomputed = costs.decoder(shape) + costs.attention(shape) + costs.adapters(shape)
    prompt = costs.prefill(replace(shape, last=None))
    for words in (
        f"up to {100 * recomputed / step:.0f} % more FLOPs of a LoRA step",
        f"the tower is {100 * costs.tower(shape.crops) / step:.0f} % of a LoRA step",
        f"{prompt / 1e12:.2f} TFLOP a row",
        f"600 TFLOP/s {64 * prompt / 600e12:.2f} s, three quarters",
        f"rank {RECIPE.r}",
    ):
        assert words in PAGE
    written = 30 * costs.token_bytes(64, CONTEXT) / COPY_RATES[0]
    assert 64 * prompt / 600e12 / (64 * prompt / 600e12 + written) == pytest.approx(0.75, abs=0.02)


def test_every_part_is_explained() -> None:
    for part in (*PARTS, *TABLES, *GPU_PARTS):
        assert f"`{part}`" in PAGE, part
    assert "over tokens, crops, batch, samples and clients" in PAGE
    assert list(AXES) == ["tokens", "crops", "batch", "samples", "clients"]


def test_wheels_are_those_of_the_constraints() -> None:
    constraints = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8")
    wheels = re.findall(r"[\w-]+==[\d.]+", PAGE)
    assert wheels
    pinned = {line.strip().lower().replace("_", "-") for line in constraints.splitlines()}
    assert [wheel for wheel in wheels if wheel not in pinned] == []
