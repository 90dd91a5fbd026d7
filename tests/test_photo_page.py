"""docs/photo-base.md states the sources, licences and sizes that the code has."""

from pathlib import Path

import pytest

from phi_vision.model.assembly import check_crops
from phi_vision.model.checkpoint import PHOTO
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.parts import KNOWN
from phi_vision.model.photo_base import CONTEXT, CROP_SIZE, PATCH
from phi_vision.training.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "photo-base.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", ["tower", "decoder"])
def test_the_page_names_the_sources_of_a_part(part: str) -> None:
    known = KNOWN[part]
    for fact in (known["name"], known["hub"], known["package"], f"{known['bytes']:,}"):
        assert fact in PAGE
    name, version = known["package"].split("==")
    assert f"{name.replace('-', '_')}-{version}-py3-none-any.whl" in PAGE


@pytest.mark.parametrize("crop_size", [168, 224])
def test_the_page_counts_the_image_tokens(crop_size: int) -> None:
    side = crop_size // PATCH // 2
    processor = Phi3VImageProcessor(num_crops=1, crop_size=crop_size, num_img_tokens=side**2)
    assert f"{processor.count_tokens(crop_size, crop_size)} at {crop_size}" in PAGE


def test_the_page_states_the_largest_crop() -> None:
    check_crops(1764, 1, PATCH, CONTEXT)
    with pytest.raises(ValueError, match="at most 1764 as --crop-size"):
        check_crops(1764 + 2 * PATCH, 1, PATCH, CONTEXT)
    assert "at most 1,764 pixels" in PAGE
    assert f"| context | {CONTEXT:,} tokens" in PAGE


def test_the_page_states_the_settings_of_the_recipe_and_the_base() -> None:
    recipe = RECIPES["photo"]()
    assert recipe.model == PHOTO
    assert f"one of {CROP_SIZE} pixels" in PAGE
    assert f"up to {recipe.eval_samples} of them" in PAGE


def test_the_page_is_linked() -> None:
    assert "docs/photo-base.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "photo-base.md" in (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
