"""ENGINES: name -> what that engine needs of a folder, and whether it is there.

Each list was drawn up from the engine's own code and from runs: docs/deploy-vllm.md says which.
"""

from collections.abc import Callable
from pathlib import Path

from phi_vision.data.template import END
from phi_vision.export.compatibility_files import (
    class_members,
    code_findings,
    image_findings,
    image_settings,
    json_findings,
    read_config,
    reference_of,
    stop_finding,
    stop_findings,
    template_findings,
    token_ids,
    tokenizer_findings,
)
from phi_vision.export.compatibility_folder import Finding, Folder
from phi_vision.export.compatibility_graphs import WRITE, describe_graphs, graph_findings
from phi_vision.export.compatibility_weights import EXPORT, weight_findings
from phi_vision.model.configuration_phi3_v import CLIP_VIT_L_14_336, Phi3VConfig

VLLM_IMAGE_TOKEN = 32044
"""The id that vLLM writes where an image token belongs, whatever config.json says."""

VLLM_ASKS = ("img_tokens", "calc_num_image_tokens_from_image_size")
"""What vLLM looks up in the processor's class."""

SHORT_CONTEXT = 4096
"""Tokens; with a longer --max-model-len vLLM rotates every position by the long factors."""

AUTO_CONFIG = ("config.json", "AutoConfig")
AUTO_PROCESSORS = (
    ("processor_config.json", "AutoProcessor"),
    ("preprocessor_config.json", "AutoImageProcessor"),
)
AUTO_MODELS = (
    ("config.json", "AutoModelForCausalLM"),
    ("config.json", "AutoModelForImageTextToText"),
)


def check(path: Path) -> dict[str, list[Finding]]:
    """Find out what each engine needs and whether a folder has it.

    Args:
        path: What `phi-vision export` wrote, or another checkpoint; a run's `model` folder.

    Raises:
        ValueError: There is no such folder.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give one with config.json and weights, or graphs")
    folder = Folder(path)
    return {name: needs(folder) for name, needs in ENGINES.items()}


def for_phi_vision(folder: Folder) -> list[Finding]:
    """transformers on a machine with phi-vision: no code is needed."""
    config, findings = read_config(folder)
    findings = [*json_findings(folder), *findings, *weight_findings(folder, config)]
    if config is None:
        return findings
    return findings + tokenizer_findings(folder, config) + image_findings(folder, config)


def for_transformers(folder: Folder) -> list[Finding]:
    """transformers with trust_remote_code=True, also through its pipeline: the code travels."""
    config, _ = read_config(folder)
    findings = for_phi_vision(folder)
    if config is None:
        return findings
    code = code_findings(folder, [AUTO_CONFIG, *AUTO_MODELS, *AUTO_PROCESSORS])
    return findings + stop_findings(folder, config) + template_findings(folder) + code


def for_vllm(folder: Folder) -> list[Finding]:
    """vLLM with --trust-remote-code: its own model, this folder's config and processor."""
    config, _ = read_config(folder)
    findings = for_phi_vision(folder)
    if config is None:
        return findings
    code = code_findings(folder, [AUTO_CONFIG, *AUTO_PROCESSORS])
    findings += stop_findings(folder, config) + template_findings(folder) + code
    return findings + _fixed_in_vllm(folder, config) + _asked_by_vllm(folder)


def for_genai(folder: Folder) -> list[Finding]:
    """onnxruntime-genai: graphs, words, and the image settings for whoever prepares images."""
    findings = [*json_findings(folder), *graph_findings(folder)]
    described = describe_graphs(folder)
    if not described:
        return findings
    stops = described.get("eos_token_id")
    findings.append(stop_finding(token_ids(folder).get(END), stops, WRITE))
    config, read = read_config(folder)
    if config is None:
        return findings + read
    return findings + tokenizer_findings(folder, config) + image_findings(folder, config)


def _fixed_in_vllm(folder: Folder, config: Phi3VConfig) -> list[Finding]:
    """Hold the config against numbers that vLLM's model has written into its code."""
    tower = config.tower.to_dict()
    other = [name for name, number in CLIP_VIT_L_14_336.items() if tower[name] != number]
    rope = config.rope_parameters
    kind = "yarn" if "attention_factor" in rope else rope["rope_type"]
    small = "vLLM serves checkpoints of the official size and words only; use phi-vision serve"
    return [
        Finding(
            need=f"image_token_id {VLLM_IMAGE_TOKEN}, fixed in vLLM",
            found=f"{config.image_token_id}",
            ok=config.image_token_id == VLLM_IMAGE_TOKEN,
            advice=small,
        ),
        Finding(
            need="the tower ViT-L/14 at 336 pixels, fixed in vLLM",
            found=f"other {', '.join(other)}" if other else "the same",
            ok=not other,
            advice=small,
        ),
        Finding(
            need="a rotation that vLLM has (default, longrope)",
            found=kind,
            ok=kind in ("default", "longrope"),
            advice="vLLM would rotate it as longrope, and answer otherwise; use phi-vision serve",
        ),
        _fits_short_context(folder),
    ]


def _fits_short_context(folder: Folder) -> Finding:
    """Count what an image takes of the context, at most."""
    crops = image_settings(folder)
    # A column of crops has the most rows, and each row of patches ends in a separator.
    most = crops.count_tokens(crops.num_crops * crops.crop_size, crops.crop_size) if crops else 0
    return Finding(
        need=f"images within --max-model-len {SHORT_CONTEXT}",
        found=f"at most {most} tokens each: {SHORT_CONTEXT // most} at once" if most else "unknown",
        ok=0 < most < SHORT_CONTEXT,
        advice="train with fewer num_crops; a longer context changes vLLM's rotation",
    )


def _asked_by_vllm(folder: Folder) -> list[Finding]:
    reference = reference_of(folder.fields("processor_config.json"), "AutoProcessor")
    members = class_members(folder, reference)
    lost = [name for name in VLLM_ASKS if name not in members]
    padded = folder.fields("preprocessor_config.json").get("pad_crops")
    setting = """--mm-processor-kwargs '{"pad_crops": true}'"""
    return [
        Finding(
            need="a processor that names vLLM its tags and counts an image's tokens",
            found=f"without {', '.join(lost)}" if lost else ", ".join(VLLM_ASKS),
            ok=not lost,
            advice=EXPORT,
        ),
        Finding(
            need="pad_crops: vLLM takes a row of pixel_values for an image",
            found=f"{padded}",
            ok=padded is True,
            advice=f"{EXPORT}; or serve with {setting}",
        ),
    ]


ENGINES: dict[str, Callable[[Folder], list[Finding]]] = {
    "transformers": for_phi_vision,
    "transformers-alone": for_transformers,
    "vllm": for_vllm,
    "onnxruntime-genai": for_genai,
}
"""Name -> what it needs."""
