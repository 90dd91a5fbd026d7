"""Clean one image: check it, normalise it (`io.image_decoding`), and hash it to find duplicates.

The result decodes alike everywhere: RGB or grey, upright, opaque, sRGB, one frame.
"""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from phi_vision.io.formatting import error_texts
from phi_vision.io.hashing import perceptual_hash, pixel_digest
from phi_vision.io.image_decoding import decoder_errors, encode_image, normalise, open_header
from phi_vision.prepare.prepare_config import PrepareConfig

failure = error_texts(__file__)
NEARLY_WHITE = 250  # of 255
_KEPT_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # as shown by browsers

_JPEG_SIDE = 65_500  # pixels, the most that a JPEG can have
_MAX_SCANS = 200  # of a progressive JPEG; about ten are usual


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """Which images are accepted, and how large they may stay."""

    max_pixels: int = 100_000_000  # checked before decoding, which takes 300 MB for as many
    longest_side: int = PrepareConfig.longest_side  # longer ones are scaled down to it
    max_aspect: float = 8.0  # longer by shorter side; beyond, it is a banner, not a product
    min_side: int = 28  # two patches of the model; smaller are icons and tracking pixels
    quality: int = 95  # of the JPEG of a changed image, without chroma subsampling

    def __post_init__(self) -> None:
        # Pillow itself rejects more than twice its own limit, which is global.
        max_pixels = 2 * (Image.MAX_IMAGE_PIXELS or self.max_pixels)
        for name, low, high in (
            ("max_pixels", 1, max_pixels),
            ("longest_side", self.min_side, _JPEG_SIDE),
            ("min_side", 1, _JPEG_SIDE),
            ("max_aspect", 1, math.inf),
            ("quality", 1, 100),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise failure("invalid_rules", name=name, value=value, low=low, high=high)


class CleanImage(NamedTuple):
    """An image of the dataset: RGB or grey, upright, opaque, one frame."""

    encoded: bytes  # the original file where nothing had to change, else a JPEG
    width: int
    height: int
    digest: str  # of the pixels: the same in two file formats
    perceptual_hash: int | None  # None for a flat image
    changes: tuple[str, ...]  # in order, such as `turned by EXIF`; empty where the file was kept


def clean_image(encoded: bytes, rules: ImageRules) -> CleanImage:
    """Convert an image to upright, opaque sRGB or grey, its first frame, not too large.

    A JPEG, PNG or WebP file that already is all of this is kept byte for byte; everything else is
    written as JPEG. The format is detected from the content, never from a name.

    Input:  a JPEG of 4000×3000 pixels whose EXIF says "turned by 90°"
    Output: a JPEG of 1512×2016 pixels, changes ("turned by EXIF", "scaled down")

    Raises ValueError if it cannot be decoded, or is too large, too small or too narrow: a short
    reason that is the same for all of its kind, a colon and a detail.
    """
    # Pillow warns of odd metadata, and of large images, which the rules check.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = _decode(encoded, rules)
        image, changes = normalise(source, encoded)
        longest, limit = max(image.size), rules.longest_side
        if longest > limit:
            width, height = (max(1, round(side * limit / longest)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
            changes.append("scaled down")
        if _has_more_frames(source):
            changes.append("first frame of several")
    if "alpha over white" in changes and not any(image.convert("L").histogram()[:NEARLY_WHITE]):
        raise failure("blank")
    if source.format not in _KEPT_FORMATS:
        changes.append(f"{source.format} to JPEG")
    if changes:
        options = {"quality": rules.quality, "subsampling": 0, "comment": b""}
        encoded = encode_image(image, "JPEG", **options)
    rgb = image.convert("RGB")
    hashes = pixel_digest(rgb), perceptual_hash(rgb)
    return CleanImage(encoded, image.width, image.height, *hashes, tuple(changes))


def _decode(encoded: bytes, rules: ImageRules) -> Image.Image:
    """Open an image, check its header, and only then decode its first frame."""
    image = open_header(encoded)
    shorter, longer = sorted(image.size)
    scans = encoded.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    problems = {
        "too_many_pixels": shorter * longer > rules.max_pixels,
        "too_narrow": shorter < 1 or longer > rules.max_aspect * shorter,
        "too_small": shorter < rules.min_side,
        "too_many_scans": scans > _MAX_SCANS,
    }
    for problem, is_found in problems.items():
        if is_found:
            raise failure(problem, image=image, rules=rules, size=len(encoded), scans=_MAX_SCANS)
    with decoder_errors(encoded):
        image.load()
    return image


def _has_more_frames(source: Image.Image) -> bool:
    """Whether readers may show another image; seeking it loses the first."""
    # A JPEG's further images (MPO: depth, a second eye) are ignored by readers.
    if source.format == "MPO":
        return False
    try:
        source.seek(1)
    except Exception as error:  # anything but the end is a second frame, and a damaged one
        return not isinstance(error, EOFError)
    return True
