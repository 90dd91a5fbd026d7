"""Speed-up by packing: training steps on the same samples, packed and padded, in turn.

OMP_NUM_THREADS=1 python -m benchmarks.packing

Two kinds of data: a catalog, whose samples have nearly the same length, and a mixture of records
with no, one and three images, conversations and long answers. Single rows, random batches, batches
grouped by length, and packed rows, all with the same loss. Seconds are CPU seconds.
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
    """Make a product with a title of `words` words and plain images."""
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
    """One sample per batch."""
    return [collator([sample]) for sample in samples]


def padded(collator: CompletionCollator, samples: Sequence[Sample], split_at: int) -> list[Batch]:
    """Batches in the order of the samples."""
    starts = range(0, len(samples), BATCH_SIZE)
    return [collator(samples[at : at + BATCH_SIZE]) for at in starts]


def sorted_by_length(
    collator: CompletionCollator, samples: Sequence[Sample], split_at: int
) -> list[Batch]:
    """Batches grouped by length."""
    by_length = sorted(samples, key=lambda sample: sum(collator.count_tokens(sample)))
    return padded(collator, by_length, split_at)


def pack_into(factor: int) -> Make:
    """Packed rows of `factor` times the longest sample's tokens."""

    def packed(
        collator: CompletionCollator, samples: Sequence[Sample], split_at: int
    ) -> list[Batch]:
        lengths = [sum(collator.count_tokens(sample)) for sample in samples]
        pack_length = factor * max(lengths)
        rows_of = pack_samples(samples, lengths, pack_length, split_at=split_at)
        packs = [rows_of[at] for at in range(len(rows_of))]
        rows = max(1, round(BATCH_SIZE * statistics.mean(lengths) / pack_length))
        return [collate_packs(collator, packs[at : at + rows]) for at in range(0, len(packs), rows)]

    return packed


def measure(model: Phi3VForCausalLM, batches: Sequence[Batch], answers: int) -> tuple[float, float]:
    """Return the loss over all batches and the CPU seconds, forward and backward."""
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
    model.model.vision_embed_tokens.requires_grad_(False)  # as with adapters by default
    model.config.use_cache = False
    collator = CompletionCollator(processor=processor, template=TEMPLATES["product"])
    split_at = original_context(model.config)
    for name, make_data in DATA.items():
        samples = make_data(random.Random(0))
        methods = {method: make(collator, samples, split_at) for method, make in METHODS.items()}
        seconds: dict[str, list[float]] = {method: [] for method in methods}
        losses = {}
        for _ in range(ROUNDS):
            for method, batches in methods.items():
                answers = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
                model.zero_grad()
                losses[method], spent = measure(model, batches, answers)
                seconds[method].append(spent)
        lengths = [sum(collator.count_tokens(sample)) for sample in samples]
        print(f"{name}: {len(samples)} samples of {min(lengths)} to {max(lengths)} tokens")
        for method, batches in methods.items():
            padding = 1 - sum(lengths) / sum(batch["input_ids"].numel() for batch in batches)
            best, ratio = min(seconds[method]), min(seconds[method]) / min(seconds["padded"])
            print(
                f"  {method:20} {len(batches):3} batches  {padding:4.0%} padding  {best:6.2f} s  "
                f"{ratio:5.2f}  loss {losses[method]:.6f}"
            )


DATA = {"catalog": catalog, "mixture": mixture}
METHODS: dict[str, Make] = {
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
