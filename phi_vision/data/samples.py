"""Sample: the one noun every room shares. Images, what is said of them, an id, a group.

Holds no reading of data sets (`loading.py`) and no wording (`template.py`).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image, ImageOps

Value = str | int | float | bool | None
"""What a field of a record can hold."""

Record = Mapping[str, Value]
"""Field -> value, in the order of the columns it came from."""


IMAGE_MARK = "<image>"
"""Where a message shows the next image, as LLaVA and TRL write it."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who speaks; what the assistant says is learnt."""

    content: str
    """The words; `<image>` stands where the next image is shown."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images and the record they belong to, or a conversation about them."""

    id: str
    """Names the sample in messages, predictions and reports."""

    group: str
    """What must not straddle a split: a style in all its colours."""

    images: tuple[bytes, ...]
    """Encoded images (JPEG, PNG, ...), in the order in which the prompt counts them."""

    record: Record
    """All scalar columns of the source, ordered."""

    messages: tuple[Message, ...] = ()
    """The conversation, where the sample is one; then no template words it."""

    rejected: str = ""
    """An answer that is worse than the right one, for training on preferences; "" where none is
    known. Written as the model would write it, without the closing control token."""

    def open_images(self) -> list[Image.Image]:
        """Decode the images, in their own mode: converting to RGB is the image processor's job.

        Raises:
            ValueError: An image cannot be decoded; names the sample and which image.
        """
        opened = []
        for number, encoded in enumerate(self.images, start=1):
            try:
                opened.append(open_image(encoded))
            except ValueError as error:
                raise ValueError(f"sample {self.id!r}, image {number}: {error}") from error
        return opened


def open_image(source: bytes | Path) -> Image.Image:
    """Decode one image, turned the way its EXIF orientation says it was taken.

    Input:  a JPEG of 640×480 pixels whose EXIF says "turned by 90°"
    Output: an image of 480×640 pixels, without that EXIF entry

    Raises:
        ValueError: There is no such file, or it holds no image that can be decoded.
    """
    if isinstance(source, Path) and not source.is_file():
        found = "a folder" if source.is_dir() else "nothing"
        raise ValueError(f"no image at {source}: found {found} there; give the path of a file")
    what = str(source) if isinstance(source, Path) else f"{len(source)} bytes"
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            return ImageOps.exif_transpose(image)
    # Decoders fail in their own ways (OSError, SyntaxError, EOFError, struct.error, ...), and for
    # the user they are one thing: this is not an image.
    except Exception as error:
        raise ValueError(
            f"cannot read an image from {what}: {error}; give a JPEG, PNG or WebP file"
        ) from error
