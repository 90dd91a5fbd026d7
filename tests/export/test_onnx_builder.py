"""ONNX: comparing generations, and errors of the export and the builder."""

import errno
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnxruntime_genai", reason="pip install 'phi-vision[onnx]'")

from phi_vision.export import onnx as onnx_folder
from phi_vision.export.onnx import (
    build_decoder,
    bytes_needed,
    export_onnx,
    write_plain_checkpoint,
)
from phi_vision.export.verify import compare_generations
from phi_vision.generation.request import Generation
from phi_vision.model.checkpoint import load_config, load_model


def said(text: str, ends: list[int], logprobs: list[float]) -> Generation:
    return Generation(text, tuple(ends), tuple(logprobs))


COAT = said("Wool Coat", [4, 9, 9], [-0.1, -0.6, -0.1])
HAT = said("Wool Hat", [4, 8, 8], [-0.1004, -0.6003, -0.9])


def test_equal_answers_are_as_far_apart_as_the_probabilities_of_their_tokens() -> None:
    near = said("Wool Coat", [4, 9, 9], [-0.1, -0.6, -0.1002])
    result = compare_generations([COAT, COAT], [COAT, near], tolerance=1e-3)
    assert (result.samples, result.identical, result.tokens, result.near_ties) == (2, 2, 6, 0)
    assert result.max_difference == pytest.approx(0.0002)
    result.check()


def test_answers_may_part_where_two_tokens_are_equally_likely() -> None:
    result = compare_generations([COAT], [HAT], tolerance=1e-3)
    assert (result.identical, result.tokens, result.near_ties) == (0, 1, 1)
    result.check()


def test_answers_that_part_where_one_token_is_likelier_are_rejected() -> None:
    sure = HAT._replace(logprobs=(-0.1, -0.4, -0.9))
    with pytest.raises(ValueError, match="0 of 1 predictions identical"):
        compare_generations([COAT], [sure], tolerance=1e-3).check()


def test_predictions_of_rounded_weights_are_reported_and_kept() -> None:
    result = compare_generations([COAT, COAT], [COAT, HAT], tolerance=None)
    result.check()
    assert result.summary().startswith(
        "1 of 2 predictions identical; log-probabilities of 4 tokens"
    )


def test_the_plain_checkpoint_holds_the_decoder_in_float32(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, processor = load_model(tiny_checkpoint, dtype=torch.bfloat16)
    write_plain_checkpoint(model, processor.tokenizer, tmp_path)
    decoder = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(decoder).__name__ == "Phi3ForCausalLM"
    for name, values in decoder.state_dict().items():
        assert torch.equal(values, model.state_dict()[name].float()), name
        assert values.dtype == torch.float32
    assert decoder.generation_config.eos_token_id == model.generation_config.eos_token_id


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (1, "Traceback ...\nKeyError: 'rope'", "could not build the decoder: .*KeyError: 'rope'"),
        (-9, "", "killed while it built the decoder, most likely because memory"),
    ],
)
def test_a_builder_that_fails_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, message: str
) -> None:
    ended = subprocess.CompletedProcess([], code, stdout="", stderr=stderr)
    monkeypatch.setattr(onnx_folder.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(OSError, match=message):
        build_decoder(tmp_path, tmp_path, "int4")


def test_a_disk_that_is_full_for_the_builder_is_reported_in_bytes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_last = f"RuntimeError: [Errno {errno.ENOSPC}] No space left on device"
    ended = subprocess.CompletedProcess([], 1, stdout="", stderr=said_last)
    monkeypatch.setattr(onnx_folder.subprocess, "run", lambda *_, **__: ended)
    monkeypatch.setattr(onnx_folder, "_write_graphs", lambda *_: None)
    with pytest.raises(OSError, match=r"not enough disk space for .*B are free, and .* needed"):
        export_onnx(str(tiny_checkpoint), tmp_path / "out", samples=0)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_reported_before_the_model_is_loaded(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match="not enough disk space"):
        export_onnx(str(tiny_checkpoint), tmp_path / "out", samples=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", onnx_folder.PRECISIONS)
def test_the_required_disk_space_counts_the_decoder_twice(
    tiny_checkpoint: Path, precision: str
) -> None:
    model, _ = load_model(tiny_checkpoint)
    decoder = sum(
        weights.numel()
        for name, weights in model.named_parameters()
        if "vision_embed_tokens" not in name
    )
    everything = sum(weights.numel() for weights in model.parameters())
    needed = bytes_needed(load_config(tiny_checkpoint), precision)
    assert 4 * everything < needed < 4 * everything + 8 * decoder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, "no precision 'fp16' for ONNX; choose from fp32, int8, int4"),
        ({"data": Path("nowhere")}, "--data"),
    ],
)
def test_an_export_that_cannot_succeed_is_rejected_at_once(
    tiny_checkpoint: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(str(tiny_checkpoint), tmp_path / "out", **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
