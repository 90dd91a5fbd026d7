"""Sample: the noun that all packages share. Images, their record, an id and a group."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import ExifTags, Image, ImageOps

Value = str | int | float | bool | None  # a value of a record's field

Record = Mapping[str, Value]  # field -> value, in the order of the columns

Role = Literal["system", "user", "assistant"]

IMAGE_MARK = "<image>"  # the place of the next image in a message, as in LLaVA and TRL

FIRST_TRANSPOSED = 5  # EXIF orientations from here on exchange width and height


class Message(NamedTuple):
    """One turn of a conversation; only the assistant's are supervised."""

    role: Role
    content: str  # `<image>` is the place of the next image


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images and the record they belong to, or a conversation about them."""

    id: str  # the name in messages, predictions and reports
    group: str  # must not straddle a split: a style in all its colors
    images: tuple[bytes, ...]  # encoded (JPEG, PNG, ...), in the order in which prompts count them
    record: Record  # all scalar columns of the source, ordered
    messages: tuple[Message, ...] = ()
    """The conversation, if there is one; it takes the place of the template."""

    rejected: str = ""
    """A completion that is worse than the right one, for preference training; "" if there is none.
    As the model would generate it, without the closing control token."""

    def open_images(self) -> list[Image.Image]:
        """Decode the images in their own mode; the image processor converts to RGB."""
        opened = []
        for number, encoded in enumerate(self.images, start=1):
            try:
                opened.append(open_image(encoded))
            except ValueError as error:
                raise ValueError(f"sample {self.id!r}, image {number}: {error}") from error
        return opened


def open_image(source: bytes | Path) -> Image.Image:
    """Decode an image and apply its EXIF orientation.

    Input:  a JPEG of 640×480 pixels whose EXIF says "turned by 90°"
    Output: an image of 480×640 pixels, without that EXIF entry
    """
    with _opened(source) as image:
        return ImageOps.exif_transpose(image)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Read an image's width and height from its header, after its EXIF orientation."""
    with _opened(encoded) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image.size[::-1] if orientation >= FIRST_TRANSPOSED else image.size


@contextmanager
def _opened(source: bytes | Path) -> Iterator[Image.Image]:
    if isinstance(source, Path) and not source.is_file():
        found = "a folder" if source.is_dir() else "nothing"
        raise ValueError(f"no image at {source}: found {found} there; give the path of a file")
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            yield image
    # Decoders fail in their own ways (OSError, SyntaxError, EOFError, struct.error, ...), and all
    # mean the same to the user: this is not an image.
    except Exception as error:
        what = source if isinstance(source, Path) else f"{len(source)} bytes"
        raise ValueError(
            f"cannot read an image from {what}: {error}; give a JPEG, PNG or WebP file"
        ) from error
