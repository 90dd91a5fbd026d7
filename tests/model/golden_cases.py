"""The golden cases: what the official code computed, and our model and inputs for each.

`golden/README.md` says what every file and tensor is. The ids are stored, so no case needs the
official tokenizer, which is not ours to commit.
"""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from phi_vision import Phi3VConfig, Phi3VForCausalLM, Phi3VImageProcessor

GOLDEN = Path(__file__).parent / "golden"
OFFICIAL = Path(
    os.environ.get("PHI_VISION_OFFICIAL", Path(__file__).parents[3] / "shared" / "official")
)
IMAGE_TOKEN_ID = 32044
VERSIONS = {"phi-3-vision": "phi3-tiny", "phi-3.5-vision": "phi35-tiny"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One folder of `golden/cases`."""

    name: str
    facts: dict[str, Any]

    @property
    def folder(self) -> Path:
        return GOLDEN / "cases" / self.name

    @property
    def version(self) -> str:
        """Name the official folder whose tokenizer belongs to the case."""
        return "phi-3-vision" if self.facts["code"] == "Phi-3-vision" else "phi-3.5-vision"

    def expected(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "expected.safetensors")

    def open_images(self) -> list[Image.Image]:
        samples = self.facts.get("samples", [self.facts])
        return [Image.open(self.folder / entry["file"]) for s in samples for entry in s["images"]]

    def image_processor(self) -> Phi3VImageProcessor:
        return Phi3VImageProcessor(num_crops=self.facts["num_crops"])

    def pixels(self) -> dict[str, torch.Tensor]:
        """Give `pixel_values` and `image_sizes`, or nothing for a case without images."""
        images = self.open_images()
        if not images:
            return {}
        made = self.image_processor()(images, return_tensors="pt")
        return {name: made[name] for name in ("pixel_values", "image_sizes")}

    def model(self, attention: str = "eager") -> Phi3VForCausalLM:
        overrides = json.dumps(self.facts["config_overrides"])
        return golden_model(self.facts["model"], overrides, attention)


def read_case(name: str) -> Case:
    facts = json.loads((GOLDEN / "cases" / name / "case.json").read_text())
    return Case(name=name, facts=facts)


@cache
def golden_model(name: str, overrides: str = "{}", attention: str = "eager") -> Phi3VForCausalLM:
    """Build a golden model in float32; the files hold float16 only to be small."""
    folder = GOLDEN / "models" / name
    config = Phi3VConfig.from_dict(
        json.loads((folder / "config.json").read_text()) | json.loads(overrides)
    )
    config._attn_implementation = attention
    model = Phi3VForCausalLM(config).eval()
    model.load_state_dict({name: weight.float() for name, weight in golden_weights(name).items()})
    return model


@cache
def golden_weights(name: str) -> dict[str, torch.Tensor]:
    """Read the official names and float16 weights of a golden model."""
    folder = GOLDEN / "models" / name
    shards = set(golden_index(name)["weight_map"].values())
    return {key: tensor for shard in shards for key, tensor in load_file(folder / shard).items()}


def golden_index(name: str) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(
        (GOLDEN / "models" / name / "model.safetensors.index.json").read_text()
    )
    return index


def as_ours(official_ids: torch.Tensor) -> torch.Tensor:
    """Turn the official negative placeholders into ours: `[1, -2, -2]` -> `[1, 32044, 32044]`."""
    return official_ids.masked_fill(official_ids < 0, IMAGE_TOKEN_ID)


def official(version: str) -> Path:
    """Give the folder of official files, or skip the test where they are not at hand."""
    folder = OFFICIAL / version
    if not folder.is_dir():
        pytest.skip(f"no official files in {folder}; set PHI_VISION_OFFICIAL to their folder")
    return folder


_CASES = [read_case(folder.name) for folder in sorted((GOLDEN / "cases").iterdir())]
SINGLE = [case for case in _CASES if "samples" not in case.facts]
BATCHES = [case for case in _CASES if "samples" in case.facts]
WITH_IMAGES = [case for case in SINGLE if case.facts["images"]]
CROSSING = [case for case in SINGLE if "_cross_" in case.name]
