"""Images to crops: the official "HD transform", number for number.

Worked by hand for an image 500 wide and 333 high, crops of 336 pixels, at most 4 of them:

    ratio  = 500 / 333 = 1.50
    scale  = 2, the largest with scale * ceil(scale / ratio) <= 4:  2 * ceil(1.33) = 4
    resize   to 2 * 336 = 672 wide and int(672 / 1.50) = 447 high (bilinear)
    pad      447 -> 672, the next multiple of 336: white, 112 above and 113 below
    cut      2 x 2 crops of 336, row by row, and in front of them a global view:
             the padded image shrunk to 336 x 336 (bicubic)
    tokens   (2*2 + 1) * 144 + 1 + (2 + 1) * 12 = 757

A portrait image is transposed, worked as a landscape, and transposed back, so its padding lies
left and right. Shapes: N images, K crops over all images, S the side of a crop in pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.processing_utils import ImagesKwargs

WHITE = (255, 255, 255)
BICUBIC_TAPS = (0.59375, -0.09375)  # of the inner and outer two, halfway between pixels


class Phi3VImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Options of a call."""

    num_crops: int
    pad_crops: bool


class Phi3VImageProcessor(BaseImageProcessor):
    """Turns PIL images into normalised crops.

    Args:
        num_crops: Maximum crops of an image, besides its global view (16 in Phi-3, 4 in Phi-3.5).
        crop_size: Side of a crop in pixels; the tower's `image_size`.
        num_img_tokens: Image tokens of a crop after the 2x2 merge: `(crop_size / patch / 2) ** 2`.
        image_mean, image_std: Of each channel, of values in 0..1.
        do_convert_rgb: Convert palette, gray, alpha and CMYK images; the official value is True.
        pad_crops: Pad every image to the maximum number of crops with zeros: the official form,
            which other engines expect. Our model accepts both, and skips the zeros.
    """

    model_input_names = ["pixel_values", "image_sizes"]  # noqa: RUF012
    valid_kwargs = Phi3VImagesKwargs

    def __init__(
        self,
        num_crops: int = 16,
        crop_size: int = 336,
        num_img_tokens: int = 144,
        image_mean: Sequence[float] = tuple(OPENAI_CLIP_MEAN),
        image_std: Sequence[float] = tuple(OPENAI_CLIP_STD),
        do_convert_rgb: bool = True,
        pad_crops: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_crops = num_crops
        self.crop_size = crop_size
        self.num_img_tokens = num_img_tokens
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.do_convert_rgb = do_convert_rgb
        self.pad_crops = pad_crops

    @property
    def backend(self) -> str:
        """The library that resizes: PIL, as in the official code."""
        return "pil"

    def preprocess(
        self,
        images: Any,
        *,
        num_crops: int | None = None,
        pad_crops: bool | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        """Cut images into crops.

        Input:  one PIL image or a list, each of any size and mode
        Output: `pixel_values` (K, 3, S, S) float32: per image the global view, then its crops row
                by row, no padding crops; with `pad_crops` (N, 1 + num_crops, 3, S, S);
                `image_sizes` (N, 2): height and width after padding, in pixels;
                `num_img_tokens` (N,): how many image tokens each image becomes.
        """
        loaded = self.fetch_images(images if isinstance(images, (list, tuple)) else [images])
        limit, size = num_crops or self.num_crops, self.crop_size
        rgb = [_as_rgb(image) for image in loaded]
        sizes = [padded_size(image.width, image.height, limit, size) for image in rgb]
        counts = [count_crops(*each, size) for each in sizes]
        # Every image writes to its own part of the result.
        if self.pad_crops if pad_crops is None else pad_crops:
            pixel_values = torch.zeros(len(rgb), 1 + limit, 3, size, size)
            parts = [crops[:count] for crops, count in zip(pixel_values, counts, strict=True)]
        else:
            pixel_values = torch.empty(sum(counts), 3, size, size)
            parts = list(pixel_values.split(counts))
        for image, crops_K3SS in zip(rgb, parts, strict=True):
            self._cut(pad_to_crops(image, limit, size), crops_K3SS)
        data = {
            "pixel_values": pixel_values,
            "image_sizes": torch.tensor(sizes, dtype=torch.long),
            "num_img_tokens": torch.tensor([self.count_tokens(*each) for each in sizes]),
        }
        return BatchFeature(data=data, tensor_type=return_tensors)

    def count_tokens(self, height: int, width: int) -> int:
        """Count the image tokens of a padded image of `height` x `width` pixels.

        Each crop and the global view give `num_img_tokens`; a trained separator ends each row of
        merged patches, and one stands between the crops and the global view.
        """
        rows, columns = height // self.crop_size, width // self.crop_size
        side = math.isqrt(self.num_img_tokens)
        return (rows * columns + 1) * self.num_img_tokens + 1 + (rows + 1) * side

    def calc_num_image_tokens_from_image_size(self, width: int, height: int) -> int:
        """Count the image tokens of an image of `width` x `height` pixels, before it is resized.

        The official name, which other inference engines call.

        Input:  500, 333 (at most 4 crops)
        Output: 757
        """
        return self.count_tokens(*padded_size(width, height, self.num_crops, self.crop_size))

    def _cut(self, image: Image.Image, cut: torch.Tensor) -> None:
        """Normalise a padded image, cut into (1 + rows * columns, 3, S, S), global view first."""
        size = self.crop_size
        rows, columns = image.height // size, image.width // size
        crops = cut[1:].view(rows, columns, 3, size, size)
        # Channel by channel, so that the pixels at work stay in the processor's cache.
        for place, mean, std in zip(range(3), self.image_mean, self.image_std, strict=True):
            channel = np.frombuffer(image.tobytes("raw", "RGB"[place]), np.uint8)
            pixels_HW = torch.from_numpy(channel.astype(np.float32)).view(rows * size, -1)
            pixels_HW.div_(255).sub_(mean).div_(std)
            crops[:, :, place] = pixels_HW.view(rows, size, columns, size).transpose(1, 2)
            # White bars included: as the official code.
            cut[0, place] = shrink(shrink(pixels_HW, size).t(), size).t()


def shrink(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Shrink the rows to `size`, a divisor of their number: bicubic, without antialiasing.

    As `torch.nn.functional.interpolate`, whose taps are the same for every pixel where the factor
    is whole: the middle one of an odd factor, four around the middle of an even one.

    Input:  672 rows, size 336
    Output: 336 rows, each 0.59 of its two and -0.09 of their two neighbours
    """
    factor = len(pixels) // size
    middle = factor // 2
    if factor % 2:
        return pixels[middle::factor]
    left, right = pixels[middle - 1 :: factor], pixels[middle::factor]
    inner, outer = BICUBIC_TAPS
    shrunk = (left + right).mul_(inner)
    if factor > 2:
        before, after = pixels[middle - 2 :: factor], pixels[middle + 1 :: factor]
        return shrunk.add_(before, alpha=outer).add_(after, alpha=outer)
    # The outer taps are values of the neighbours; at the border, of the border.
    shrunk[1:].add_(right[:-1], alpha=outer)
    shrunk[:1].add_(left[:1], alpha=outer)
    shrunk[:-1].add_(left[1:], alpha=outer)
    shrunk[-1:].add_(right[-1:], alpha=outer)
    return shrunk


def padded_size(width: int, height: int, num_crops: int, crop_size: int) -> tuple[int, int]:
    """Return the (height, width) in pixels of an image that is resized and padded.

    Input:  500, 333, num_crops 4, crop_size 336
    Output: 672, 672
    """
    longer, shorter = resized_size(max(width, height), min(width, height), num_crops, crop_size)
    padded = math.ceil(shorter / crop_size) * crop_size
    return (longer, padded) if width < height else (padded, longer)


def count_crops(height: int, width: int, crop_size: int) -> int:
    """Count the crops of a padded image, the global view included."""
    return 1 + height * width // crop_size**2


def resized_size(width: int, height: int, num_crops: int, crop_size: int) -> tuple[int, int]:
    """Return the (width, height) in pixels to which a landscape image is resized."""
    ratio, scale = width / height, 1
    while scale * math.ceil(scale / ratio) <= num_crops:
        scale += 1
    new_width = (scale - 1) * crop_size
    # Float truncation, not integer division: the two differ for some sizes, such as 1120 x 250.
    new_height = int(new_width / ratio)
    if new_height < 1:
        raise ValueError(
            f"The image is {width} pixels long and {height} thick: cut into at most "
            f"{num_crops} crops of {crop_size} pixels nothing of its thickness is left. "
            "Crop it, or drop the sample."
        )
    return new_width, new_height


def pad_to_crops(image: Image.Image, num_crops: int, crop_size: int) -> Image.Image:
    """Resize and pad an RGB image so that both sides are multiples of `crop_size`.

    Input:  500 x 333, num_crops 4, crop_size 336
    Output: 672 x 672, the image in rows 112..558, white elsewhere
    """
    portrait = image.width < image.height
    if portrait:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    width, height = resized_size(image.width, image.height, num_crops, crop_size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    padded_height = math.ceil(height / crop_size) * crop_size
    if padded_height > height:
        canvas = Image.new("RGB", (width, padded_height), WHITE)
        canvas.paste(image, (0, (padded_height - height) // 2))
        image = canvas
    return image.transpose(Image.Transpose.TRANSPOSE) if portrait else image


def _as_rgb(image: Any) -> Image.Image:
    """Convert an image to RGB the official way: alpha dropped, 16-bit gray clipped."""
    if isinstance(image, (np.ndarray, torch.Tensor)):
        raise ValueError(
            f"Images are read as PIL images; got {type(image).__name__}. Use PIL.Image.fromarray."
        )
    rgb: Image.Image = image if image.mode == "RGB" else image.convert("RGB")
    return rgb


Phi3VImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["Phi3VImageProcessor"]
