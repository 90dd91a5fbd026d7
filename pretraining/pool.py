"""The images of pre-training, drawn once and stored as crops for the CLIP encoder.

    python -m pretraining.pool FOLDER --shards 40

Shard k always contains the same images, so drawing can be interrupted anywhere, and pre-training
can read complete shards while others are drawn. The sample catalog uses other seeds.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.synthetic.drawing import Garment, draw, random_garment, random_scene

SHARD_SIZE = 500
LONGEST_SIDE = 224
"""Pixels of a drawn image: two crops of 112."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An image of the pool.

    Attributes:
        garment: The drawn garment.
        crops: (K, 3, S, S) uint8, the global view first.
        size: Height and width after padding, in pixels.
    """

    garment: Garment
    crops: np.ndarray
    size: tuple[int, int]


def draw_shard(folder: Path, shard: int, processor: Phi3VImageProcessor) -> None:
    """Draw one shard: `NNNN.npy` with its crops, `NNNN.jsonl` with a line per image."""
    rng = random.Random(f"market {shard}")
    crops, lines = [], []
    for _ in range(SHARD_SIZE):
        garment, scene = random_garment(rng), random_scene(rng)
        image = draw(garment, scene, longest_side=LONGEST_SIDE)
        made = processor.preprocess(image)
        crops.append(_to_bytes(made["pixel_values"], processor))
        lines.append({"garment": asdict(garment), "size": made["image_sizes"][0].tolist()})
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{shard:04d}.unfinished.npy"
    np.save(unfinished, np.concatenate(crops))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{shard:04d}.jsonl").write_text(text)
    unfinished.rename(folder / f"{shard:04d}.npy")


def read_shard(folder: Path, shard: int) -> Iterator[Drawn]:
    """Read the images of one shard in order."""
    crops = np.load(folder / f"{shard:04d}.npy", mmap_mode="r")
    start = 0
    for line in (folder / f"{shard:04d}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        height, width = entry["size"]
        facts = entry["garment"] | {"rgb": tuple(entry["garment"]["rgb"])}
        stop = start + 1 + height * width // crops.shape[-1] ** 2
        yield Drawn(garment=Garment(**facts), crops=crops[start:stop], size=(height, width))
        start = stop


def finished_shards(folder: Path) -> list[int]:
    """List the complete shards."""
    return sorted(int(file.stem) for file in folder.glob("????.npy"))


def normalise(crops: np.ndarray, processor: Phi3VImageProcessor) -> torch.Tensor:
    """Normalize uint8 crops for the CLIP encoder, (K, 3, S, S) float32."""
    mean = torch.tensor(processor.image_mean).view(3, 1, 1)
    std = torch.tensor(processor.image_std).view(3, 1, 1)
    return (torch.from_numpy(crops.copy()).float().div(255) - mean) / std


def _to_bytes(pixels: torch.Tensor, processor: Phi3VImageProcessor) -> np.ndarray:
    mean = torch.tensor(processor.image_mean).view(3, 1, 1)
    std = torch.tensor(processor.image_std).view(3, 1, 1)
    return ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def main() -> None:
    """Draw the missing shards."""
    parser = argparse.ArgumentParser(description="Draw the images phi-vision-small learns from.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=60, help=f"of {SHARD_SIZE} images each")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--step", type=int, default=1, help="draw every so many, to share the work")
    options = parser.parse_args()
    torch.set_num_threads(1)
    processor = Phi3VImageProcessor(num_crops=4, crop_size=112, num_img_tokens=16)
    for shard in range(options.first, options.shards, options.step):
        if shard not in finished_shards(options.folder):
            draw_shard(options.folder, shard, processor)
            print(f"shard {shard + 1} of {options.shards}", flush=True)


if __name__ == "__main__":
    main()
