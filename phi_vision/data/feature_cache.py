"""Outputs of a frozen vision tower on disk, so that each crop of an image is encoded once.

    crops (N, 3, S, S) -> a digest each -> slots of a memory-mapped file -> features (N, P*P, D)
    encoded image      -> a digest      -> a slot of another file        -> digests of its crops

An image whose features are all there is not even decoded again. Epochs, evaluations, the
shuffled-image check and both models of DPO share them, and so do runs with the same tower. They are
in $PHI_VISION_CACHE, by default ~/.cache/phi-vision; the value `off` switches the cache off.
"""

import logging
import os
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import torch
from transformers.feature_extraction_utils import BatchFeature

from phi_vision import __version__
from phi_vision.io import atomic
from phi_vision.io.formatting import format_bytes
from phi_vision.io.hashing import sha256, sha256_of_all
from phi_vision.io.process import CACHE_VARIABLE, cache_folder
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor, count_crops
from phi_vision.model.modeling_phi3_v import Phi3VTower

logger = logging.getLogger(__name__)

LIMIT = 20 * 2**30  # bytes of the features of all towers
FREE_SHARE = 0.5  # of the free disk at most
KEPT_SECONDS = 24 * 3600.0  # a tower's features are not removed for others before
RECORD = np.dtype([("key", "V16"), ("checksum", "<u4")])


class FeatureStore:
    """Slots of one size in a growing file, found by key; safe for several processes.

    `features.bin` holds the slots, `keys.bin` a key and a checksum for each. A slot counts once its
    record is there, so a kill in between leaves nothing half-written; a slot whose checksum differs
    is as if it were not there.

    Args:
        folder: Of the two files; made with the first slot.
        shape: Of the features of a crop.
        dtype: Of the features.
        limit: Bytes beyond which nothing is added.
    """

    def __init__(
        self, folder: Path, shape: Sequence[int], dtype: torch.dtype, *, limit: float
    ) -> None:
        self.folder, self.shape, self.dtype, self.limit = folder, torch.Size(shape), dtype, limit
        self.slot_bytes = self.shape.numel() * dtype.itemsize
        self._places: dict[bytes, int] = {}
        self._unchecked: dict[int, int] = {}
        self._count = 0
        self._slots: npt.NDArray[np.uint8] | None = None
        self._refresh()

    def __reduce__(self) -> tuple[object, ...]:
        """Open the files anew in another process."""
        return partial(FeatureStore, limit=self.limit), (self.folder, self.shape, self.dtype)

    def read(self, key: bytes) -> torch.Tensor | None:
        """Read the features of a crop; None if they are not there, or damaged."""
        place = self._places.get(key)
        if place is None:
            return None
        if self._slots is None or place >= len(self._slots):
            file = self.folder / "features.bin"
            if not file.exists():
                return None
            shape = (file.stat().st_size // self.slot_bytes, self.slot_bytes)
            self._slots = np.memmap(file, np.uint8, "r", shape=shape)
        slot = np.array(self._slots[place]) if place < len(self._slots) else np.empty(0, np.uint8)
        checksum = self._unchecked.pop(place, None)
        if checksum is not None and zlib.crc32(slot.tobytes()) != checksum:
            del self._places[key]
            return None
        return torch.from_numpy(slot).view(self.dtype).view(self.shape)

    def add(self, features: Mapping[bytes, torch.Tensor]) -> bool:
        """Add features by key; return whether they fitted.

        Those of which another process is just adding its own are left out for once.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(ValueError), atomic.lock(self.folder / "keys.bin"):
            self._refresh()
            new = {
                key: each.contiguous().cpu().view(torch.uint8).numpy().tobytes()
                for key, each in features.items()
                if key not in self._places
            }
            if (self._count + len(new)) * self.slot_bytes > self.limit:
                return False
            records = np.array([(key, zlib.crc32(slot)) for key, slot in new.items()], RECORD)
            self._append("features.bin", self.slot_bytes, b"".join(new.values()))
            self._append("keys.bin", RECORD.itemsize, records.tobytes())
            self._refresh()
        return True

    def _append(self, name: str, size: int, content: bytes) -> None:
        with (self.folder / name).open("ab") as file:
            file.truncate(self._count * size)  # what a killed process left behind
            file.write(content)

    def _refresh(self) -> None:
        """Read the records that were added since."""
        file = self.folder / "keys.bin"
        size = file.stat().st_size if file.exists() else 0
        if size < self._count * RECORD.itemsize:  # another process removed it to make space
            self._places, self._unchecked, self._count, self._slots = {}, {}, 0, None
        if size:
            added = np.fromfile(file, RECORD, offset=self._count * RECORD.itemsize)
            for place, (key, checksum) in enumerate(added.tolist(), start=self._count):
                self._places[key], self._unchecked[place] = place, checksum
            self._count += len(added)


class KnownImages:
    """Finds the features of encoded images that were cut, and their crops encoded, before.

    Args:
        folder: Of the features.
        processor: Cuts the images.

    Attributes:
        features: The store of the crops' features; None until the tower has used one.
    """

    def __init__(self, folder: Path, processor: Phi3VImageProcessor) -> None:
        versions = [__version__, PIL.__version__]
        identity = sha256_of_all([*versions, processor.to_json_string()])
        own = folder / f"images-{identity[:24]}"
        # A slot: height and width after padding, and the digest of each crop as two integers.
        shape = (2 + processor.num_crops, 2)
        self.index = FeatureStore(own, shape, torch.int64, limit=LIMIT)
        self.processor = processor
        self.features: FeatureStore | None = None
        if own.exists():
            os.utime(own)  # for `make_space`

    def find(self, images: Sequence[bytes]) -> BatchFeature | None:
        """Return what the processor would, but features for crops; None if one is not known.

        Input:  two JPEGs, each of one crop beside its global view
        Output: `pixel_values` (4, P*P, D), `image_sizes` (2, 2), `num_img_tokens` (2,)
        """
        if self.features is None:
            return None
        found, sizes = list[torch.Tensor](), list[list[int]]()
        for image in images:
            slot = self.index.read(_key(image))
            if slot is None:
                return None
            height, width = slot[0].tolist()
            sizes.append([height, width])
            count = count_crops(height, width, self.processor.crop_size)
            for key in slot[1 : 1 + count].numpy():
                if (features := self.features.read(key.tobytes())) is None:
                    return None
                found.append(features)
        tokens = [self.processor.count_tokens(*size) for size in sizes]
        return BatchFeature(
            {
                "pixel_values": torch.stack(found),
                "image_sizes": torch.tensor(sizes),
                "num_img_tokens": torch.tensor(tokens),
            }
        )

    def add(self, images: Sequence[bytes], made: Mapping[str, torch.Tensor]) -> None:
        """Remember the crops into which the processor has cut images."""
        pixels, sizes = made["pixel_values"], made["image_sizes"]
        side = self.processor.crop_size
        counts = [count_crops(height, width, side) for height, width in sizes.tolist()]
        # Padded to one number of crops, or one image after the other.
        parts = pixels if pixels.ndim == 5 else pixels.split(counts)
        slots = dict[bytes, torch.Tensor]()
        for image, size, count, crops in zip(images, sizes, counts, parts, strict=True):
            slots[_key(image)] = slot = torch.zeros(self.index.shape, dtype=torch.int64)
            slot[0] = size
            keys = b"".join(crop_keys(crops[:count]))
            slot[1 : 1 + count] = torch.frombuffer(bytearray(keys), dtype=torch.int64).view(-1, 2)
        with suppress(OSError):  # the tower's store warns of it
            self.index.add(slots)


class CachedTower:
    """A frozen tower's forward pass that looks outputs up before it computes.

    Args:
        tower: Frozen.
        folder: Of the features of all towers.
        images: Are told where the features are.
        in_training: Also where the tower is in training mode.
    """

    def __init__(
        self,
        tower: Phi3VTower,
        folder: Path,
        *,
        images: KnownImages | None = None,
        in_training: bool = True,
    ) -> None:
        self.tower, self.folder, self.in_training = tower, folder, in_training
        self.images = images
        self.compute = tower.forward
        self.identity = tower_identity(tower)
        self.stores: dict[torch.dtype | None, FeatureStore] = {}
        self.adds = True

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode crops, (N, 3, S, S) -> (N, P*P, D), as the tower does; features pass."""
        if pixel_values.ndim == 3:
            return pixel_values
        if self.tower.training and not self.in_training:
            features_NPD: torch.Tensor = self.compute(pixel_values)
            return features_NPD
        store, device = self._store(pixel_values), pixel_values.device
        keys = crop_keys(pixel_values)
        features = {key: held.to(device) for key in keys if (held := store.read(key)) is not None}
        crops = dict(zip(keys, pixel_values, strict=True))
        missing = {key: crop for key, crop in crops.items() if key not in features}
        if missing:
            # As fast as more at once, in less memory.
            parts = torch.stack(list(missing.values())).split(8 if device.type == "cpu" else 64)
            computed = dict(zip(missing, torch.cat(list(map(self.compute, parts))), strict=True))
            self._add(store, computed)
            features |= computed
        return torch.stack([features[key] for key in keys])

    def _store(self, pixel_values: torch.Tensor) -> FeatureStore:
        kind = pixel_values.device.type
        state = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if state not in self.stores:
            (example,) = self.compute(pixel_values[:1])
            folder = self.folder / f"{self.identity[:24]}-{kind}-{state or 'plain'}"
            limit = make_space(self.folder, folder)
            self.stores[state] = FeatureStore(folder, example.shape, example.dtype, limit=limit)
        if self.images is not None:
            self.images.features = self.stores[state]
        return self.stores[state]

    def _add(self, store: FeatureStore, features: Mapping[bytes, torch.Tensor]) -> None:
        if not self.adds:
            return
        try:
            self.adds = store.add(features)
            reason = f"it holds {format_bytes(store.limit)}"
        except OSError as error:
            self.adds, reason = False, str(error)
        if not self.adds:
            logger.warning(
                "the feature cache in %s takes nothing more: %s; work continues without, and "
                "%s=FOLDER chooses another disk",
                *(self.folder, reason, CACHE_VARIABLE),
            )


def cache_features(
    model: torch.nn.Module,
    processor: Phi3VImageProcessor | None = None,
    *,
    in_training: bool = True,
) -> KnownImages | None:
    """Encode each crop only once from now on; the model's tower must not be trained any more.

    `in_training` also where the model is in training mode; of no use for crops that do not recur.
    Returns what finds the features of images that the processor has cut, if one is given and there
    is a cache.
    """
    folder = cache_folder("features")
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("no feature cache: %s; %s=FOLDER chooses another", error, CACHE_VARIABLE)
        return None
    tower = next(module for module in model.modules() if isinstance(module, Phi3VTower))
    images = KnownImages(folder, processor) if processor and in_training else None
    cached = CachedTower(tower, folder, images=images, in_training=in_training)
    tower.forward = cached  # type: ignore[method-assign]
    return images


def crop_keys(crops: torch.Tensor) -> list[bytes]:
    """Digest each of N crops."""
    raw = crops.contiguous().cpu().flatten(1).view(torch.uint8).numpy()
    return [_key(crop.data) for crop in raw]


def _key(content: bytes | memoryview) -> bytes:
    return bytes.fromhex(sha256(content)[:32])


def tower_identity(tower: Phi3VTower) -> str:
    """Hash all that decides the features of a crop: weights, kind of attention, library."""
    attention = tower.vision_model.config._attn_implementation
    weights = []
    for name, weight in tower.state_dict().items():
        raw = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
        weights.append(f"{name} {weight.dtype} {sha256(raw.data)}")
    return sha256_of_all([torch.__version__, str(attention), *weights])


def make_space(folder: Path, own: Path) -> float:
    """Return the bytes that `own` may hold; older towers give way."""
    others = sorted(
        (each for each in folder.iterdir() if each != own and each.is_dir()),
        key=lambda each: each.stat().st_mtime,
    )
    sizes = {each: atomic.folder_bytes(each) for each in others}
    held = atomic.folder_bytes(own)
    limit = min(LIMIT, held + sum(sizes.values()) + FREE_SHARE * shutil.disk_usage(folder).free)
    for each in others:
        if (
            sum(sizes.values()) + held > limit / 2
            and each.stat().st_mtime < time.time() - KEPT_SECONDS
        ):
            shutil.rmtree(each, ignore_errors=True)
            del sizes[each]
    if own.exists():
        os.utime(own)
    return limit - sum(sizes.values())
