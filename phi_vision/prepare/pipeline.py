"""Any catalog -> a clean dataset of Samples, and what became of every row.

    source -> images at hand -> cleaned (by an engine) -> staged -> grouped -> split -> written

Rows are read once into a stage on disk; groups and splits need all of them and are found from the
little that stays in memory. The folder appears complete or not at all. Run it with
`phi-vision prepare SOURCE --out DIR`.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from phi_vision.data.template import TEMPLATE_FILE, write_template
from phi_vision.io.atomic import atomic_folder, recover, same_content
from phi_vision.io.http import RetryPolicy
from phi_vision.prepare.assignment import Repeat, Verdict, judge, source_splits
from phi_vision.prepare.cleaning import RawRow, Rejected, clean_chunk
from phi_vision.prepare.data_card import Shown, as_html, as_markdown
from phi_vision.prepare.executors import ENGINES
from phi_vision.prepare.fetch import Fetched, Limits
from phi_vision.prepare.gathering import gather, prefetch
from phi_vision.prepare.images import ImageRules
from phi_vision.prepare.prices import DecimalMark
from phi_vision.prepare.schema import Rules, find_rules
from phi_vision.prepare.shards import Layout, RejectedRows, Shards
from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Source, UnreadableRow
from phi_vision.prepare.staging import Stage, Staged

SHOWN = 24
"""Samples imaged on the card, evenly spread over the dataset."""

DECIMAL_MARKS: dict[str, DecimalMark] = {"point": ".", "comma": ","}

MANIFEST = "prepared.json"
"""The facts of a prepared dataset; a folder that has it may be replaced by another run."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a catalog is prepared. Every field is an option of the command."""

    out: Path
    """Folder to write; one that an earlier run wrote is replaced."""

    kind: str | None = None
    """What the source is, where its name and content do not tell."""

    split: str | None = None
    """Part of the source to read, where it has several; all by default."""

    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""

    streaming: bool = False
    """Read a hub dataset without storing it here first."""

    map: tuple[str, ...] = ()
    """Which column is what, as PART=COLUMN: image, id, group, split, messages or a field of the
    record; the others are guessed, and the guess is shown."""

    template: str | None = None
    """Wording of question and answer: a name or a YAML file. Its fields are those a record must
    have. By default `product`, or a plain one over the fields that were found."""

    validation: float = 0.1
    """Share of the samples set aside to watch the training."""

    test: float = 0.1
    """Share of the samples set aside for the last judgement."""

    resplit: bool = False
    """Split anew: ignore the source's own parts, and where an earlier run put things."""

    seed: int = 0
    """Decides the split."""

    tolerance: int = 4
    """Bits of 64 in which two images' looks may differ and still be near duplicates."""

    decimal: Literal["point", "comma"] | None = None
    """What 1.234 means in this source; by default what its other prices tell."""

    longest_side: int = ImageRules.longest_side
    """Larger images are scaled down to this, in pixels: six crops of 336 are all the model can
    look at."""

    downloads: Path | None = None
    """Where fetched images are kept, so that nothing is fetched twice; beside OUT by default."""

    allow_private_addresses: bool = False
    """Also fetch from this machine and its network."""

    per_host: int = Limits.per_host
    """Images fetched from one host at a time."""

    retries: int = RetryPolicy.retries
    """Further attempts where a host is busy or cannot be reached."""

    engine: Literal["local", "ray"] = "local"
    """Where images are cleaned: processes of this machine, or Ray Data."""

    ray_address: str | None = None
    """A running Ray cluster, such as auto or ray://head:10001; by default Ray is started here."""

    workers: int | None = None
    """Processes that clean images; one for each core by default."""

    shard_size: int = 256
    """Size in MB at which a Parquet file is closed and the next begun."""

    license: str | None = None
    """Licence of the data, for the card; by default what the source says."""

    def __post_init__(self) -> None:
        """Refuse what could not be meant."""
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise ValueError(
                f"validation {self.validation} and test {self.test} leave nothing to train on; "
                "give shares that add up to less than 1"
            )
        numbers = {
            "shard_size": (self.shard_size, 1),
            "tolerance": (self.tolerance, 0),
            "per_host": (self.per_host, 1),
            "retries": (self.retries, 0),
            "workers": (self.workers, 0 if self.engine == "local" else 1),
        }
        for name, (number, least) in numbers.items():
            if number is not None and number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        if self.ray_address and self.engine != "ray":
            raise ValueError(
                f"ray_address is {self.ray_address} and the engine {self.engine}, which has no "
                "cluster; use the engine ray"
            )

    @property
    def fractions(self) -> dict[str, float]:
        """Split -> its share, of those that have one."""
        train = 1 - self.validation - self.test
        shares = {"train": train, "validation": self.validation, "test": self.test}
        return {name: share for name, share in shares.items() if share}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run of `prepare` did."""

    folder: Path
    facts: Mapping[str, Any]
    """What `prepared.json` holds."""

    changed: bool
    """False where the folder already held exactly this."""


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """What is told while a run goes on."""

    columns: Callable[[Mapping[str, str]], None] = lambda columns: None
    """Once: what the source's form and columns were taken for."""

    fetched: Callable[[Fetched], None] = lambda fetched: None
    """For each image that was fetched or could not be."""

    cleaned: Callable[[int, int], None] = lambda samples, rejected: None
    """After each chunk, with how many rows there are of each so far."""


def prepare(name: str, how: PrepareConfig, watcher: Watcher | None = None) -> Outcome:
    """Prepare a catalog.

    Images are cleaned in processes of their own where there are many, so a script that calls this
    at its top level needs the usual `if __name__ == "__main__":`.

    Args:
        name: A file, a folder, or a hub id.
        how: The options.
        watcher: Told how it goes.

    Raises:
        ValueError: The source cannot be read, a column is missing, no row is usable (the message
            gives the three most common reasons), or OUT holds something else.
    """
    watcher = watcher or Watcher()
    recover(how.out)
    _refuse_other_folders(how.out, Path(name))
    source = open_source(
        name, kind=how.kind, split=how.split, revision=how.revision, streaming=how.streaming
    )
    rules = find_rules(
        source,
        mapping=how.map,
        template_name=how.template,
        decimal=DECIMAL_MARKS[how.decimal] if how.decimal else None,
        images=ImageRules(longest_side=how.longest_side),
    )
    watcher.columns({**source.detected, **rules.columns.described()})
    limits = Limits(
        per_host=how.per_host,
        retry=RetryPolicy(retries=how.retries),
        allow_private=how.allow_private_addresses,
    )
    cache = how.downloads or how.out.absolute().with_name(f"{how.out.name}-downloads")
    failed = (
        prefetch(source, rules.columns, cache, limits, watcher.fetched) if rules.has_links else {}
    )
    with atomic_folder(how.out, replace=True) as folder:
        chunks = gather(source, rules.columns, cache, limits, failed)
        facts = _write(source, how, rules, chunks, folder, watcher)
        changed = not same_content(folder, how.out)
        if not changed:
            shutil.rmtree(folder)
    return Outcome(folder=how.out, facts=facts, changed=changed)


def _refuse_other_folders(out: Path, source: Path) -> None:
    whole, given = out.resolve(), source.resolve()
    if source.exists() and (given.is_relative_to(whole) or whole.is_relative_to(given)):
        raise ValueError(
            f"{out} and the source {source} lie in each other, so that one would become part of "
            "the other; name a folder beside the source"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise ValueError(
            f"{out} is in use and was not written by `prepare` (it has no {MANIFEST}); "
            "name a new folder"
        )


def _write(
    source: Source,
    how: PrepareConfig,
    rules: Rules,
    chunks: Iterator[list[RawRow | UnreadableRow]],
    folder: Path,
    watcher: Watcher,
) -> dict[str, object]:
    """Clean, stage, group, split and write all rows; return the facts."""
    titles = [field for field in ("title", "name") if field in rules.columns.fields]
    categories = [f for f in ("category3_code", "category") if f in rules.columns.fields]
    stage = Stage(
        folder / "stage.parquet",
        title=next(iter(titles), None),
        category=next(iter(categories), None),
    )
    with RejectedRows(folder / "rejected.parquet") as rejected:
        with stage:
            _clean_all(how, rules, chunks, stage, rejected, watcher)
        if not stage.entries:
            raise ValueError(_nothing_usable(source, rejected))
        verdict = judge(
            stage.entries,
            _known_splits(stage, how),
            how.fractions,
            tolerance=how.tolerance,
            seed=how.seed,
        )
        shown = _write_samples(stage, verdict, how, folder, rejected)
    stage.file.unlink()
    facts = _facts(source, how, rules, stage, verdict, rejected)
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(as_markdown(facts, verdict.splits), encoding="utf-8")
    (folder / "card.html").write_text(as_html(facts, shown), encoding="utf-8")
    if rules.template:
        write_template(rules.template, folder / TEMPLATE_FILE)
    return facts


def _clean_all(
    how: PrepareConfig,
    rules: Rules,
    chunks: Iterator[list[RawRow | UnreadableRow]],
    stage: Stage,
    rejected: RejectedRows,
    watcher: Watcher,
) -> None:
    work = functools.partial(clean_chunk, rules=rules)
    run = ENGINES[how.engine]
    for made in run(work, chunks, workers=how.workers, address=how.ray_address):
        for each in made:
            if isinstance(each, Rejected):
                rejected.add(each)
            else:
                stage.add(each)
        watcher.cleaned(len(stage.entries), rejected.reasons.total())


def _nothing_usable(source: Source, rejected: RejectedRows) -> str:
    """Say why no row of a source could be used, with its three most common reasons."""
    reasons = rejected.reasons.most_common(3)
    told = "; ".join(f"{reason} ({rows} rows)" for reason, rows in reasons)
    return (
        f"none of the {rejected.reasons.total()} rows of {source.name} is usable: {told}; "
        "look at the columns (--map) and the images"
    )


def _known_splits(stage: Stage, how: PrepareConfig) -> dict[str, str]:
    """Read where the source, or else an earlier run, put each sample: id -> split."""
    if how.resplit:
        return {}
    files = sorted((how.out / "data").glob("*.parquet")) if how.out.is_dir() else []
    earlier = {
        name: file.name.split("-")[0]
        for file in files
        for name in pq.read_table(file, columns=["id"])["id"].to_pylist()
    }
    return earlier | source_splits(stage.entries)


def _write_samples(
    stage: Stage, verdict: Verdict, how: PrepareConfig, folder: Path, rejected: RejectedRows
) -> list[Shown]:
    """Write each staged row into its split, or among the rejected."""
    layout = Layout(stage.tally)
    (folder / "data").mkdir()
    shown: list[Shown] = []
    every = max(1, len(stage.entries) // SHOWN)
    with ExitStack() as stack:
        shards = {
            split: stack.enter_context(
                Shards(folder / "data", split, layout.schema, most_bytes=how.shard_size * 1_000_000)
            )
            for split in verdict.splits
        }
        for place, (entry, staged) in enumerate(zip(stage.entries, stage.rows(), strict=True)):
            decision = verdict.decisions[place]
            if isinstance(decision, Repeat):
                rejected.add(_repeated(staged, decision))
                continue
            size = sum(map(len, staged.images))
            shards[decision.split].add(layout.row(entry.id, decision.group, staged), size)
            if place % every == 0 and staged.images and len(shown) < SHOWN:
                caption = entry.title or entry.category or entry.id
                shown.append(Shown(caption, staged.images[0]))
    return shown


def _repeated(staged: Staged, decision: Repeat) -> Rejected:
    return Rejected(
        number=staged.number,
        origin=staged.origin,
        reason="repeats an earlier row",
        detail=f"row {decision.of}",
        values=staged.values,
    )


def _facts(
    source: Source,
    how: PrepareConfig,
    rules: Rules,
    stage: Stage,
    verdict: Verdict,
    rejected: RejectedRows,
) -> dict[str, object]:
    """Gather what the card tells. No times and no places of this machine: the same again."""
    samples = sum(not isinstance(decision, Repeat) for decision in verdict.decisions)
    told = {**source.notes, **({"license": how.license} if how.license else {})}
    template = rules.template
    return {
        "name": how.out.absolute().name,
        "rows": samples + rejected.reasons.total(),
        "samples": samples,
        "source": {"name": source.name, "kind": source.kind, **source.detected, **told},
        "columns": rules.columns.described(),
        "template": dataclasses.asdict(template) if template else None,
        **verdict.facts,
        "rejected": dict(rejected.reasons.most_common()),
        "changes": dict(stage.tally.changes.most_common()),
        "images": stage.tally.describe_images(),
        "fields": {
            name: field.described(len(stage.entries)) for name, field in stage.tally.fields.items()
        },
    }
