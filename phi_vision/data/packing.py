"""Packing: several samples in one row that do not attend to each other, for less padding.

A packed row has no attention mask: the decoder separates its samples by positions that restart at
0. A mask of ones, or a cache, would silently let them attend to each other.
"""

import bisect
import random
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import cast

from torch.nn.utils.rnn import pad_sequence

from phi_vision.data.collator import IGNORED, Batch, CompletionCollator
from phi_vision.data.samples import Sample, SampleRows, failure
from phi_vision.model.configuration_phi3_v import Phi3VConfig

MAX_NAMED = 5  # samples that an error lists


def pack_samples(
    samples: Sequence[Sample], lengths: Sequence[int], pack_length: int, *, split_at: int
) -> SampleRows:
    """Pack samples into rows by best-fit decreasing, deterministically.

    A row holds whole samples of one side of `split_at` (see `original_context`) only; `lengths`
    count image tokens, too. A sample longer than `pack_length` is an error.

    Input:  samples a b c d e of 50, 30, 70, 20, 30 tokens, pack_length 100
    Output: (a, d, e), (b, c), or b and e exchanged: both are of one length
    """
    longer = [place for place, length in enumerate(lengths) if length > pack_length]
    if longer:
        raise failure(
            "longer_than_pack", count=len(longer), total=len(samples), limit=pack_length,
            longest=_list(samples, lengths, longer), needed=max(lengths),
        )  # fmt: skip
    beyond = [length > split_at for length in lengths]
    sides = ([at for at, each in enumerate(beyond) if each == side] for side in (False, True))
    packs = [pack for side in sides for pack in _best_fit(side, lengths, pack_length)]
    # In the order of the data, which people expect; training shuffles.
    return SampleRows(samples, sorted(map(sorted, packs)))


def collate_packs(collator: CompletionCollator, packs: Sequence[Sequence[Sample]]) -> Batch:
    """Collate packs of samples, each to one row.

    Input:  two packs, (a, b) and (c,), of samples whose completions are `8 2`, `5 4 2` and `7 2`
    Output: `input_ids`     1  3  8  2  1  5  4  2    `position_ids`  0  1  2  3  0  1  2  3
                            1  9  6  7  2  0  0  0                    0  1  2  3  4  0  0  0
            `labels`        -  -  8  2  -  5  4  2    `sample_ids`    "a, b"
                            -  -  -  7  2  -  -  -                    "c"
            and images as from `CompletionCollator`; no `attention_mask`.
    """
    padded = collator([sample for pack in packs for sample in pack])
    # Otherwise the position before a sample would predict its first token.
    assert bool((padded["labels"][:, 0] == IGNORED).all())
    mask = padded["attention_mask"].bool()
    columns = {
        "input_ids": (padded["input_ids"], collator.processor.tokenizer.pad_token_id),
        # Each padded position is a document of its own. Counted on, a lot of padding would exceed
        # the original context, where the rotary factors of the whole batch change.
        "position_ids": (mask.cumsum(dim=1) - 1, 0),
        "labels": (padded["labels"], IGNORED),
    }
    spans = [slice(*span) for span in pairwise([0, *accumulate(map(len, packs))])]
    rows = {
        name: pad_sequence(
            [values[span][mask[span]] for span in spans], batch_first=True, padding_value=padding
        )
        for name, (values, padding) in columns.items()
    }
    images = {name: padded[name] for name in ("pixel_values", "image_sizes") if name in padded}
    ids = [", ".join(sample.id for sample in pack) for pack in packs]
    return cast(Batch, {**rows, **images, "use_cache": False, "sample_ids": ids})


def original_context(config: Phi3VConfig) -> int:
    """Return the length beyond which a batch's rotary factors change; else, the whole context."""
    if config.rope_parameters["rope_type"] != "longrope":
        return config.max_position_embeddings
    return int(config.rope_parameters["original_max_position_embeddings"])


def check_context_sides(
    samples: Sequence[Sample], lengths: Sequence[int], *, most_rows: int, split_at: int
) -> None:
    """Check that no batch of up to `most_rows` rows mixes samples within and beyond `split_at`.

    One long row would change the rotary factors of the short rows beside it.
    """
    beyond = [place for place, length in enumerate(lengths) if length > split_at]
    if most_rows > 1 and 0 < len(beyond) < len(samples):
        raise failure(
            "mixed_contexts", count=len(beyond), total=len(samples), limit=split_at,
            longest=_list(samples, lengths, beyond), rows=most_rows,
        )  # fmt: skip


def _list(samples: Sequence[Sample], lengths: Sequence[int], places: Sequence[int]) -> str:
    """List samples with their tokens, the longest first: `'a' 140, 'b' 133 tokens`."""
    longest = sorted(places, key=lambda place: -lengths[place])
    listed = ", ".join(f"{samples[place].id!r} {lengths[place]}" for place in longest[:MAX_NAMED])
    return f"{listed} tokens" + (", ..." if len(longest) > MAX_NAMED else "")


def _best_fit(places: Sequence[int], lengths: Sequence[int], pack_length: int) -> list[list[int]]:
    """Put each sample, the longest first, into the fullest pack that still holds it."""
    # Neighbours in a catalog are often alike and of one length, and would share a pack, so a step.
    # A fixed shuffle separates them; the sort keeps the order of equals.
    shuffled = random.Random(len(places)).sample(places, len(places))
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # free tokens and the pack, sorted
    for place in sorted(shuffled, key=lambda place: -lengths[place]):
        at = bisect.bisect_left(free, (lengths[place], 0))
        tokens, pack = free.pop(at) if at < len(free) else (pack_length, len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(place)
        bisect.insort(free, (tokens - lengths[place], pack))
    return packs
