"""Several samples in one row that do not see each other: less padding, the same loss.

A packed row has no attention mask: the decoder tells its samples apart by positions that begin
again at 0. A mask of ones, or a cache, would let them attend to each other without a word.
"""

import bisect
import random
from collections.abc import Sequence
from typing import cast

import torch
from torch.nn.utils.rnn import pad_sequence

from phi_vision.data.collator import IGNORED, AnswerCollator, Batch
from phi_vision.data.samples import Sample
from phi_vision.model.configuration_phi3_v import Phi3VConfig

MOST_NAMED = 5
"""Samples that an error names before it only counts them."""


def pack_samples(
    samples: Sequence[Sample], lengths: Sequence[int], pack_length: int, *, split_at: int
) -> list[tuple[Sample, ...]]:
    """Share samples out among as few rows as best-fit decreasing finds; always the same ones.

    A row holds samples of one side of `split_at` only, and never a part of one.

    Input:  samples a b c d e of 50, 30, 70, 20, 30 tokens, pack_length 100
    Output: (a, d, e), (b, c), or b and e exchanged: both are of one length

    Args:
        samples: What to share out.
        lengths: Their tokens, image tokens included.
        pack_length: Most tokens in a row.
        split_at: Where the original context ends, see `original_context`.

    Raises:
        ValueError: A sample is longer than a row.
    """
    _refuse_longer_than_a_row(samples, lengths, pack_length)
    sides: tuple[list[int], list[int]] = ([], [])
    for place, length in enumerate(lengths):
        sides[length > split_at].append(place)
    packs = [pack for side in sides for pack in _fit(side, lengths, pack_length)]
    # In the order of the data, which no shuffling of the training depends on and people expect.
    ordered = sorted(sorted(pack) for pack in packs)
    return [tuple(samples[place] for place in pack) for pack in ordered]


def collate_packs(collator: AnswerCollator, packs: Sequence[Sequence[Sample]]) -> Batch:
    """Make a batch in which each pack of samples is one row.

    Input:  two packs, (a, b) and (c,), of samples whose answers are `8 2`, `5 4 2` and `7 2`
    Output: `input_ids`     1  3  8  2  1  5  4  2    `position_ids`  0  1  2  3  0  1  2  3
                            1  9  6  7  2  0  0  0                    0  1  2  3  4  0  0  0
            `labels`        -  -  8  2  -  5  4  2    `sample_ids`    "a, b"
                            -  -  -  7  2  -  -  -                    "c"
            and images as `AnswerCollator` gives them; no `attention_mask`.

    Raises:
        ValueError: As the collator does.
    """
    samples = [sample for pack in packs for sample in pack]
    apart = collator(samples)
    lengths = apart["attention_mask"].sum(dim=1).tolist()
    # The position before a sample would be asked to predict its first token, across the border.
    assert bool((apart["labels"][:, 0] == IGNORED).all())
    counts = [len(pack) for pack in packs]
    positions = [torch.arange(length) for length in lengths]
    padding = collator.processor.tokenizer.pad_token_id
    rows = {
        "input_ids": _join(_unpad(apart["input_ids"], lengths), counts, padding),
        # Each padded position is a document of its own. Counted on, a lot of padding would reach
        # beyond the original context, where all of the batch is rotated by other factors.
        "position_ids": _join(positions, counts, 0),
        "labels": _join(_unpad(apart["labels"], lengths), counts, IGNORED),
    }
    images = {name: apart[name] for name in ("pixel_values", "image_sizes") if name in apart}
    names = [", ".join(sample.id for sample in pack) for pack in packs]
    return cast(Batch, {**rows, **images, "use_cache": False, "sample_ids": names})


def original_context(config: Phi3VConfig) -> int:
    """Tell how long a sample may be before all of its batch is rotated by other factors.

    A model without a second set of factors has no such border within its context.
    """
    if config.rope_parameters["rope_type"] != "longrope":
        return config.max_position_embeddings
    return int(config.rope_parameters["original_max_position_embeddings"])


def refuse_both_sides(
    samples: Sequence[Sample], lengths: Sequence[int], *, most_rows: int, split_at: int
) -> None:
    """Refuse samples on both sides of the original context where a batch could hold both.

    One long row would change what the model computes for the short rows beside it.

    Args:
        samples: All that training or evaluation draws batches from.
        lengths: Their tokens, image tokens included.
        most_rows: Most rows in a forward pass.
        split_at: Where the original context ends, see `original_context`.

    Raises:
        ValueError: There are such samples, and more than one row in a forward pass.
    """
    beyond = [place for place, length in enumerate(lengths) if length > split_at]
    if most_rows > 1 and 0 < len(beyond) < len(samples):
        raise ValueError(
            f"{len(beyond)} of {len(samples)} samples have more than {split_at} tokens "
            f"({_name(samples, lengths, beyond)}): in a batch with shorter ones they would change "
            f"how those are read, and up to {most_rows} rows share one; use "
            "per_device_train_batch_size 1 and gradient_accumulation_steps for the rest, or leave "
            "them out"
        )


def _refuse_longer_than_a_row(
    samples: Sequence[Sample], lengths: Sequence[int], pack_length: int
) -> None:
    longer = [place for place, length in enumerate(lengths) if length > pack_length]
    if longer:
        raise ValueError(
            f"{len(longer)} of {len(samples)} samples are longer than pack_length {pack_length}: "
            f"{_name(samples, lengths, longer)}; raise pack_length to {max(lengths)} or leave them "
            "out: samples are never cut"
        )


def _name(samples: Sequence[Sample], lengths: Sequence[int], places: Sequence[int]) -> str:
    """Name samples with their tokens, the longest first: `'a' 140, 'b' 133 tokens`."""
    longest = sorted(places, key=lambda place: -lengths[place])
    named = ", ".join(f"{samples[place].id!r} {lengths[place]}" for place in longest[:MOST_NAMED])
    return f"{named} tokens" + (", ..." if len(longest) > MOST_NAMED else "")


def _fit(places: Sequence[int], lengths: Sequence[int], pack_length: int) -> list[list[int]]:
    """Put each sample, the longest first, into the fullest pack that still holds it."""
    # Neighbours in a catalog are often alike and of one length. In one pack they would be learnt
    # from in one step; a fixed shuffle parts them, and the sort leaves equals as they lie.
    shuffled = random.Random(len(places)).sample(places, len(places))
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # tokens left and the pack, sorted
    for place in sorted(shuffled, key=lambda place: -lengths[place]):
        at = bisect.bisect_left(rooms, (lengths[place], 0))
        room, pack = rooms.pop(at) if at < len(rooms) else (pack_length, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(place)
        bisect.insort(rooms, (room - lengths[place], pack))
    return packs


def _unpad(padded_BL: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    return [row[:length] for row, length in zip(padded_BL, lengths, strict=True)]


def _join(parts: Sequence[torch.Tensor], counts: Sequence[int], padding: int) -> torch.Tensor:
    """Join as many parts as `counts` says into each row, and pad the rows on the right.

    Input:  [1 2], [3], [4], counts [2, 1], padding 0
    Output: 1 2 3
            4 0 0
    """
    remaining = iter(parts)
    rows = [torch.cat([next(remaining) for _ in range(count)]) for count in counts]
    return pad_sequence(rows, batch_first=True, padding_value=padding)
