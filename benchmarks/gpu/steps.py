"""Parts that measure training steps: speed and memory by batch, adapters, kernels."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.costs import planned_shape, shape_of
from benchmarks.gpu.model import RECIPE, SharedModel, checkpointing, decoder_layers
from benchmarks.gpu.session import Session
from benchmarks.workload import train_step
from phi_vision.io.formatting import GIB
from phi_vision.training.adapters import select_trained_parts
from phi_vision.training.memory import Setting, training_cost
from phi_vision.training.recipes import Recipe, full

ROWS = 8
"""Rows of the steps that are compared with one another: 44 GiB of activations for 4 crops each."""

KERNELS = {
    "matrix products": ("gemm", "cutlass", "nvjet", "xmma", "wgmma", "splitk", "mm_", "::mm"),
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "copies and casts": ("copy", "memcpy", "memset", "catarray", "_to_copy"),
    "dropout": ("dropout", "philox", "distribution", "bernoulli"),
    "reductions": ("reduce", "softmax", "norm"),
    "optimizer": ("adam", "multi_tensor"),
    "elementwise": ("elementwise", "vectorized", "triton", "::mul", "::add"),
}
"""Kind of kernel -> parts of the names of such kernels; the first that matches."""


def measure_train(session: Session, shared: SharedModel) -> None:
    """LoRA steps over the project's batches; recomputing where a batch does not fit otherwise."""
    sizes = [(4, (1, 2))] if session.is_tiny else [(4, (1, 4, 8, 16)), (16, (1, 4, 8))]
    with shared.adapted() as model:
        for crops, all_rows in sizes:
            for rows in all_rows:
                recomputes = False
                if not measure_step(session, shared, model, crops, rows, recomputes=False):
                    with checkpointing(model):
                        recomputes = True
                        measure_step(session, shared, model, crops, rows, recomputes=True)
                if rows == all_rows[-1]:
                    recipe = replace(RECIPE, gradient_checkpointing=recomputes)
                    compare_plan(session, shared, recipe, crops, rows)


def measure_full(session: Session, shared: SharedModel) -> None:
    """Steps of full training: weights, gradients and optimizer state in float32 take 62 GiB."""
    try:
        model = select_trained_parts(shared.model, full(), torch.bfloat16).train()
        for rows in (1, 2) if session.is_tiny else (1, 4, ROWS):
            with checkpointing(model):
                done = measure_step(session, shared, model, 4, rows, recomputes=True, is_full=True)
            if not done:
                break
        compare_plan(session, shared, replace(full(), gradient_checkpointing=True), 4, rows)
    finally:
        shared.model.to(torch.bfloat16)
        shared.restore()


def measure_adapters(session: Session, shared: SharedModel) -> None:
    """What adapters cost beyond the frozen matrices, and the tower beyond the decoder."""
    rows = 2 if session.is_tiny else ROWS
    for dropout in (RECIPE.lora_dropout, 0.0):
        with shared.adapted(dropout) as model:
            measure_step(session, shared, model, 4, rows, way="adapters", dropout=dropout)
    inputs, model = shared.to_device(shared.batch(4, rows)), shared.model
    shape, costs = shape_of(inputs, shared.config), shared.costs
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, output: output.requires_grad_()
    )

    def loss() -> torch.Tensor:
        with torch.autocast(session.device.type, torch.bfloat16):
            found: torch.Tensor = model(**inputs, use_cache=False).loss
            return found

    try:
        with session.attempt(way="no adapters"):
            seconds = session.seconds(lambda: loss().backward())
            counted = costs.lora_step(shape) - 3 * costs.adapters(shape)
            session.add(way="no adapters", **_rates(session, seconds, shape.rows, counted))
    finally:
        hook.remove()
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes")}
    works: dict[str, tuple[Callable[[], object], float]] = {
        "forward alone": (loss, costs.prefill(shape)),
        "tower and projector": (
            lambda: model.get_image_features(**images),
            costs.tower(shape.crops) + costs.projector(shape.image_tokens),
        ),
    }
    for way, (work, counted) in works.items():
        with session.attempt(way=way), torch.no_grad():
            with torch.autocast(session.device.type, torch.bfloat16):
                seconds = session.seconds(work)
            session.add(way=way, **_rates(session, seconds, shape.rows, counted))


def measure_checkpointing(session: Session, shared: SharedModel) -> None:
    """Recomputing every layer, every second or fourth, and with no gradient to the inputs."""
    for crops, rows in [(4, 2)] if session.is_tiny else [(4, 16), (16, 4)]:
        with shared.adapted() as model:
            for every, to_inputs in ((1, True), (1, False), (2, False), (4, False)):
                with checkpointing(model, every=every):
                    if not to_inputs:
                        model.get_base_model().disable_input_require_grads()
                    ways: dict[str, Any] = {"every": every, "to_inputs": to_inputs}
                    measure_step(session, shared, model, crops, rows, **ways)


def measure_compile(session: Session, shared: SharedModel) -> None:
    """Layers of the decoder compiled one by one; all share the compiled code."""
    rows = 2 if session.is_tiny else ROWS
    torch._dynamo.config.cache_size_limit = 64
    with shared.adapted() as model:
        for layer in decoder_layers(model):
            layer.compile(dynamic=False, backend="inductor" if session.on_gpu else "aot_eager")
        measure_step(session, shared, model, 4, rows, way="compiled")
    torch._dynamo.reset()


def measure_profile(session: Session, shared: SharedModel) -> None:
    """Kernels of a step by time and kind; a step longer than its kernels waits for Python."""
    activities = [ProfilerActivity.CUDA if session.on_gpu else ProfilerActivity.CPU]
    rows = 2 if session.is_tiny else ROWS
    with shared.adapted() as model:
        step = train_step(model, shared.to_device(shared.batch(4, rows)), fused=True, bf16=True)
        seconds = session.seconds(step)
        with profile(activities=activities) as seen:
            step()
            session.wait()
    events = seen.key_averages()
    table = events.table(
        sort_by="self_cuda_time_total" if session.on_gpu else "self_cpu_time_total",
        row_limit=45,
        max_name_column_width=90,
    )
    file = session.folder / f"profile_{rows}_rows.txt"
    file.write_text(table, encoding="utf-8")
    name = "self_device_time_total" if session.on_gpu else "self_cpu_time_total"
    taken = {event.key: getattr(event, name) / 1e3 for event in events}
    kinds: dict[str, float] = {}
    for kernel, milliseconds in taken.items():
        kinds[kind_of(kernel)] = kinds.get(kind_of(kernel), 0.0) + milliseconds
    session.add(
        file=file.name,
        step_ms=1e3 * seconds,
        kernel_ms=sum(taken.values()),
        kernels=sum(event.count for event in events),
        **{f"{kind} ms": spent for kind, spent in sorted(kinds.items(), key=lambda each: -each[1])},
    )


def kind_of(kernel: str) -> str:
    """Return the kind of a kernel: `void cutlass::Kernel2<…>` -> "matrix products"."""
    found = (kind for kind, parts in KERNELS.items() if any(p in kernel.lower() for p in parts))
    return next(found, "other")


def measure_step(
    session: Session,
    shared: SharedModel,
    model: Any,
    crops: int,
    rows: int,
    *,
    is_full: bool = False,
    **what: Any,
) -> bool:
    """Time training steps over a batch; return whether it fitted."""
    batch = shared.batch(crops, rows)
    shape = shape_of(batch, shared.config)
    what = {"crops": crops, "rows": rows, "length": shape.length, **what}
    lines = len(session.lines)
    with session.attempt(**what):
        session.tidy()
        step = train_step(model, shared.to_device(batch), fused=True, bf16=True)
        begun = time.perf_counter()
        step()
        session.wait()
        seconds = session.seconds(step, warm=1, repeat=3 if time.perf_counter() - begun < 2 else 1)
        counted = (shared.costs.full_step if is_full else shared.costs.lora_step)(shape)
        figures = _rates(session, seconds, rows, counted)
        session.add(**what, **figures, tokens_s=shape.tokens / seconds)
    model.zero_grad()  # of a step that failed
    return "error" not in session.lines[lines]


def compare_plan(
    session: Session, shared: SharedModel, recipe: Recipe, crops: int, rows: int
) -> None:
    """Put the memory that `phi-vision plan` estimates beside that of the step measured last."""
    setting = Setting(recipe, shared.config, torch.bfloat16, "sdpa")
    batch = planned_shape(shared.batch(crops, rows), shared.config)
    planned = sum(training_cost(setting, batch).parts.values()) / GIB
    measured = session.lines[-1].get("peak_gib")
    apart = planned / measured - 1 if measured else None
    session.add(way="plan", crops=crops, rows=rows, planned_gib=planned, apart=apart)


def _rates(session: Session, seconds: float, rows: int, flops: float) -> dict[str, float]:
    return {
        "ms": 1e3 * seconds,
        "samples_s": rows / seconds,
        "tflop_sample": flops / rows / 1e12,
        "mfu": flops / seconds / session.peak_rate,
        "of_gemm": flops / seconds / session.gemm_rate,
        "peak_gib": session.peak_gib(),
    }
