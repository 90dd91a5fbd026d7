"""Parts that measure the machine: versions, rates that nothing can exceed, attention's kernels."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.model import SharedModel
from benchmarks.gpu.session import Session
from phi_vision.io.formatting import GIB

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def describe_machine(session: Session) -> None:
    """List versions and the GPU."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "cpus": os.cpu_count()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["flash_attn"] = find_spec("flash_attn") is not None
    if session.on_gpu:
        gpu = torch.cuda.get_device_properties(0)
        found |= {"gpu": gpu.name, "gpu_gib": gpu.total_memory / GIB, "cuda": torch.version.cuda}
        shared = os.statvfs("/dev/shm")  # through which workers pass their batches
        found["shm_gib"] = shared.f_bavail * shared.f_frsize / GIB
    session.add(**found)


def measure_ceilings(session: Session) -> None:
    """Time a large matrix product and copies: the rates that others are shares of."""
    side, count = (256, 2**16) if session.is_tiny else (8192, 2**31)
    left, right = _random(session, side, side), _random(session, side, side)
    session.gemm_rate = 2 * side**3 / session.device_seconds(lambda: left @ right)
    session.add(what=f"bf16 product of {side} x {side}", tflops=session.gemm_rate / 1e12)
    source = torch.zeros(count, dtype=torch.uint8, device=session.device)
    target = torch.empty_like(source)
    session.copy_rate = 2 * count / session.device_seconds(lambda: target.copy_(source))
    session.add(what="copy, read and written", tb_s=session.copy_rate / 1e12)
    numbers = source.view(torch.float32)
    reading = count / session.device_seconds(numbers.sum)
    session.add(what="sum, only read", tb_s=reading / 1e12)


def measure_products(session: Session, shared: SharedModel) -> None:
    """Time the decoder's own products: of one token, of a batch of them, of one and eight rows."""
    weights = sum(weight.numel() for weight in shared.model.parameters())
    cache = shared.costs.cache_bytes
    session.add(weights=weights, peak_gib=session.peak_gib(), cache_bytes_token=cache)
    for tokens in (64,) if session.is_tiny else (1, 32, 817, 6536):
        rates = {}
        for inputs, outputs in shared.costs.matrices:
            hidden, weight = _random(session, tokens, inputs), _random(session, outputs, inputs)
            seconds = session.device_seconds(lambda h=hidden, w=weight: h @ w.t(), repeat=5)  # type: ignore[misc]
            rates[f"{inputs}x{outputs} tflops"] = 2 * tokens * inputs * outputs / seconds / 1e12
            if tokens <= 32:
                rates[f"{inputs}x{outputs} tb_s"] = weight.nbytes / seconds / 1e12
        session.add(what="products of the decoder", tokens=tokens, **rates)


def measure_attention(session: Session, shared: SharedModel) -> None:
    """Time each kernel of attention, causal and with a mask as of padded rows."""
    for rows, length in [(1, 64)] if session.is_tiny else [(8, 832), (4, 2576)]:
        for kernel in ATTENTION if session.on_gpu else ("flash", "math"):
            for is_masked in (False, True):
                what = {"kernel": kernel, "is_masked": is_masked, "rows": rows, "length": length}
                if not (kernel == "flash" and is_masked):  # which it cannot
                    with session.attempt(**what):
                        heads = shared.config.num_attention_heads
                        shape = (rows, heads, length, shared.config.hidden_size // heads)
                        session.add(**what, **_time_kernel(session, kernel, shape, is_masked))


def _time_kernel(
    session: Session, kernel: str, shape: tuple[int, int, int, int], is_masked: bool
) -> dict[str, float]:
    query, key, value = (_random(session, *shape).requires_grad_() for _ in range(3))
    length = shape[2]
    mask = torch.ones(length, length, dtype=torch.bool, device=session.device).tril()[None, None]

    def attend() -> torch.Tensor:
        with sdpa_kernel([ATTENTION[kernel]]):
            given = mask if is_masked else None
            return scaled_dot_product_attention(query, key, value, given, is_causal=not is_masked)

    forward = session.device_seconds(attend, repeat=5)
    both = session.device_seconds(lambda: attend().sum().backward(), repeat=5)
    flops = 4.0 * query.numel() * length / 2
    return {
        "forward_tflops": flops / forward / 1e12,
        "both_tflops": 3 * flops / both / 1e12,
        "both_ms": 1e3 * both,
    }


def _random(session: Session, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=session.device, dtype=torch.bfloat16)
