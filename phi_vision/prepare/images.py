"""Clean one image: decode it safely, normalise it, and hash it for finding duplicates.

The result decodes alike everywhere: RGB or grey, upright, opaque, sRGB, one frame.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from phi_vision.io.hashing import perceptual_hash, pixel_digest
from phi_vision.prepare.prepare_config import PrepareConfig

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
# Pillow's other readers are for icons, games and science, or start a PostScript interpreter.
_KEPT_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # as shown by browsers
_MAGIC_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")

_JPEG_SIDE = 65_500  # pixels, the most that a JPEG can have
_MAX_SCANS = 200  # of a progressive JPEG; about ten are usual
_MAX_ROUNDING = 3  # levels of 256 by which small sRGB profiles change colours

_PLAIN_MODES = {
    "P": ("RGB", "palette to RGB"),
    "1": ("L", "black and white to grey"),
    "YCbCr": ("RGB", "YCbCr to RGB"),
}
# EXIF orientation -> its inverse (EXIF 2.32, tag 274).
_TURN = Image.Transpose
_TURNS: dict[object, Image.Transpose] = {
    **{2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM},
    **{5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90},
}


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
                raise ValueError(
                    f"invalid image rules: {name} is {value}; it must be {low} to {high}"
                )


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

    Raises:
        ValueError: The image cannot be decoded, or is too large, too small or too narrow. A short
            reason that is the same for all of its kind, a colon and a detail.
    """
    # Pillow warns of odd metadata, and of large images, which the rules check.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = _decode(encoded, rules)
        image, changes = _normalise(source, rules)
    if source.format not in _KEPT_FORMATS:
        changes.append(f"{source.format} to JPEG")
    if changes:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rules.quality, subsampling=0, comment=b"")
        encoded = file.getvalue()
    rgb = image.convert("RGB")
    hashes = pixel_digest(rgb), perceptual_hash(rgb)
    return CleanImage(encoded, image.width, image.height, *hashes, tuple(changes))


def _decode(encoded: bytes, rules: ImageRules) -> Image.Image:
    """Open an image, check its header, and only then decode its first frame."""
    if not encoded:
        raise ValueError("empty image: found 0 bytes; add the image or leave it out")
    with _decoder_errors(encoded, rules):
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    found = f"found {image.width}×{image.height} pixels"
    shorter, longer = sorted(image.size)
    scans = encoded.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    problems = {
        _TOO_MANY.format(found, rules.max_pixels): shorter * longer > rules.max_pixels,
        f"too narrow: {found}, the maximum aspect ratio is {rules.max_aspect:g}; crop the image": (
            shorter < 1 or longer > rules.max_aspect * shorter
        ),
        f"too small: {found}, the minimum is {rules.min_side} on each side; give a larger image": (
            shorter < rules.min_side
        ),
        f"too many scans: a JPEG of {len(encoded)} bytes has more than {_MAX_SCANS} scans, which "
        "take minutes; save it again": scans > _MAX_SCANS,
    }
    for problem, is_found in problems.items():
        if is_found:
            raise ValueError(problem)
    with _decoder_errors(encoded, rules):
        image.load()
    return image


_TOO_MANY = "too many pixels: {}, the maximum is {}; give a smaller image"


@contextmanager
def _decoder_errors(encoded: bytes, rules: ImageRules) -> Iterator[None]:
    """Turn a decoder's error into a reason.

    Decoders raise anything (OSError, SyntaxError, EOFError, struct.error, ...); for the user the
    image is damaged. Only memory is not the image's fault.
    """
    try:
        yield
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(_TOO_MANY.format(f"found {error}", rules.max_pixels)) from error
    except UnidentifiedImageError as error:
        if encoded.startswith(_MAGIC_BYTES) or encoded[8:12] == b"WEBP":
            raise ValueError(
                f"damaged image: {len(encoded)} bytes end in the header; download it again"
            ) from error
        found = _describe_content(encoded)
        raise ValueError(f"not an image: found {found}; give a JPEG, PNG or WebP file") from error
    except Exception as error:
        reason = "truncated image" if "truncated" in str(error).lower() else "damaged image"
        raise ValueError(
            f"{reason}: {len(encoded)} bytes cannot be decoded ({error}); download or save it again"
        ) from error


def _describe_content(encoded: bytes) -> str:
    """Describe a file that is not an image, such as `an HTML page`."""
    start = encoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<") and b"<svg" in start:
        return "an SVG drawing"
    if encoded[4:8] == b"ftyp":
        return f"a file of kind {encoded[8:12].decode('latin-1').strip().upper()}"
    known = {b"%pdf": "a PDF", b"pk": "a ZIP archive", b"<?xml": "an XML file", b"{": "JSON"}
    known |= dict.fromkeys((b"<!doctype html", b"<html", b"<head", b"<body"), "an HTML page")
    named = (name for mark, name in known.items() if start.startswith(mark))
    return next(named, f"{len(encoded)} bytes that begin with {encoded[:8]!r}")


def _normalise(source: Image.Image, rules: ImageRules) -> tuple[Image.Image, list[str]]:
    """Return a decoded image as RGB or grey, upright and not too large, with the changes."""
    image, changes = _opaque(source)
    try:
        orientation: object = source.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # struct.error, SyntaxError, ValueError, ...: as it is with decoders
        # Encoded again without it: other readers may fail on it.
        orientation = None
        changes.append("broken EXIF dropped")
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
        changes.append("turned by EXIF")
    longest = max(image.size)
    if longest > rules.longest_side:
        width, height = (max(1, round(side * rules.longest_side / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        changes.append("scaled down")
    # A JPEG's further images (MPO: depth, a second eye) are ignored by readers. Others are tried
    # last: seeking the second frame loses the first.
    if image is source:
        image = source.copy()
    if source.format != "MPO":
        try:
            source.seek(1)
        except EOFError:
            return image, changes
        except Exception:  # a second frame, and a damaged one
            pass
        changes.append("first frame of several")
    return image, changes


def _opaque(source: Image.Image) -> tuple[Image.Image, list[str]]:
    """Convert any mode to RGB or grey in sRGB, alpha over white, and list the changes."""
    image, changes = source, []
    if image.mode.startswith("I;16"):
        # 65535 / 257 = 255. Pillow's own conversion clips or drops bits, depending on its version.
        levels = (np.asarray(image).astype(np.uint32) + 128) // 257
        image = Image.fromarray(levels.astype(np.uint8))
        changes.append("16-bit to 8-bit")
    elif image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.new("RGBA", above.size, "white")
        image.alpha_composite(above)
        image = image.convert("RGB")
        changes.append("alpha over white")
    elif image.mode in _PLAIN_MODES:
        target, change = _PLAIN_MODES[image.mode]
        image = image.convert(target)
        changes.append(change)
    elif image.mode not in ("L", "RGB", "CMYK"):
        raise ValueError(
            f"unknown pixel values: found Pillow's mode {image.mode!r}, whose value range is not "
            "known; save the image as RGB with 8 bits"
        )
    is_cmyk = image.mode == "CMYK"
    transform = _to_srgb(source.info.get("icc_profile"), image.mode)
    if transform is not None:
        image = transform.apply(image)
        changes.append("colour profile to sRGB")
    if is_cmyk:
        image = image.convert("RGB")
        changes.append("CMYK to RGB")
    return image, changes


@lru_cache(maxsize=64)  # a catalog has a few profiles and many images
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from a colour profile to sRGB; None where it would change nothing."""
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # None, unreadable, or for other channels than the image has: browsers ignore it, too.
        return None
    if mode == "CMYK":
        return transform
    # Many profiles are sRGB under another name or rounded: the effect on colours decides.
    steps = np.linspace(0, 255, 5).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(5, 25, 3)
    probe = Image.fromarray(cube).convert(mode)
    after = np.asarray(transform.apply(probe)).astype(int)
    before = np.asarray(probe.convert("RGB")).astype(int)
    return transform if np.abs(after - before).max() > _MAX_ROUNDING else None
