"""Sample: the noun that all packages share. Images, their record, an id and a group.

Image ablations are samples with other images, or none, on which a model that looks must fail.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phi_vision.io.formatting import error_texts
from phi_vision.io.hashing import sha256_of_all
from phi_vision.io.image_decoding import encode_image, image_size, open_image

failure = error_texts(__file__, "errors.yaml")  # of this package

Value = str | int | float | bool | None  # a value of a record's field
Record = Mapping[str, Value]  # field -> value, in the order of the columns
Read = TypeVar("Read")
Role = Literal["system", "user", "assistant"]
Places = Sequence[int] | NDArray[np.integer[Any]]  # of samples in a sequence, in any order
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
    images: Sequence[bytes]  # encoded (JPEG, PNG, ...), in the order in which prompts count them
    record: Record  # all scalar columns of the source, ordered
    messages: tuple[Message, ...] = ()  # the conversation, if there is one, instead of the template
    # For preference training: a completion that is worse than the right one, as the model would
    # generate it, without the closing control token; "" if there is none.
    rejected: str = ""

    def open_images(self) -> list[Image.Image]:
        """Read the images, in RGB or grey."""
        return self.map_images(open_image)

    def map_images(self, read: Callable[[bytes], Read]) -> list[Read]:
        """Apply a function to each encoded image; its ValueError names sample and image."""
        found = []
        for number, encoded in enumerate(self.images, start=1):
            try:
                found.append(read(encoded))
            except ValueError as error:
                raise failure("no_sample_image", id=self.id, number=number, error=error) from error
        return found


class StoredImages(Sequence[bytes]):
    """Encoded images that are read when they are used; equal to a tuple of them, and pickled so."""

    def __init__(self, count: int, read: Callable[[], Sequence[bytes]]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        """Read some of them."""
        return self._read()[at]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and (*self,) == (*other,)

    def __hash__(self) -> int:
        return hash((*self,))

    def __reduce__(self) -> tuple[object, ...]:
        return tuple, ((*self,),)


class SampleSource(Protocol):
    """What builds samples on access. Picklable, for data-loader workers."""

    def read(self, places: Places) -> Iterator[Sample]:
        """Build the samples at some places, in the given order."""

    def fingerprint(self) -> str | None:
        """Hash the files of all samples; None if their content is elsewhere, too."""

    @property
    def may_have_messages(self) -> bool:
        """Whether some samples may be conversations."""


class LazySamples(Sequence[Sample]):
    """Samples that are built on access: only their places in the source are in memory.

    Equal to a list of the same samples.
    """

    def __init__(self, source: SampleSource, places: Places) -> None:
        self.source, self.places = source, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> "LazySamples": ...
    def __getitem__(self, at: int | slice) -> "Sample | LazySamples":
        """Build one sample, or select several."""
        if isinstance(at, slice):
            return LazySamples(self.source, self.places[at])
        return next(self.source.read([int(self.places[at])]))

    def __iter__(self) -> Iterator[Sample]:
        return self.source.read(self.places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]


class SampleRows:
    """Rows of a batch, built on access: each one sample, or the samples at several places."""

    def __init__(
        self, samples: Sequence[Sample], places: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.samples, self.places = samples, places

    def __len__(self) -> int:
        return len(self.samples if self.places is None else self.places)

    def __getitem__(self, at: int) -> tuple[Sample, ...]:
        """Build one row."""
        places = [at] if self.places is None else self.places[at]
        return tuple(self.samples[place] for place in places)


def select(samples: Sequence[Sample], places: Places) -> Sequence[Sample]:
    """Select samples by their places, lazily if they are lazy."""
    if isinstance(samples, LazySamples):
        chosen = np.asarray(samples.places)[np.asarray(places, dtype=np.int64)]
        return LazySamples(samples.source, chosen.astype(np.int32))
    return [samples[int(place)] for place in places]


@dataclass(frozen=True)
class ChangedSamples:
    """A source whose samples are those of another sequence with a change."""

    samples: Sequence[Sample]
    change: Callable[[int, Sample], Sample]  # of a place and its sample

    def read(self, places: Places) -> Iterator[Sample]:
        """Build the changed samples at some places."""
        return map(self.change, map(int, places), select(self.samples, places))

    def fingerprint(self) -> str | None:
        """Return none: the change is not in the files."""
        return None

    @property
    def may_have_messages(self) -> bool:
        """Whether some samples may be conversations."""
        return may_have_messages(self.samples)


@dataclass(frozen=True)
class JoinedSamples:
    """A source of the samples of several sequences, one after the other."""

    parts: Sequence[Sequence[Sample]]

    def read(self, places: Places) -> Iterator[Sample]:
        """Build the samples at some places."""
        starts = np.cumsum([0, *map(len, self.parts)])
        wanted = np.asarray(places, dtype=np.int64)
        parts = np.searchsorted(starts, wanted, side="right") - 1
        # Runs within one part, which are read as a stream.
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(parts)) + 1):
            if len(run):
                part = int(parts[run[0]])
                yield from select(self.parts[part], wanted[run] - starts[part])

    def fingerprint(self) -> str | None:
        """Hash the files of all parts, each once."""
        lazy = [each for each in self.parts if isinstance(each, LazySamples)]
        found = [each.source.fingerprint() for each in lazy]
        known = dict.fromkeys(each for each in found if each is not None)
        return sha256_of_all(known) if len(lazy) == len(self.parts) and None not in found else None

    @property
    def may_have_messages(self) -> bool:
        """Whether some samples may be conversations."""
        return any(map(may_have_messages, self.parts))


def join_samples(*parts: Sequence[Sample]) -> LazySamples:
    """Join sequences of samples without building any."""
    whole = [part for part in parts if part]
    return LazySamples(JoinedSamples(whole), range(sum(map(len, whole))))


def may_have_messages(samples: Sequence[Sample]) -> bool:
    """Whether some samples may be conversations; lazy ones know it without being built."""
    return not isinstance(samples, LazySamples) or samples.source.may_have_messages


def change_samples(
    samples: Sequence[Sample], change: Callable[[int, Sample], Sample]
) -> LazySamples:
    """Return samples that are changed on access."""
    return LazySamples(ChangedSamples(samples, change), range(len(samples)))


def shuffle_images(samples: Sequence[Sample], *, seed: int) -> LazySamples:
    """Replace every sample's images by another group's, as far as the group sizes allow.

    Samples are ordered group by group and the images rolled by the size of the largest group: where
    that is at most half of all, all images come from another group. Those without stay without.

    Input:  samples a1 a2 b1 c1 (groups a, b, c)
    Output: a1 with the images of b1, a2 of c1, b1 of a1, c1 of a2, or another such exchange
    """
    shown = [(place, sample.group) for place, sample in enumerate(samples) if sample.images]
    sources = np.arange(len(samples))
    if shown:
        rng = np.random.default_rng(seed)
        places: dict[str, list[int]] = {}
        for place, (_, group) in enumerate(shown):
            places.setdefault(group, []).append(place)
        members = [np.array(each) for each in places.values()]
        order = np.concatenate([rng.permutation(members[g]) for g in rng.permutation(len(members))])
        step = max(map(len, members))
        # With a single group, any other sample's images are used.
        rolled = np.roll(order, -(step if step < len(shown) else 1))
        at = np.array([place for place, _ in shown])
        sources[at[order]] = at[rolled]
    return change_samples(samples, partial(_exchange, samples, sources))


def _exchange(
    samples: Sequence[Sample], sources: NDArray[np.int64], place: int, sample: Sample
) -> Sample:
    if not sample.images:
        return sample
    new = samples[int(sources[place])].images
    if not sample.messages:
        return replace(sample, images=new)
    count = len(sample.images)
    return replace(sample, images=StoredImages(count, partial(_repeat, new, count)))


def _repeat(images: Sequence[bytes], count: int) -> tuple[bytes, ...]:
    return ((*images,) * count)[:count]


def blank_images(samples: Sequence[Sample]) -> LazySamples:
    """Replace every image by a white one of its size, so that only the shapes remain."""
    return change_samples(samples, _blank)


def _blank(_: int, sample: Sample) -> Sample:
    return replace(sample, images=StoredImages(len(sample.images), partial(_white, sample)))


def _white(sample: Sample) -> tuple[bytes, ...]:
    return tuple(map(_white_image, sample.map_images(image_size)))


@lru_cache(maxsize=256)
def _white_image(size: tuple[int, int]) -> bytes:
    return encode_image(Image.new("RGB", size, "white"), "PNG")


def withhold_images(samples: Sequence[Sample]) -> LazySamples:
    """Remove all images, and the marks of their places in conversations."""
    return change_samples(samples, _withhold)


def _withhold(_: int, sample: Sample) -> Sample:
    def without(text: str) -> str:
        return text.replace(IMAGE_MARK, "").lstrip("\n")

    turns = [turn._replace(content=without(turn.content)) for turn in sample.messages]
    return replace(sample, images=(), messages=tuple(turns))
