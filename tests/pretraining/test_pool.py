"""The pool: shard k is the same on every machine, and reads back as it was drawn."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.synthetic.drawing import draw, random_garment, random_scene
from pretraining.pool import LONGEST_SIDE, draw_shard, finished_shards, normalise, read_shard


def test_a_shard_is_the_same_whenever_it_is_drawn(
    drawn_pool: Path, crop_maker: Phi3VImageProcessor, tmp_path: Path
) -> None:
    draw_shard(tmp_path, 1, crop_maker)
    for name in ("0001.npy", "0001.jsonl"):
        assert (tmp_path / name).read_bytes() == (drawn_pool / name).read_bytes()


def test_shards_differ(drawn_pool: Path) -> None:
    first, second = (list(read_shard(drawn_pool, shard)) for shard in (0, 1))
    assert [drawn.garment for drawn in first] != [drawn.garment for drawn in second]


def test_a_shard_reads_back_as_it_was_drawn(
    drawn_pool: Path, crop_maker: Phi3VImageProcessor
) -> None:
    rng = random.Random("market 1")
    found = list(read_shard(drawn_pool, 1))
    assert len(found) == 3
    for drawn in found:
        garment, scene = random_garment(rng), random_scene(rng)
        expected = crop_maker.preprocess(draw(garment, scene, longest_side=LONGEST_SIDE))
        assert drawn.garment == garment
        assert drawn.size == tuple(expected["image_sizes"][0].tolist())
        assert drawn.crops.dtype == np.uint8
        # Half a grey level of 255, over the smallest standard deviation of a channel; bicubic
        # overshoot of the global view, which bytes cannot hold, is clipped away.
        crops = normalise(drawn.crops, crop_maker)[1:]
        tolerance = 0.51 / 255 / min(crop_maker.image_std)
        torch.testing.assert_close(crops, expected["pixel_values"][1:], atol=tolerance, rtol=0)


def test_an_unfinished_shard_is_not_read(drawn_pool: Path, tmp_path: Path) -> None:
    (tmp_path / "0000.npy").symlink_to(drawn_pool / "0000.npy")
    for name in ("0001.unfinished.npy", "0001.jsonl"):
        (tmp_path / name).touch()
    assert finished_shards(tmp_path) == [0]
    assert finished_shards(drawn_pool) == [0, 1]


@pytest.mark.parametrize("shard", [0, 1])
def test_an_image_has_its_global_view_and_the_crops_of_its_size(
    drawn_pool: Path, shard: int
) -> None:
    for drawn in read_shard(drawn_pool, shard):
        height, width = drawn.size
        assert drawn.crops.shape == (1 + (height // 112) * (width // 112), 3, 112, 112)
