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
        limit = num_crops or self.num_crops
        padded = [pad_to_crops(_as_rgb(image), limit, self.crop_size) for image in loaded]
        sizes = [(image.height, image.width) for image in padded]
        cut = [self._cut(image) for image in padded]
        if self.pad_crops if pad_crops is None else pad_crops:
            # Crops of zeros up to (1 + num_crops, 3, S, S).
            missing = [(0, 0, 0, 0, 0, 0, 0, 1 + limit - len(crops)) for crops in cut]
            pixel_values = torch.stack(list(map(torch.nn.functional.pad, cut, missing)))
        else:
            pixel_values = torch.cat(cut) if len(cut) > 1 else cut[0]
        data = {
            "pixel_values": pixel_values,
            "image_sizes": torch.tensor(sizes, dtype=torch.long),
            "num_img_tokens": torch.tensor([self.count_tokens(*size) for size in sizes]),
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
        size = self.crop_size
        longer, shorter = resized_size(max(width, height), min(width, height), self.num_crops, size)
        padded = math.ceil(shorter / size) * size
        return self.count_tokens(*((longer, padded) if width < height else (padded, longer)))

    def _cut(self, image: Image.Image) -> torch.Tensor:
        """Normalise and cut a padded image: (1 + rows * columns, 3, S, S), global view first."""
        size = self.crop_size
        rows, columns = image.height // size, image.width // size
        cut = torch.empty(1 + rows * columns, 3, size, size)
        crops = cut[1:].view(rows, columns, 3, size, size)
        # Channel by channel, so that the pixels at work stay in the processor's cache.
        for channel, mean, std, place in zip(
            image.split(), self.image_mean, self.image_std, range(3), strict=True
        ):
            pixels_HW = torch.from_numpy(np.array(channel)).float().div_(255).sub_(mean).div_(std)
            crops[:, :, place] = pixels_HW.view(rows, size, columns, size).transpose(1, 2)
            # White bars included: as the official code.
            cut[0, place] = shrink(shrink(pixels_HW, size, dim=0), size, dim=1)
        return cut


def shrink(pixels: torch.Tensor, size: int, *, dim: int) -> torch.Tensor:
    """Shrink one dimension to `size`, a divisor of its length: bicubic, without antialiasing.

    As `torch.nn.functional.interpolate`, whose taps are the same for every pixel where the factor
    is whole: the middle one of an odd factor, four around the middle of an even one.

    Input:  672 values, size 336
    Output: 336 values, each 0.59 of its two and -0.09 of their two neighbours
    """
    factor = pixels.shape[dim] // size
    if factor == 1:
        return pixels
    parts, middle = pixels.unflatten(dim, (size, factor)), factor // 2
    if factor % 2:
        shrunk: torch.Tensor = parts.select(dim + 1, middle)
        return shrunk
    left, right = parts.select(dim + 1, middle - 1), parts.select(dim + 1, middle)
    if factor == 2:
        # The outer taps are values of the neighbours; at the border, of the border.
        before = torch.cat([left.narrow(dim, 0, 1), right.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([left.narrow(dim, 1, size - 1), right.narrow(dim, size - 1, 1)], dim)
    else:
        before, after = parts.select(dim + 1, middle - 2), parts.select(dim + 1, middle + 1)
    inner, outer = BICUBIC_TAPS
    shrunk = (left + right).mul_(inner)
    return shrunk.add_(before, alpha=outer).add_(after, alpha=outer)


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
    rgb: Image.Image = image.convert("RGB")
    return rgb


Phi3VImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["Phi3VImageProcessor"]
