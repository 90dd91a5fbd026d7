"""Clean one image: decode it safely, normalise it, and hash it for finding duplicates.

The result decodes alike everywhere: RGB or grey, upright, opaque, sRGB, one frame.
"""

import io
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from phi_vision.io.hashing import perceptual_hash, pixel_digest
from phi_vision.prepare.prepare_config import PrepareConfig

_JPEG_SIDE = 65_500

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
# Pillow's other readers are for icons, games and science, or start a PostScript interpreter.
_KEPT_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # as shown by browsers
_MAGIC_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")

_MAX_SCANS = 200  # of a progressive JPEG; about ten are usual
_MAX_ROUNDING = 3  # levels of 256 by which small sRGB profiles change colours

_PLAIN_MODES = {
    "P": ("RGB", "palette to RGB"),
    "1": ("L", "black and white to grey"),
    "YCbCr": ("RGB", "YCbCr to RGB"),
}

_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> its inverse (EXIF 2.32, tag 274)."""


@dataclass(frozen=True, kw_only=True)
class ImageRules:
    """Which images are accepted, and how large they may stay."""

    max_pixels: int = 100_000_000
    """Larger images are rejected by their header, before decoding: 100 million pixels take
    300 MB."""

    longest_side: int = PrepareConfig.longest_side
    """Larger images are scaled down to this: six crops of 336 pixels, more than the model uses in
    its usual settings."""

    max_aspect: float = 8.0
    """Longer side divided by shorter side: beyond it an image is a banner, not a product."""

    min_side: int = 28
    """Smaller images are icons and tracking pixels: 28 pixels are two patches of the model."""

    quality: int = 95
    """Of the JPEG of a changed image, without chroma subsampling."""

    def __post_init__(self) -> None:
        """Check that the rules can take effect."""
        # Pillow itself rejects more than twice its own limit, which is global.
        max_pixels = 2 * (Image.MAX_IMAGE_PIXELS or self.max_pixels)
        for name, low, high in (
            ("max_pixels", 1, max_pixels),
            ("longest_side", self.min_side, _JPEG_SIDE),
            ("min_side", 1, _JPEG_SIDE),
            ("max_aspect", 1, math.inf),
            ("quality", 1, 100),
        ):
            if not low <= getattr(self, name) <= high:
                found = f"{name} is {getattr(self, name)}"
                raise ValueError(f"invalid image rules: {found}; it must be {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class CleanImage:
    """An image of the dataset: RGB or grey, upright, opaque, one frame."""

    encoded: bytes
    """The original file where nothing had to change, else a JPEG."""

    width: int
    height: int

    digest: str
    """SHA-256 of size and RGB pixels before encoding: the same in two file formats."""

    perceptual_hash: int | None
    """64 bits that stay nearly the same when an image is scaled or re-encoded; None for a flat
    image."""

    changes: tuple[str, ...]
    """In order, empty where the file was kept: `turned by EXIF`, `CMYK to RGB`."""


def clean_image(encoded: bytes, rules: ImageRules) -> CleanImage:
    """Convert an image to upright, opaque sRGB or grey, its first frame, not too large.

    A JPEG, PNG or WebP file that already is all of this is kept byte for byte; everything else is
    written as JPEG. The format is detected from the content, never from a name.

    Input:  a JPEG of 4000×3000 pixels whose EXIF says "turned by 90°"
    Output: a JPEG of 1512×2016 pixels, changes ("turned by EXIF", "scaled down")

    Raises:
        ValueError: The image is empty, of an unknown format, damaged, too large, too small or too
            narrow. The message begins with a short reason that is the same for all of its kind,
            then a colon.
    """
    # Pillow warns of odd metadata, and of large images, which the rules check.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = _decode(encoded, rules)
        image, changes = _normalise(source, rules)
    format = str(source.format)
    if format not in _KEPT_FORMATS:
        changes.append(f"{format} to JPEG")
    if changes:
        encoded = _jpeg(image, rules.quality)
    rgb = image.convert("RGB")
    return CleanImage(
        encoded=encoded,
        width=image.width,
        height=image.height,
        digest=pixel_digest(rgb),
        perceptual_hash=perceptual_hash(rgb),
        changes=tuple(changes),
    )


def _decode(encoded: bytes, rules: ImageRules) -> Image.Image:
    """Open an image, check its header, and only then decode its first frame."""
    if not encoded:
        raise ValueError("empty image: found 0 bytes; add the image or leave it out")
    # Decoders raise anything (OSError, SyntaxError, EOFError, struct.error, ...); for the user the
    # image is damaged. Only memory is not the image's fault.
    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(_too_many_pixels(str(error), rules)) from error
    except UnidentifiedImageError as error:
        raise ValueError(_unknown(encoded)) from error
    except Exception as error:
        raise ValueError(_damaged(encoded, error)) from error
    _check_header(image, rules)
    if image.format in ("JPEG", "MPO") and encoded.count(b"\xff\xda") > _MAX_SCANS:
        raise ValueError(
            f"too many scans: a JPEG of {len(encoded)} bytes has more than {_MAX_SCANS} scans, "
            "which take minutes; save it again"
        )
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(_damaged(encoded, error)) from error
    return image


def _check_header(image: Image.Image, rules: ImageRules) -> None:
    width, height = image.size
    shorter, longer = sorted(image.size)
    if width * height > rules.max_pixels:
        raise ValueError(_too_many_pixels(f"{width}×{height} pixels", rules))
    if shorter < 1 or longer > rules.max_aspect * shorter:
        raise ValueError(
            f"too narrow: found {width}×{height} pixels, the maximum aspect ratio is "
            f"{rules.max_aspect:g}; crop the image"
        )
    if shorter < rules.min_side:
        raise ValueError(
            f"too small: found {width}×{height} pixels, the minimum is {rules.min_side} on each "
            "side; give a larger image"
        )


def _too_many_pixels(found: str, rules: ImageRules) -> str:
    return (
        f"too many pixels: found {found}, the maximum is {rules.max_pixels}; give a smaller image"
    )


def _damaged(encoded: bytes, error: Exception) -> str:
    reason = "truncated image" if "truncated" in str(error).lower() else "damaged image"
    return f"{reason}: {len(encoded)} bytes cannot be decoded ({error}); download or save it again"


def _unknown(encoded: bytes) -> str:
    if encoded.startswith(_MAGIC_BYTES) or encoded[8:12] == b"WEBP":
        return f"damaged image: {len(encoded)} bytes end in the header; download it again"
    return f"not an image: found {_describe_content(encoded)}; give a JPEG, PNG or WebP file"


def _describe_content(encoded: bytes) -> str:
    """Describe a file that is not an image.

    Input:  b"<!DOCTYPE html><html>…", b"%PDF-1.7…"
    Output: "an HTML page", "a PDF"
    """
    start = encoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<") and b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if encoded[4:8] == b"ftyp":
        return f"a file of kind {encoded[8:12].decode('latin-1').strip().upper()}"
    known = {b"%pdf": "a PDF", b"pk": "a ZIP archive", b"<?xml": "an XML file", b"{": "JSON"}
    named = (name for mark, name in known.items() if start.startswith(mark))
    return next(named, f"{len(encoded)} bytes that begin with {encoded[:8]!r}")


def _normalise(source: Image.Image, rules: ImageRules) -> tuple[Image.Image, list[str]]:
    """Return a decoded image as RGB or grey, upright and not too large, with the changes."""
    image, changes = _opaque(source)
    orientation = _orientation(source)
    if orientation is None:
        # Encoded again without it: other readers may fail on it.
        changes.append("broken EXIF dropped")
    elif orientation in _TURNS:
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
    if source.format != "MPO" and _has_more_frames(source):
        changes.append("first frame of several")
    return image, changes


def _opaque(source: Image.Image) -> tuple[Image.Image, list[str]]:
    """Convert any mode to RGB or grey in sRGB, alpha over white.

    Input:  a palette image with a transparent entry, beside a profile "Adobe RGB"
    Output: an RGB image, ["alpha over white", "colour profile to sRGB"]
    """
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
    transform = _to_srgb(source.info.get("icc_profile"), image.mode)
    if transform is not None:
        changes.append("colour profile to sRGB")
        cmyk = image.mode == "CMYK"
        image = transform.apply(image)
        return image, [*changes, "CMYK to RGB"] if cmyk else changes
    if image.mode == "CMYK":
        return image.convert("RGB"), [*changes, "CMYK to RGB"]
    return image, changes


@lru_cache(maxsize=64)  # a catalog has a few profiles and many images
def _to_srgb(profile: object, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the transform from a colour profile to sRGB; None where it would change nothing."""
    if not isinstance(profile, bytes) or not profile:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # Unreadable, or for other channels than the image has: browsers ignore it, too.
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


def _orientation(image: Image.Image) -> object | None:
    """Return the EXIF orientation, 1 where there is none, None where EXIF cannot be read."""
    try:
        orientation: object = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # struct.error, SyntaxError, ValueError, ...: as it is with decoders
        return None
    return orientation


def _has_more_frames(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    except Exception:  # a second frame, and a damaged one
        return True
    return True


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0, comment=b"")
    return buffer.getvalue()
