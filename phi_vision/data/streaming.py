"""Samples as a stream, for data that do not fit on the disk: a hub dataset, or shards in a folder.

Shards are read in another order in each epoch, and rows shuffled in a buffer. The order depends on
the seed alone, not on the number of workers or processes, so that a run resumes exactly.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from phi_vision.data import dataset
from phi_vision.data.samples import Sample, failure
from phi_vision.model.checkpoint import first_line

if TYPE_CHECKING:
    import datasets

BUFFER = 500  # rows, with their images, of which the next one is drawn
HEAD = 1000  # samples of a split that are held: for checks, baselines and evaluations
READ_TOGETHER = 16  # rows


def open_streams(data: str) -> "dict[str, datasets.IterableDataset]":
    """Open the splits of a folder or file of Parquet, else of a dataset on the hub."""
    import datasets  # here, as it takes a second

    try:
        if Path(data).exists():
            files: dict[str, list[str]] = {}
            for split, file in dataset.list_files(Path(data)):
                files.setdefault(split or "train", []).append(str(file))
            found = datasets.load_dataset("parquet", data_files=files, streaming=True)
        else:
            found = datasets.load_dataset(data, streaming=True)
    # The hub's client, the network and the files below fail in ways of their own.
    except Exception as error:
        raise failure("no_stream", data=data, error=first_line(error)) from error
    return {name: _as_stored(split) for name, split in found.items()}


def read_head(
    stream: "datasets.IterableDataset", data: str, group_column: str | None
) -> list[Sample]:
    """Read the first samples of a split."""
    return [*islice(_samples(stream, data, group_column), HEAD)]


class StreamedRows(IterableDataset[tuple[Sample]]):
    """Rows of one sample each, epoch after epoch without an end.

    Input:  samples a b c d e f, batches of 2, two workers
    Output: a b e f … in the first, c d … in the second: the loader takes their batches in turn

    Args:
        data: See `open_streams`, of which the split `train` is read.
        group_column: See `load_samples`.
        seed: Of the order.
        batch_rows: Rows that all processes together take at once.
    """

    def __init__(self, data: str, group_column: str | None, *, seed: int, batch_rows: int) -> None:
        self.data, self.group_column, self.seed = data, group_column, seed
        self.batch_rows = batch_rows

    def __iter__(self) -> Iterator[tuple[Sample]]:
        worker = get_worker_info()
        turn, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for number, sample in enumerate(self._epochs()):
            if number // self.batch_rows % workers == turn:
                yield (sample,)

    def _epochs(self) -> Iterator[Sample]:
        stream = open_streams(self.data)["train"].shuffle(seed=self.seed, buffer_size=BUFFER)
        for epoch in count():
            stream.set_epoch(epoch)
            yield from _samples(stream, self.data, self.group_column)


def _as_stored(stream: "datasets.IterableDataset") -> "datasets.IterableDataset":
    """Leave images encoded, and columns out that are no part of a sample."""
    if stream.features is None:
        return stream
    schema = stream.features.arrow_schema
    return stream.decode(False).select_columns(dataset.sample_columns(schema))


def _samples(
    stream: "datasets.IterableDataset", data: str, group_column: str | None
) -> Iterator[Sample]:
    number = count()
    # By `iter`, as each worker would iterate over shards of its own.
    for batch in stream.iter(READ_TOGETHER):
        for row in _rows(batch):
            yield dataset.as_sample(row, next(number), Path(data), group_column)


def _rows(batch: dict[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(batch, cells, strict=True)) for cells in zip(*batch.values(), strict=True))
