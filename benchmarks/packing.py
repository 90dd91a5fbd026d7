"""What packing saves: training steps on the same samples, packed and padded, in turn.

OMP_NUM_THREADS=1 python -m benchmarks.packing

Two kinds of data: a catalog, whose samples are nearly of one length, and a mixture of records
with no image, one and three, conversations and long answers. Rows alone, in random batches, in
batches of like length, and packed; the same loss in all four. Seconds are those of the processor.
"""

import io
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from phi_vision.data.collator import IGNORED, Batch, CompletionCollator, select_labelled
from phi_vision.data.packing import collate_packs, original_context, pack_samples
from phi_vision.data.samples import Record, Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.model.checkpoint import SMALL, load_model
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM

SAMPLES, BATCH_SIZE, ROUNDS = 40, 8, 3
WORDS = ("wool", "silk", "cotton", "coat", "tie", "in", "navy", "red", "green", "dots", "leather")

Make = Callable[[CompletionCollator, Sequence[Sample], int], list[Batch]]


def draw_sample(draw: random.Random, name: str, count: int, words: int) -> Sample:
    """Make a product of a title of so many words and images of one colour."""
    images = []
    for _ in range(count):
        encoded = io.BytesIO()
        size = draw.choice([(240, 320), (320, 240), (256, 256)])
        Image.new("RGB", size, draw.choice(["navy", "red", "green"])).save(encoded, "JPEG")
        images.append(encoded.getvalue())
    title = " ".join(draw.choices(WORDS, k=words))
    record: Record = {
        "title": title,
        "category3_code": "COATS",
        "full_price": float(draw.randint(9, 990)),
    }
    return Sample(id=name, group=name, images=tuple(images), record=record)


def catalog(draw: random.Random) -> list[Sample]:
    """One image and a title of 2 to 9 words each."""
    return [draw_sample(draw, str(n), 1, draw.randint(2, 9)) for n in range(SAMPLES)]


def mixture(draw: random.Random) -> list[Sample]:
    """No image, one or three; one answer in eight is long."""
    return [
        draw_sample(
            draw, str(n), draw.choice([0, 0, 1, 1, 3]), draw.choice([3] * 4 + [20] * 3 + [200])
        )
        for n in range(SAMPLES)
    ]


def alone(collator: CompletionCollator, samples: Sequence[Sample], split_at: int) -> list[Batch]:
    """Each sample in a forward pass of its own."""
    return [collator([sample]) for sample in samples]


def padded(collator: CompletionCollator, samples: Sequence[Sample], split_at: int) -> list[Batch]:
    """Batches as the samples come."""
    starts = range(0, len(samples), BATCH_SIZE)
    return [collator(samples[at : at + BATCH_SIZE]) for at in starts]


def sorted_by_length(
    collator: CompletionCollator, samples: Sequence[Sample], split_at: int
) -> list[Batch]:
    """Batches of samples of like length."""
    by_length = sorted(samples, key=lambda sample: sum(collator.count_tokens(sample)))
    return padded(collator, by_length, split_at)


def pack_into(factor: int) -> Make:
    """Rows of as many tokens as `factor` of the longest samples, as many a batch as fill it."""

    def packed(
        collator: CompletionCollator, samples: Sequence[Sample], split_at: int
    ) -> list[Batch]:
        lengths = [sum(collator.count_tokens(sample)) for sample in samples]
        pack_length = factor * max(lengths)
        packs = pack_samples(samples, lengths, pack_length, split_at=split_at)
        rows = max(1, round(BATCH_SIZE * statistics.mean(lengths) / pack_length))
        return [collate_packs(collator, packs[at : at + rows]) for at in range(0, len(packs), rows)]

    return packed


def measure(model: Phi3VForCausalLM, batches: Sequence[Batch], answers: int) -> tuple[float, float]:
    """Loss over all batches and processor seconds, forward and backward."""
    loss = 0.0
    start = time.process_time()
    for batch in batches:
        inputs = {k: v for k, v in select_labelled(batch).items() if k != "sample_ids"}
        part = model(**inputs, num_items_in_batch=answers).loss
        part.backward()
        loss += part.item()
    return loss, time.process_time() - start


def main() -> None:
    """Print a table for each kind of data."""
    model, processor = load_model(SMALL)
    model.float().requires_grad_(True)
    model.model.vision_embed_tokens.requires_grad_(False)  # as adapters have it by default
    model.config.use_cache = False
    collator = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    split_at = original_context(model.config)
    for name, make_data in DATA.items():
        samples = make_data(random.Random(0))
        ways = {way: make(collator, samples, split_at) for way, make in WAYS.items()}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        losses = {}
        for _ in range(ROUNDS):
            for way, batches in ways.items():
                answers = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
                model.zero_grad()
                losses[way], spent = measure(model, batches, answers)
                seconds[way].append(spent)
        lengths = [sum(collator.count_tokens(sample)) for sample in samples]
        print(f"{name}: {len(samples)} samples of {min(lengths)} to {max(lengths)} tokens")
        for way, batches in ways.items():
            places = sum(batch["input_ids"].numel() for batch in batches)
            print(
                f"  {way:20} {len(batches):3} batches  {1 - sum(lengths) / places:4.0%} padding  "
                f"{min(seconds[way]):6.2f} s  {min(seconds[way]) / min(seconds['padded']):5.2f}  "
                f"loss {losses[way]:.6f}"
            )


DATA = {"catalog": catalog, "mixture": mixture}
WAYS: dict[str, Make] = {
    "alone": alone,
    "padded": padded,
    "sorted by length": sorted_by_length,
    "packed, 1 x longest": pack_into(1),
    "packed, 2 x longest": pack_into(2),
    "packed, 4 x longest": pack_into(4),
}

if __name__ == "__main__":
    torch.manual_seed(0)
    main()
