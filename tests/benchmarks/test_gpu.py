"""The benchmark for a GPU, with a tiny model on the CPU: parts, errors, formulas."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.full_size import full_size_config
from benchmarks.gpu.__main__ import PARTS, main, run
from benchmarks.gpu.costs import Costs, StepShape, shape_of
from benchmarks.gpu.model import RECIPE, SharedModel
from benchmarks.gpu.session import Session, known_rate
from benchmarks.gpu.steps import kind_of
from phi_vision.training.adapters import select_trained_parts
from phi_vision.training.memory import BatchShape, Setting, training_cost
from phi_vision.training.recipes import Recipe, full

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shared() -> SharedModel:
    return SharedModel(CPU, is_tiny=True)


def make_session(folder: Path) -> Session:
    return Session(folder, 120.0, time.perf_counter(), is_tiny=True)


def test_every_part_leaves_figures_and_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line for line in lines if "error" in line or "skipped" in line] == []
    for part in ("machine", "ceilings", *PARTS):
        figures = [
            line.keys() - {"part", "at", "seconds"} for line in lines if line["part"] == part
        ]
        assert any(figures), part
    assert "qlora" in done.stdout.partition("part           figures")[2]
    (profile,) = tmp_path.glob("profile_*.txt")
    assert "aten::mm" in profile.read_text()


def test_a_part_that_fails_or_overruns_leaves_its_error_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(session: Session, _: SharedModel) -> None:
        session.add(samples_s=1.0)
        raise RuntimeError("a kernel is missing")

    def overrun(_: Session, __: SharedModel) -> None:
        time.sleep(60)

    def lack_memory(session: Session, _: SharedModel) -> None:
        for rows in (1, 2):
            with session.attempt(rows=rows):
                raise torch.OutOfMemoryError

    parts = {"train": (fail, 60.0), "full": (overrun, 0.3), "qlora": (lack_memory, 60.0)}
    for name, part in parts.items():
        monkeypatch.setitem(PARTS, name, part)
    session = make_session(tmp_path)
    run(session, ["train", "full", "qlora", "model"])
    errors = [(line["part"], line["error"]) for line in session.lines if "error" in line]
    assert errors == [
        ("train", "RuntimeError: a kernel is missing"),
        ("full", "stopped after 3 s"),
        ("qlora", "out of memory"),
        ("qlora", "out of memory"),
    ]
    assert any(line["part"] == "model" and "weights" in line for line in session.lines)


def test_parts_without_time_are_skipped_and_listed(tmp_path: Path) -> None:
    session = Session(tmp_path, 5.0, time.perf_counter(), is_tiny=True)
    session.run("train", lambda _: None, 30)
    assert session.lines[-1]["part"] == "train"
    assert session.lines[-1]["skipped"] == "no time left"


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 3090", 71),
        ("Tesla V100-PCIE-16GB", 0),
        ("Unheard Of", 0),
    ],
)
def test_the_rate_of_a_known_gpu_is_that_of_its_data_sheet(name: str, tflops: float) -> None:
    assert known_rate(name) == tflops * 1e12


def test_an_unknown_part_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--only", "trian"])
    assert "invalid choice: 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_flops_of_a_step_are_those_that_torch_counts(method: str) -> None:
    shared = SharedModel(CPU, is_tiny=True)
    recipe = replace(RECIPE, lora_dropout=0.0) if method == "lora" else full()
    model: Any = select_trained_parts(shared.model, recipe, torch.bfloat16).train()
    for module in model.modules():  # products that the counter sees
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation_internal = "eager"
    inputs = shared.to_device(shared.batch(4, 2))
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        model(**inputs, use_cache=False).loss.backward()
    step = shared.costs.lora_step if method == "lora" else shared.costs.full_step
    assert step(shape_of(inputs, shared.config), is_causal=False) == counter.get_total_flops()


@pytest.mark.parametrize(("recipe", "tflop"), [(RECIPE, 13.90), (full(), 23.33)])
def test_the_flops_at_full_size_are_those_that_a_plan_counts(
    recipe: Recipe, tflop: float, shared: SharedModel
) -> None:
    config = full_size_config(shared.tokenizer)
    costs = Costs(config, RECIPE.r or 0)
    # An image of 672 x 672 pixels: four crops and the global view.
    sizes = {"image_tokens": 2 * 757, "supervised": 30, "last": 30}
    shape = StepShape(rows=2, length=817, crops=10, **sizes)
    batch = BatchShape(2, 817, 30, ((672, 672),) * 2)
    setting = Setting(recipe, config, torch.bfloat16, "sdpa")
    counted = training_cost.__wrapped__(setting, batch).flops
    step = costs.lora_step if recipe.method == "lora" else costs.full_step
    # A fused attention computes its scores again in the backward pass; full training's tower too.
    again = costs.attention(shape) / 2
    if recipe.method == "full":
        tower = config.tower
        again += 2 * 10 * (tower.num_hidden_layers - 1) * 577**2 * tower.hidden_size
    assert step(shape) + again == counted
    assert step(shape) / shape.rows == pytest.approx(tflop * 1e12, rel=1e-3)


def test_a_token_reads_the_decoder_the_head_and_the_cache(shared: SharedModel) -> None:
    model, config = shared.model, shared.config
    read = [*model.model.layers.modules(), model.lm_head]
    weights = sum(layer.weight.nbytes for layer in read if isinstance(layer, nn.Linear))
    cache = 2 * config.num_hidden_layers * config.hidden_size * 2
    assert shared.costs.token_bytes(3, 10) == weights + 3 * 10 * cache


def test_the_model_is_as_before_after_its_adapters(shared: SharedModel) -> None:
    before = [name for name, _ in shared.model.named_parameters()]
    with shared.adapted() as model:
        assert any("lora_A" in name for name, _ in model.named_parameters())
    assert [name for name, _ in shared.model.named_parameters()] == before
    assert not any(weight.requires_grad for weight in shared.model.parameters())
    assert not shared.model.training


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16>", "matrix products"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("void at::native::vectorized_elementwise_kernel<8>", "elementwise"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("somethingElse", "other"),
    ],
)
def test_kernels_are_sorted_by_kind(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind
