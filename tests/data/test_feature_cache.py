"""The feature cache: the tower's bits, shared, bounded, and never a reason to stop."""

import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from phi_vision.data import feature_cache, samples
from phi_vision.data.collator import CompletionCollator
from phi_vision.data.feature_cache import CachedTower, FeatureStore, KnownImages, cache_features
from phi_vision.data.samples import Record, Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.io.image_decoding import encode_image, open_image
from phi_vision.model.checkpoint import load_model, load_processor
from phi_vision.model.modeling_phi3_v import Phi3VTower

Encode = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def tower(tiny_checkpoint: Path) -> Phi3VTower:
    return load_model(tiny_checkpoint)[0].model.vision_embed_tokens.img_processor


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randn(12, 3, 56, 56, generator=torch.Generator().manual_seed(0))


class Counted:
    """Counts the crops that a tower computes."""

    def __init__(self, cached: CachedTower) -> None:
        self.compute, self.crops = cached.compute, 0
        cached.compute = self  # type: ignore[assignment]

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.crops += len(pixel_values)
        return self.compute(pixel_values)


def store_of(folder: Path, limit: float = 1e9) -> FeatureStore:
    return FeatureStore(folder, (2, 3), torch.float32, limit=limit)


def product(number: int, width: int, height: int) -> Sample:
    image = Image.new("RGB", (width, height), (40 * number, 90, 200))
    image.paste("white", (5, 5, 20, 30))
    record: Record = {"title": f"Coat {number}", "category3_code": "COATS", "full_price": 390.0}
    return Sample(id=str(number), group="g", images=[encode_image(image, "PNG")], record=record)


def feature(number: float) -> torch.Tensor:
    return torch.full((2, 3), float(number))


@pytest.mark.parametrize("autocast", [False, True])
def test_cached_features_are_the_towers_bit_for_bit(
    tower: Phi3VTower, crops: torch.Tensor, tmp_path: Path, autocast: bool
) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = tower(crops)
        for _ in range(2):  # computed and kept, then from the disk
            cached = CachedTower(tower, tmp_path)
            assert torch.equal(cached(crops), expected)
            assert torch.equal(cached(crops[[3, 3, 1]]), expected[[3, 3, 1]])


def test_each_crop_is_computed_once(tower: Phi3VTower, crops: torch.Tensor, tmp_path: Path) -> None:
    cached = CachedTower(tower, tmp_path)
    cached(crops[:1])
    counted = Counted(cached)
    for part in (crops[:6], crops[3:9], crops, crops[[0, 0, 11]]):
        cached(part)
    assert counted.crops == 11


def test_crops_that_do_not_recur_are_not_kept(
    tower: Phi3VTower, crops: torch.Tensor, tmp_path: Path
) -> None:
    cached = CachedTower(tower.train(), tmp_path, in_training=False)
    counted = Counted(cached)
    assert torch.equal(cached(crops), cached(crops))
    assert (counted.crops, list(tmp_path.iterdir())) == (24, [])
    tower.eval()
    cached(crops), cached(crops)
    assert counted.crops == 24 + 1 + 12  # an example, and each crop once


def test_other_weights_attention_or_precision_have_features_of_their_own(
    tower: Phi3VTower, crops: torch.Tensor, tmp_path: Path
) -> None:
    before = CachedTower(tower, tmp_path)(crops)
    with torch.autocast("cpu", torch.bfloat16):
        CachedTower(tower, tmp_path)(crops)
    with torch.no_grad():
        tower.vision_model.encoder.layers[0].mlp.fc1.bias.add_(1)
    after = CachedTower(tower, tmp_path)(crops)
    assert not torch.equal(before, after)
    assert torch.equal(after, tower(crops))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_model_with_a_cache_gives_the_same_loss_and_gradients(
    tiny_checkpoint: Path, crops: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PHI_VISION_CACHE", str(tmp_path))
    losses, gradients = [], []
    for is_cached in (False, True, True):
        model, processor = load_model(tiny_checkpoint)
        model.model.vision_embed_tokens.img_processor.requires_grad_(False)
        if is_cached:
            cache_features(model)
        count = processor.image_processor.count_tokens(56, 56)
        ids = torch.tensor([[1, *[processor.image_token_id] * count, 5, 6]])
        loss = model(
            input_ids=ids,
            pixel_values=crops[:2],
            image_sizes=torch.tensor([[56, 56]]),
            labels=ids,
        ).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.model.vision_embed_tokens.img_projection[0].weight.grad)
    assert losses[0] == losses[1] == losses[2]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("autocast", [False, True])
def test_images_of_an_earlier_epoch_are_not_decoded_and_train_alike(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, autocast: bool
) -> None:
    monkeypatch.setenv("PHI_VISION_CACHE", str(tmp_path))
    model, processor = load_model(tiny_checkpoint)
    model.model.vision_embed_tokens.img_processor.requires_grad_(False)
    known = cache_features(model, processor.image_processor)
    template = TEMPLATES["product"]
    collator = CompletionCollator(processor=processor, template=template, known_images=known)
    plain = replace(collator, known_images=None)
    decoded = list[bytes]()
    monkeypatch.setattr(
        samples, "open_image", lambda image: decoded.append(image) or open_image(image)
    )

    def train(collate: CompletionCollator) -> tuple[float, torch.Tensor]:
        batch = collate([product(0, 60, 40), product(1, 40, 130), product(2, 90, 90)])
        del batch["sample_ids"]
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch).loss
        loss.backward()
        weight = model.model.vision_embed_tokens.img_projection[0].weight
        return loss.item(), weight.grad.clone()

    expected, gradient = train(plain)
    found = [train(collator) for _ in range(3)]
    assert len(decoded) == 3 + 3  # of `plain`, and of the first epoch
    for loss, own in found:
        assert loss == expected
        assert torch.equal(own, gradient)
    other = pickle.loads(pickle.dumps(collator))  # as for worker processes
    assert train(other)[0] == expected
    assert len(decoded) == 6
    assert len(pickle.dumps(collator.known_images)) < 10_000


def test_images_are_found_as_the_processor_cuts_them_now(
    tiny_checkpoint: Path, tower: Phi3VTower, tmp_path: Path
) -> None:
    processor = load_processor(tiny_checkpoint).image_processor
    image = product(0, 90, 90).images[0]
    sizes = []
    for num_crops in (4, 1, 4):
        processor.num_crops = num_crops
        known = KnownImages(tmp_path, processor)
        cached = CachedTower(tower, tmp_path, images=known)
        cached(torch.zeros(1, 3, 56, 56))  # the tower is in use
        sizes.append(known.find([image]) is not None)
        made = processor([open_image(image)])
        known.add([image], made)
        expected = cached(made["pixel_values"])
        found = known.find([image])
        assert found is not None
        assert torch.equal(found["pixel_values"], expected)
        assert torch.equal(cached(found["pixel_values"]), expected)
        for name in ("image_sizes", "num_img_tokens"):
            assert torch.equal(found[name], made[name])
    assert sizes == [False, False, True]
    assert known.find([image, product(1, 60, 40).images[0]]) is None


def test_an_image_with_damaged_features_is_cut_again(
    tiny_checkpoint: Path, tower: Phi3VTower, tmp_path: Path
) -> None:
    processor, image = load_processor(tiny_checkpoint).image_processor, product(0, 90, 90).images[0]
    known = KnownImages(tmp_path, processor)
    made = processor([open_image(image)])
    known.add([image], made)
    assert known.find([image]) is None  # before the tower has been used
    CachedTower(tower, tmp_path, images=known)(made["pixel_values"])
    (file,) = tmp_path.glob("*-plain/features.bin")
    file.write_bytes(bytes(file.stat().st_size))
    known = KnownImages(tmp_path, processor)
    CachedTower(tower, tmp_path, images=known)(torch.ones(1, 3, 56, 56))
    assert known.find([image]) is None


def test_off_leaves_the_tower_as_it_is(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI_VISION_CACHE", "off")
    model, _ = load_model(tiny_checkpoint)
    cache_features(model)
    assert "forward" not in vars(model.model.vision_embed_tokens.img_processor)


def test_a_store_finds_what_another_process_has_added(tmp_path: Path) -> None:
    mine = store_of(tmp_path)
    mine.add({b"a" * 16: feature(1)})
    code = f"""
import torch
from pathlib import Path
from phi_vision.data.feature_cache import FeatureStore
store = FeatureStore(Path({str(tmp_path)!r}), (2, 3), torch.float32, limit=1e9)
assert store.read(b"a" * 16).eq(1).all()
store.add({{b"b" * 16: torch.full((2, 3), 2.0)}})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mine.read(b"b" * 16) is None  # not known here yet
    mine.add({b"b" * 16: feature(9), b"c" * 16: feature(3)})
    assert [float(mine.read(key * 16).max()) for key in (b"a", b"b", b"c")] == [1, 2, 3]


def test_while_another_process_adds_nothing_is_added(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from phi_vision.io import atomic
with atomic.lock(Path({str(tmp_path)!r}) / "keys.bin"):
    print("locked", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        store = store_of(tmp_path)
        assert store.add({b"a" * 16: feature(1)})
        assert store.read(b"a" * 16) is None
        other.kill()
    store.add({b"a" * 16: feature(1)})
    assert float(store.read(b"a" * 16).max()) == 1


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    store_of(tmp_path).add({b"a" * 16: feature(1)})
    for name, left in (("features.bin", b"x" * 37), ("keys.bin", b"y" * 7)):
        with (tmp_path / name).open("ab") as file:
            file.write(left)
    store = store_of(tmp_path)
    store.add({b"b" * 16: feature(2)})
    again = store_of(tmp_path)
    assert [float(again.read(key * 16).max()) for key in (b"a", b"b")] == [1, 2]


def test_damaged_features_are_computed_again(tmp_path: Path) -> None:
    store_of(tmp_path).add({b"a" * 16: feature(1), b"b" * 16: feature(2)})
    content = bytearray((tmp_path / "features.bin").read_bytes())
    content[3] ^= 1
    (tmp_path / "features.bin").write_bytes(content)
    store = store_of(tmp_path)
    assert store.read(b"a" * 16) is None
    assert float(store.read(b"b" * 16).max()) == 2
    store.add({b"a" * 16: feature(1)})
    assert float(store_of(tmp_path).read(b"a" * 16).max()) == 1


def test_a_full_cache_takes_nothing_more_and_says_so_once(
    tower: Phi3VTower,
    crops: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(feature_cache, "LIMIT", 20_000)  # less than a crop's 2,048 bytes times 12
    cached = CachedTower(tower, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cached(crops[:4]), tower(crops[:4]))
        for _ in range(2):
            assert torch.equal(cached(crops), tower(crops))
    (record,) = caplog.records
    assert "takes nothing more" in record.getMessage()
    assert "PHI_VISION_CACHE" in record.getMessage()
    assert sum(file.stat().st_size for file in tmp_path.rglob("features.bin")) <= 20_000


def test_a_folder_that_cannot_be_made_is_no_reason_to_stop(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PHI_VISION_CACHE", str(tmp_path / "file"))
    model, _ = load_model(tiny_checkpoint)
    with caplog.at_level(logging.WARNING):
        cache_features(model)
    assert "no feature cache" in caplog.text
    assert "forward" not in vars(model.model.vision_embed_tokens.img_processor)


def test_a_store_that_was_removed_starts_anew(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store")
    store.add({b"a" * 16: feature(1), b"b" * 16: feature(2)})
    shutil.rmtree(tmp_path / "store")
    store.add({b"c" * 16: feature(3)})
    assert store.read(b"a" * 16) is None
    assert float(store.read(b"c" * 16).max()) == 3


def test_towers_not_used_for_a_day_make_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "LIMIT", 1000)
    for name, age in (("old", 90_000), ("new", 60)):
        store_of(tmp_path / name).add({bytes([place] * 16): feature(1) for place in range(30)})
        used = feature_cache.time.time() - age
        feature_cache.os.utime(tmp_path / name, (used, used))
    limit = feature_cache.make_space(tmp_path, tmp_path / "own")
    assert [folder.name for folder in tmp_path.iterdir()] == ["new"]
    assert limit < 1000
