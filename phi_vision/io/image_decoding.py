"""The one way to read an image, in preparation, training, prediction and serving alike.

files, bytes, arrays -> upright, opaque sRGB or grey of 8 bits, the first frame
"""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from phi_vision.io.formatting import error_texts, read_yaml

failure = error_texts(__file__)

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
# Pillow's other readers are for icons, games and science, or start a PostScript interpreter.
_MAGIC_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_FOREIGN: dict[str, str] = read_yaml(__file__)["foreign"]
_MAX_ROUNDING = 3  # levels of 256 by which small sRGB profiles change colours

_PLAIN_MODES = {
    "P": ("RGB", "palette to RGB"),
    "1": ("L", "black and white to grey"),
    "YCbCr": ("RGB", "YCbCr to RGB"),
    "RGBX": ("RGB", "unused channel dropped"),
}
# EXIF orientation -> its inverse (EXIF 2.32, tag 274).
_TURN = Image.Transpose
_TURNS: dict[object, Image.Transpose] = {
    **{2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM},
    **{5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90},
}


@runtime_checkable
class BinaryFile(Protocol):
    """An open file, a BytesIO or the like."""

    def seek(self, offset: int, /) -> object: ...  # noqa: D102
    def read(self) -> bytes: ...  # noqa: D102


ImageSource = str | Path | bytes | BinaryFile | Image.Image | NDArray[Any]  # bytes are encoded


def open_image(source: ImageSource) -> Image.Image:
    """Read an image of any kind as the model sees it; reading the result again changes nothing.

    Input:  a PNG of 640×480 transparent pixels whose EXIF says "turned by 90°"
    Output: a white RGB image of 480×640 pixels

    What is no image, damaged, or of no known range is a ValueError: a short reason that is the same
    for all of its kind, a colon and a detail.
    """
    encoded = b""
    match source:
        case np.ndarray():
            image = _from_array(source)
        case Image.Image():
            image = source
        case str() if not source or source.startswith("data:") or "://" in source:
            raise failure("no_path", found=source)
        case str() | Path():
            try:
                return open_image(Path(source).read_bytes())
            except OSError as error:
                raise failure("no_file", file=str(source), reason=error.strerror) from error
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error
        case _:
            encoded = _read(source)
            image = open_header(encoded)
    with decoder_errors(encoded):
        image.load()
    return normalise(image, encoded)[0]


def image_size(encoded: bytes) -> tuple[int, int]:
    """Read an image's width and height from its header, after its EXIF orientation."""
    with open_header(encoded) as image, decoder_errors(encoded):
        is_transposed = _orientation(image) in (5, 6, 7, 8)
        return image.size[::-1] if is_transposed else image.size


def open_header(encoded: bytes) -> Image.Image:
    """Open an encoded image without decoding its pixels; the content decides its format."""
    if not encoded:
        raise failure("empty")
    with decoder_errors(encoded):
        return Image.open(io.BytesIO(encoded), formats=FORMATS)


def normalise(source: Image.Image, encoded: bytes = b"") -> tuple[Image.Image, list[str]]:
    """Return a decoded image as upright RGB or grey without metadata, with the changes.

    Input:  an RGBA image whose EXIF says "turned by 90°"
    Output: an RGB image, ["alpha over white", "turned by EXIF"]

    The pixels of `source` are loaded; its file, `encoded`, tells the bits of a PNG's levels, which
    Pillow does not.
    """
    image, changes = _opaque(source, encoded[24] if encoded.startswith(b"\x89PNG") else 8)
    orientation = _orientation(source)
    if orientation is None:
        changes.append("broken EXIF dropped")
    elif orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
        changes.append("turned by EXIF")
    image = source.copy() if image is source else image
    image.info = {}  # or it would be turned again
    return image, changes


def encode_image(image: Image.Image, form: str, **options: Any) -> bytes:
    """Write an image in a file format of Pillow's, such as "JPEG", with the options of its save."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def thumbnail_base64(image: Image.Image, side: int) -> str:
    """Write an image as a small JPEG, its longest side of so many pixels at most, in base64."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return base64.b64encode(encode_image(small, "JPEG", quality=80)).decode()


@contextmanager
def decoder_errors(encoded: bytes) -> Iterator[None]:
    """Turn a decoder's error into a reason.

    Decoders raise anything (OSError, SyntaxError, EOFError, struct.error, ...); for the user the
    image is damaged. Only memory is not the image's fault.
    """
    try:
        yield
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise failure("too_many_pixels", error=error) from error
    except UnidentifiedImageError as error:
        if encoded.startswith(_MAGIC_BYTES) or encoded[8:12] == b"WEBP":
            raise failure("damaged_header", size=len(encoded)) from error
        raise failure("no_image", found=_describe_content(encoded)) from error
    except Exception as error:
        reason = "truncated image" if "truncated" in str(error).lower() else "damaged image"
        raise failure("damaged", reason=reason, size=len(encoded), error=error) from error


def _read(source: object) -> bytes:
    """Return the bytes of an encoded image."""
    encoded: object = source
    if isinstance(source, BinaryFile):
        source.seek(0)  # as Pillow does: files that were just written stand at their end
        encoded = source.read()
    if isinstance(encoded, bytes | bytearray | memoryview):
        return bytes(encoded)
    found = " ".join(repr(source).split())
    raise failure("no_source", source=found, kind=type(source).__name__)


def _from_array(array: NDArray[Any]) -> Image.Image:
    """Convert (rows, columns) or (rows, columns, channels) of 8 or 16 bits to an image."""
    pixels = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if pixels.dtype == np.uint16:
        pixels = _to_8_bits(pixels)
    is_known = pixels.dtype in (np.uint8, np.bool_) and pixels.size
    if not is_known or pixels.shape[2:] not in ((), (3,), (4,)) or pixels.ndim < 2:
        raise failure("no_array", dtype=array.dtype, shape=array.shape)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _to_8_bits(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    # 65535 / 257 = 255. Pillow's own conversion clips or drops bits, depending on its version.
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _describe_content(encoded: bytes) -> str:
    """Describe a file that is not an image, such as `an HTML page`."""
    start = encoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    start = start[4:] if start[4:8] == b"ftyp" else start
    start = b"<svg" if start.startswith(b"<") and b"<svg" in start else start
    named = (name for mark, name in _FOREIGN.items() if start.startswith(mark.encode("latin-1")))
    return next(named, f"{len(encoded)} bytes that begin with {encoded[:8]!r}")


def _orientation(image: Image.Image) -> object:
    """Read the EXIF orientation; None where the EXIF data are broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # struct.error, SyntaxError, ValueError, ...: as it is with decoders
        return None


def _opaque(source: Image.Image, bits: int) -> tuple[Image.Image, list[str]]:
    """Convert any mode to RGB or grey in sRGB, alpha over white, and list the changes.

    `bits` are those of a level in the file: Pillow scales pixels to 8, but not a PNG's transparent
    colour.
    """
    image, hidden = source, source.info.get("transparency")
    is_grey16 = image.mode.startswith("I;16")
    changes = ["16-bit to 8-bit"] if is_grey16 or bits == 16 else []
    if is_grey16:
        pixels = np.asarray(image)
        levels = _to_8_bits(pixels)
        if hidden is not None:
            levels[pixels == hidden] = 255
            changes.append("alpha over white")
        image = Image.fromarray(levels)
    elif image.has_transparency_data:
        if bits != 8 and image.mode in ("L", "RGB"):  # a PNG's transparent colour
            image = source.copy()
            colour = hidden if isinstance(hidden, tuple) else (hidden,)
            scaled = [each >> 8 if bits == 16 else each * 255 // (2**bits - 1) for each in colour]
            image.info["transparency"] = tuple(scaled) if len(scaled) == 3 else scaled[0]
        above = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGBA", above.size, "white")
        image.alpha_composite(above)
        image = image.convert("RGB")
        changes.append("alpha over white")
    elif image.mode in _PLAIN_MODES:
        target, change = _PLAIN_MODES[image.mode]
        image = image.convert(target)
        changes.append(change)
    elif image.mode not in ("L", "RGB", "CMYK"):
        raise failure("no_mode", mode=image.mode)
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
