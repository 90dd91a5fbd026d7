"""Sample: the noun that all packages share. Images, their record, an id and a group."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from phi_vision.io.formatting import error_texts
from phi_vision.io.image_decoding import open_image

failure = error_texts(str(Path(__file__).with_name("errors.py")))  # of this package, in errors.yaml

Value = str | int | float | bool | None  # a value of a record's field
Record = Mapping[str, Value]  # field -> value, in the order of the columns
Role = Literal["system", "user", "assistant"]
IMAGE_MARK = "<image>"  # the place of the next image in a message, as in LLaVA and TRL


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
    messages: tuple[Message, ...] = ()  # the conversation, if there is one, instead of the template
    # For preference training: a completion that is worse than the right one, as the model would
    # generate it, without the closing control token; "" if there is none.
    rejected: str = ""

    def open_images(self) -> list[Image.Image]:
        """Read the images, in RGB or grey."""
        opened = []
        for number, encoded in enumerate(self.images, start=1):
            try:
                opened.append(open_image(encoded))
            except ValueError as error:
                raise failure("no_sample_image", id=self.id, number=number, error=error) from error
        return opened
