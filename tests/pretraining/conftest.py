"""What the tests of pre-training share: a small drawn pool."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_model import images as images  # a fixture

from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from pretraining import pool


@pytest.fixture(scope="session")
def crop_maker() -> Phi3VImageProcessor:
    """Cuts as `phi-vision-small` does."""
    return Phi3VImageProcessor(num_crops=4, crop_size=112, num_img_tokens=16)


@pytest.fixture(scope="session")
def drawn_pool(
    tmp_path_factory: pytest.TempPathFactory, crop_maker: Phi3VImageProcessor
) -> Iterator[Path]:
    """Shards 0 and 1 of three images each."""
    folder = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "SHARD_SIZE", 3)
        for shard in (0, 1):
            pool.draw_shard(folder, shard, crop_maker)
        yield folder
