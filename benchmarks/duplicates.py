"""Hamming distances of perceptual hashes, of copies and of products: the basis of `--tolerance`.

python -m benchmarks.duplicates FOLDER          (of samples: `data/<split>-*.parquet`)
"""

import argparse
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from phi_vision.data.dataset import load_samples
from phi_vision.data.samples import Sample
from phi_vision.io.hashing import perceptual_hash
from phi_vision.prepare.dedup import RowKeys, group_rows

TOLERANCES = (0, 2, 3, 4, 5, 6, 8, 10)

Hash = int | None


def measure(samples: Sequence[Sample]) -> None:
    """Print the fractions of copies and of different products within each tolerance."""
    images = [sample.open_images()[0].convert("RGB") for sample in samples]
    hashes = [perceptual_hash(image) for image in images]
    flat = hashes.count(None)
    print(f"{len(samples)} images, {flat} of them flat, of {len(set(_groups(samples)))} products")
    print(f"{'bits that differ, at most':32s}" + "".join(f"{each:>9d}" for each in TOLERANCES))
    for name, change in CHANGES.items():
        apart = _apart(hashes, [perceptual_hash(change(image)) for image in images])
        shares = ((apart <= tolerance).mean() for tolerance in TOLERANCES)
        print(f"{name:32s}" + "".join(f"{share:9.1%}" for share in shares))
    apart = _different(hashes, _groups(samples))
    print(
        f"{f'pairs of different, of {len(apart)}':32s}"
        + "".join(f"{(apart <= tolerance).sum():9d}" for tolerance in TOLERANCES)
    )
    largest = (_largest(hashes, _groups(samples), tolerance) for tolerance in TOLERANCES)
    print(f"{'largest group, rows (products)':32s}" + "".join(f"{each:>9s}" for each in largest))


def _groups(samples: Sequence[Sample]) -> list[str]:
    return [sample.group for sample in samples]


def _apart(hashes: Sequence[Hash], others: Sequence[Hash]) -> npt.NDArray[np.int64]:
    pairs = zip(hashes, others, strict=True)
    return np.array([65 if a is None or b is None else (a ^ b).bit_count() for a, b in pairs])


def _different(hashes: Sequence[Hash], groups: Sequence[str]) -> npt.NDArray[np.int64]:
    known = [
        (value, group) for value, group in zip(hashes, groups, strict=True) if value is not None
    ]
    bits = np.array([value for value, _ in known], dtype=np.uint64)
    names = np.unique([group for _, group in known], return_inverse=True)[1]
    apart = np.bitwise_count(bits[:, None] ^ bits[None, :]).astype(np.int64)
    different: npt.NDArray[np.int64] = apart[np.triu(names[:, None] != names[None, :])]
    return different


def _largest(hashes: Sequence[Hash], groups: Sequence[str], tolerance: int) -> str:
    """Format rows and products of the largest group by hashes alone: `12 (3)`."""
    keys = (
        RowKeys(number=number, id=str(number), hashes=(value,))
        for number, value in enumerate(hashes)
    )
    of = group_rows(keys, tolerance=tolerance).of
    (group, rows), *_ = Counter(of.tolist()).most_common(1)
    products = {groups[row] for row in np.flatnonzero(of == group).tolist()}
    return f"{rows} ({len(products)})"


def _recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def _halved(image: Image.Image) -> Image.Image:
    size = (image.width // 2, image.height // 2)
    return image.resize(size, Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, share: float) -> Image.Image:
    """Crop half of the share from each side."""
    x, y = (round(side * share / 2) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


def _padded(image: Image.Image) -> Image.Image:
    wider = Image.new("RGB", (image.width * 11 // 10, image.height * 11 // 10), "white")
    wider.paste(image, (image.width // 20, image.height // 20))
    return wider


def _brighter(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60": _recompressed,
    "half the size": _halved,
    "cropped by 2 %": lambda image: _cropped(image, 0.02),
    "cropped by 3 %": lambda image: _cropped(image, 0.03),
    "cropped by 6 %": lambda image: _cropped(image, 0.06),
    "a white margin of 5 %": _padded,
    "brighter by 5 %": lambda image: _brighter(image, 1.05),
    "darker by 5 %": lambda image: _brighter(image, 0.95),
    "cropped, darker, halved, JPEG": lambda image: _recompressed(
        _halved(_brighter(_cropped(image, 0.02), 0.95))
    ),
}
"""Change -> function that makes the changed copy, which should be found."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Measure perceptual hashes of copies and of other products."
    )
    parser.add_argument("folder", type=Path, help="samples grouped by product")
    measure(load_samples(parser.parse_args().folder))
