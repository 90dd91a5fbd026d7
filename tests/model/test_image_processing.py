"""Images to crops: the official pixels, the sizes of 1,548 shapes, odd modes, errors."""

import hashlib
import json

import numpy as np
import pytest
import torch
from golden_cases import BATCHES, GOLDEN, WITH_IMAGES, Case
from PIL import Image

from phi_vision import Phi3VImageProcessor
from phi_vision.model.image_processing_phi3_v import pad_to_crops, resized_size, shrink

# The official tensor and ours differ at most in the last bit of a bicubic sum.
PIXELS = {"atol": 1e-5, "rtol": 0.0}
HD_SIZES = json.loads((GOLDEN / "processor" / "hd_sizes.json").read_text())["rows"]
ALL = WITH_IMAGES + BATCHES
GRAYS = [0, 60, 120, 180]


def split_images(case: Case) -> list[torch.Tensor]:
    """Give the crops of each image of a case, (1 + rows * columns, 3, 336, 336)."""
    made = case.image_processor()(case.open_images(), return_tensors="pt")
    counts = [(h // 336) * (w // 336) + 1 for h, w in made["image_sizes"].tolist()]
    return list(made["pixel_values"].split(counts))


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_sizes_and_token_counts_are_the_official_ones(case: Case) -> None:
    made = case.image_processor()(case.open_images(), return_tensors="pt")
    expected = case.expected()
    assert made["image_sizes"].tolist() == expected["image_sizes"].tolist()
    if "num_img_tokens" in expected:
        assert made["num_img_tokens"].tolist() == expected["num_img_tokens"].tolist()
    assert made["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize("case", WITH_IMAGES, ids=lambda case: case.name)
def test_the_resized_and_padded_image_is_the_official_one_bit_for_bit(case: Case) -> None:
    mean = torch.tensor(case.image_processor().image_mean).view(3, 1, 1)
    std = torch.tensor(case.image_processor().image_std).view(3, 1, 1)
    for crops, checks in zip(split_images(case), case.facts["image_checks"], strict=True):
        rows, columns = checks["crops_grid"]
        pixels = ((crops[1:] * std + mean) * 255).round().to(torch.uint8)
        pixels = pixels.reshape(rows, columns, 3, 336, 336).permute(0, 3, 1, 4, 2)
        image = pixels.reshape(rows * 336, columns * 336, 3).contiguous().numpy()
        found = hashlib.sha256(image.tobytes()).hexdigest()
        assert found == checks["hd_image_uint8_hwc_sha256"]


@pytest.mark.parametrize("case", WITH_IMAGES, ids=lambda case: case.name)
def test_pixel_values_are_the_official_ones_without_the_padding_crops(case: Case) -> None:
    expected = case.expected()
    for place, crops in enumerate(split_images(case)):
        local, used = crops[1:], len(crops) - 1
        sampled = local[:, :, 15::34, 15::34]
        official = expected["pixel_crops_strided"][place]
        torch.testing.assert_close(
            crops[0, :, 4::8, 4::8], expected["pixel_global_strided"][place], **PIXELS
        )
        torch.testing.assert_close(sampled, official[:used], **PIXELS)
        assert not official[used:].any()
        means = torch.stack([crop.mean() for crop in crops])
        stds = torch.stack([crop.std(unbiased=False) for crop in crops])
        torch.testing.assert_close(means, expected["pixel_mean"][place][: len(crops)], **PIXELS)
        torch.testing.assert_close(stds, expected["pixel_std"][place][: len(crops)], **PIXELS)


@pytest.mark.parametrize("rows", range(1, 7))
@pytest.mark.parametrize("columns", [1, 2, 3, 16])
def test_shrinking_by_a_whole_factor_is_bicubic_interpolation(rows: int, columns: int) -> None:
    pixels = torch.randn(8 * rows, 8 * columns, generator=torch.Generator().manual_seed(rows))
    expected = torch.nn.functional.interpolate(
        pixels[None, None], size=(8, 8), mode="bicubic", align_corners=False
    )
    found = shrink(shrink(pixels, 8).t(), 8).t()
    # Sums of four products each way, in another order.
    torch.testing.assert_close(found, expected[0, 0], atol=2e-6, rtol=0)


def test_1548_shapes_are_resized_padded_and_counted_as_officially() -> None:
    assert len(HD_SIZES) == 1548
    for width, height, num_crops, resized_h, resized_w, top, bottom, *final, tokens in HD_SIZES:
        shape = f"{width} x {height}, {num_crops} crops"
        long_side, short_side = max(width, height), min(width, height)
        if resized_h == 0:
            with pytest.raises(ValueError, match="nothing of its thickness is left"):
                resized_size(long_side, short_side, num_crops, 336)
            continue
        found = resized_size(long_side, short_side, num_crops, 336)
        assert found == (resized_w, resized_h), shape
        padded_h = -(-resized_h // 336) * 336
        assert (padded_h - resized_h) // 2 == top, shape
        assert padded_h - resized_h - top == bottom, shape
        size = (resized_w, padded_h) if width < height else (padded_h, resized_w)
        assert list(size) == final, shape
        assert Phi3VImageProcessor(num_crops=num_crops).count_tokens(*final) == tokens, shape


def test_float_truncation_not_integer_division_decides_the_height() -> None:
    # 336 * 250 / 1120 is 75 exactly; in floating point 336 / (1120 / 250) is a hair less.
    assert resized_size(1120, 250, 1, 336) == (336, 74)


def test_padding_is_white_above_and_below_a_landscape_and_beside_a_portrait() -> None:
    red = (255, 0, 0)
    landscape = np.asarray(pad_to_crops(Image.new("RGB", (8, 4), red), 1, 8))
    portrait = np.asarray(pad_to_crops(Image.new("RGB", (4, 8), red), 1, 8))
    drawn = ["".join("#" if pixel[1] == 0 else "." for pixel in row) for row in landscape]
    assert drawn == [
        "........",
        "........",
        "########",
        "########",
        "########",
        "########",
        "........",
        "........",
    ]
    assert np.array_equal(portrait, landscape.transpose(1, 0, 2))


def test_crops_come_row_by_row_after_the_global_view() -> None:
    image = Image.new("RGB", (672, 672))
    for gray, corner in zip(GRAYS, [(0, 0), (336, 0), (0, 336), (336, 336)], strict=True):
        image.paste(Image.new("RGB", (336, 336), (gray,) * 3), corner)
    crops = Phi3VImageProcessor(num_crops=4)(image, return_tensors="pt")["pixel_values"]
    assert crops.shape == (5, 3, 336, 336)
    red = crops[1:, 0].mean(dim=(1, 2)) * 0.26862954 + 0.48145466
    assert (red * 255).round().tolist() == GRAYS


def test_images_of_a_batch_have_the_crops_that_each_has_alone() -> None:
    processor, images = (
        Phi3VImageProcessor(num_crops=4),
        [Image.radial_gradient("L").resize(size) for size in [(90, 30), (40, 80), (336, 336)]],
    )
    for is_padded in (False, True):
        together = processor(images, pad_crops=is_padded, return_tensors="pt")
        alone = [processor(image, pad_crops=is_padded, return_tensors="pt") for image in images]
        for name in together:
            assert torch.equal(together[name], torch.cat([each[name] for each in alone]))


def test_only_crops_that_show_something_are_made() -> None:
    wide = Phi3VImageProcessor(num_crops=16)(Image.new("RGB", (640, 480)), return_tensors="pt")
    assert wide["image_sizes"].tolist() == [[1008, 1344]]
    assert wide["pixel_values"].shape[0] == 1 + 3 * 4  # the official code makes and computes 17


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("L", (40, 30), 200)
    image = Image.new(mode, (40, 30)) if mode == "I;16" else image.convert("RGB").convert(mode)
    made = Phi3VImageProcessor(num_crops=1)(image, return_tensors="pt")
    assert made["pixel_values"].shape == (2, 3, 336, 336)


def test_num_crops_of_one_call_wins_over_the_processors() -> None:
    image = Image.new("RGB", (100, 100))
    processor = Phi3VImageProcessor(num_crops=16)
    assert processor(image, num_crops=1, return_tensors="pt")["num_img_tokens"].tolist() == [313]
    assert processor(image, return_tensors="pt")["num_img_tokens"].tolist() == [2509]


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_an_image_too_thin_to_resize_is_rejected_with_its_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="5000 pixels long and 1 thick"):
        Phi3VImageProcessor(num_crops=4)(Image.new("RGB", size))


def test_arrays_are_rejected_where_the_official_code_crashes() -> None:
    with pytest.raises(ValueError, match=r"got ndarray\. Use PIL\.Image\.fromarray"):
        Phi3VImageProcessor()(np.zeros((8, 8, 3), dtype=np.uint8))


def test_smaller_crops_give_fewer_tokens() -> None:
    processor = Phi3VImageProcessor(num_crops=1, crop_size=56, num_img_tokens=4)
    made = processor(Image.new("RGB", (100, 100)), return_tensors="pt")
    assert made["pixel_values"].shape == (2, 3, 56, 56)
    assert made["num_img_tokens"].tolist() == [2 * 4 + 1 + 2 * 2]
