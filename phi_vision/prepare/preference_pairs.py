"""Make preference pairs of a dataset: each correct record beside a plausible wrong one.

    rows -> values of the catalog (of train) -> hard negatives -> OUT, with a column `rejected`

What is wrong must be visible in the image or known of the shop, and not betrayed by its form: a
category exists, a price ends as prices there do, a title consists of words that occur in such
places. Every row keeps its columns and its split. Run it with `phi-vision pairs DATA --out DIR`.
"""

import bisect
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import pyarrow as pa
from huggingface_hub import DatasetCard

from phi_vision.data import dataset
from phi_vision.data.parquet_rows import count_rows, read_batches, read_schema
from phi_vision.data.samples import Record, Value
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template, write_template
from phi_vision.io.atomic import atomic_folder, write_text
from phi_vision.io.formatting import error_texts
from phi_vision.prepare.data_card import card_header, render
from phi_vision.prepare.shards import Shards, check_output_folder

failure = error_texts(__file__)
MANIFEST = "pairs.json"  # metadata; a folder that has it may be replaced by another run
MAX_SHARD_BYTES = 256_000_000
EXAMPLES = 5  # pairs on the card
ATTEMPTS = 20  # at another completion before a record is given up

# How far a wrong price is off: well outside of the 10 % that count as correct, and plausible.
MIN_FACTOR, MAX_FACTOR = 1.2, 3.0
# A text field is a category where its values have on average so many rows or more.
MIN_CATEGORY_ROWS = 5
# Fraction of rows in which a value must have the same parent: exports are never quite clean.
MIN_PARENT_SHARE = 0.95

_Row = Mapping[str, Any]  # column -> cell


class HardNegative(NamedTuple):
    """A correct and a wrong completion."""

    correct: str
    wrong: str
    fields: tuple[str, ...]  # those in which they differ


class PreferencePairs(NamedTuple):
    """Result of `write_pairs`."""

    folder: Path
    splits: dict[str, int]  # split -> its pairs
    changed: dict[str, int]  # field -> pairs in which it is wrong
    left_out: int  # samples for which the catalog has no other completion


def write_pairs(
    data: Path,
    out: Path,
    *,
    template: str | None = None,
    pairs_per_sample: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreferencePairs:
    """Write a dataset again, with a wrong completion beside each correct one, by the seed.

    Args:
        out: A folder that an earlier run wrote is replaced.
        template: Prompt template; by default the data's own, else `product`.
        pairs_per_sample: Wrong completions for each sample of `train`. Other splits are for
            measuring, where repeated samples would make estimates look surer: they have one.
        progress: Called with (done, total) after each sample.
    """
    if pairs_per_sample < 1:
        raise failure("too_few", count=pairs_per_sample)
    check_output_folder(out, data, "pairs", MANIFEST)
    files = dataset.files_by_split(data)
    schemas = {split: _extended_schema(those) for split, those in files.items()}
    total = sum(count_rows(file) for those in files.values() for file in those)
    own = str(data) if (data / TEMPLATE_FILE).is_file() else "product"
    wording = find_template(template or own)
    known = "train" if "train" in files else next(iter(files))
    columns = dataset.record_columns(schemas[known])
    records = [dataset.as_record(row, columns) for row in _rows(files[known], columns)]
    sampler = NegativeSampler(records, wording)
    pairs: Counter[str] = Counter()
    changed = Counter(dict.fromkeys(wording.fields, 0))
    examples: list[HardNegative] = []
    done = left_out = 0
    with atomic_folder(out, replace=True) as folder:
        (folder / "data").mkdir()
        for split, schema in schemas.items():
            rows = _rows(files[split], schema.names[:-1])
            copies = pairs_per_sample if split == "train" else 1
            drawn = _draw(rows, sampler, dataset.record_columns(schema), f"{seed} {split}", copies)
            with Shards(folder / "data", split, schema, max_bytes=MAX_SHARD_BYTES) as shards:
                for row, negatives in drawn:
                    _write(shards, row, negatives)
                    pairs.update([split] * len(negatives))
                    changed.update(field for negative in negatives for field in negative.fields)
                    examples = [*examples, *negatives][:EXAMPLES]
                    left_out += not negatives
                    done += 1
                    progress(done, total)
        if not pairs:
            raise failure("no_other_value", samples=done, fields=", ".join(wording.fields))
        write_template(wording, folder / TEMPLATE_FILE)
        made = PreferencePairs(out, dict(pairs), dict(changed), left_out)
        _write_card(folder, data, made, examples)
    return made


def _draw(
    rows: Iterable[_Row], sampler: "NegativeSampler", columns: Sequence[str], seed: str, copies: int
) -> Iterator[tuple[_Row, list[HardNegative]]]:
    """Yield each row of a split with its wrong completions."""
    for position, row in enumerate(rows):
        # A row's own id, not its position: inserted rows must not change its pairs.
        name = next((row[name] for name in dataset.ID_COLUMNS if name in row), position)
        record = dataset.as_record(row, columns)
        yield row, sampler.draw(record, random.Random(f"{seed} {name}"), copies)


def _write(shards: Shards, row: _Row, negatives: Iterable[HardNegative]) -> None:
    """Write a row once for each of its wrong completions."""
    cells = row.get("images") or [row.get("image")]
    image_bytes = sum(len(cell["bytes"] or b"") for cell in cells if cell)
    for number, negative in enumerate(negatives, start=1):
        own = {"id": f"{row['id']}-{number}"} if number > 1 and "id" in row else {}
        shards.add({**row, **own, dataset.REJECTED_COLUMN: negative.wrong}, image_bytes)


class NegativeSampler:
    """Draws wrong completions from the values of a catalog."""

    def __init__(self, records: Sequence[Record], template: Template) -> None:
        self._template = template
        for record in records:
            template.select(record)  # it must have all fields
        self._fields = {name: _FieldValues(name, records) for name in template.fields}

    def draw(self, record: Record, rng: random.Random, count: int = 1) -> list[HardNegative]:
        """Draw so many different completions, or fewer, each wrong in at least one field.

        Input:  {"title": "Check Wool Scarf", "category3_code": "SCARVES", "full_price": 390.0}
        Output: wrong "Product: Check Wool Cape, Category: SCARVES, Full Price: 390.0"
        """
        known = self._template.select(record)
        correct = self._template.render(known)
        negatives: dict[str, HardNegative] = {}
        attempts = 0  # since the last one
        while len(negatives) < count and attempts < ATTEMPTS:
            chosen = [name for name in known if rng.random() < 0.5] or [rng.choice([*known])]
            changed = {name: self._fields[name].other(known[name], rng) for name in chosen}
            wrong = self._template.render({**known, **changed})
            attempts += 1
            if wrong != correct and wrong not in negatives:
                attempts = 0
                fields = tuple(name for name in chosen if changed[name] != known[name])
                negatives[wrong] = HardNegative(correct, wrong, fields)
        return [*negatives.values()]


class _FieldValues:
    """Values of one field of the completion in the catalog."""

    def __init__(self, name: str, records: Sequence[Record]) -> None:
        counts = Counter(record[name] for record in records if record[name] not in (None, ""))
        # Distinct values, the most frequent first, and the rows of each and of those before it.
        self._values = sorted(counts, key=lambda value: (-counts[value], str(value)))
        self._cumulative = list(itertools.accumulate(counts[value] for value in self._values))
        prices = [float(value) for value in self._values if _is_number(value) and value > 0]
        self._prices = sorted({*prices}) if len(prices) * 2 > len(self._values) else []
        texts = [value for value in self._values if isinstance(value, str)]
        is_category = len(texts) * MIN_CATEGORY_ROWS <= sum(counts[text] for text in texts)
        self._parents = _find_parents(name, records) if is_category else {}
        self._siblings: dict[Value, list[Value]] = {}  # parent -> its values
        # (word before, word after) -> words between them; "" is the start or end of a text.
        self._words: dict[tuple[str, str], dict[str, None]] = {}
        for text in texts:
            if self._parents:
                self._siblings.setdefault(self._parents[text], []).append(text)
            for before, word, after in [] if is_category else _neighbours(text):
                self._words.setdefault((before, after), {})[word] = None

    def other(self, value: Value, rng: random.Random) -> Value:
        """Choose another value; the same where it is the only one, or drawn again and again."""
        if self._prices and _is_number(value) and value > 0:
            return self._other_price(float(value), rng)
        if isinstance(value, str) and self._words:
            return self._other_words(value, rng)
        return self._other_value(value, rng)

    def _other_price(self, price: float, rng: random.Random) -> float:
        """Choose a price of the catalog that is off by a factor, as likely too low as too high.

        Without one in reach, the price times the factor, rounded.
        """
        factor = math.exp(rng.uniform(math.log(MIN_FACTOR), math.log(MAX_FACTOR)))
        sides = [
            (price * factor, price * MIN_FACTOR, price * MAX_FACTOR),
            (price / factor, price / MAX_FACTOR, price / MIN_FACTOR),
        ]
        rng.shuffle(sides)
        for wanted, lowest, highest in sides:
            first = bisect.bisect_left(self._prices, lowest)
            nearby = self._prices[first : bisect.bisect(self._prices, highest)]
            if nearby:
                return min(nearby, key=lambda other: abs(math.log(other / wanted)))
        return _round_like(sides[0][0], price)

    def _other_value(self, value: Value, rng: random.Random) -> Value:
        """Choose another value: half of the time of the same parent, else by frequency."""
        siblings = self._siblings.get(self._parents.get(str(value)), ())
        if len(siblings) > 1 and rng.random() < 0.5:
            return rng.choice([other for other in siblings if other != value])
        for _ in range(ATTEMPTS if self._values else 0):
            (other,) = rng.choices(self._values, cum_weights=self._cumulative)
            if other != value:
                return other
        return value

    def _other_words(self, text: str, rng: random.Random) -> Value:
        """Replace a word by one that stands between the same words elsewhere, or the text."""
        options = {
            place: [other for other in self._words.get((before, after), ()) if other != word]
            for place, (before, word, after) in enumerate(_neighbours(text))
        }
        places = [place for place, others in options.items() if others]
        if not places:
            return self._other_value(text, rng)
        words = text.split(" ")
        place = rng.choice(places)
        words[place] = rng.choice(options[place])
        return " ".join(words)


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _neighbours(text: str) -> list[tuple[str, str, str]]:
    """List the words of a text, each between those beside it."""
    words = text.split(" ")
    return list(zip(["", *words], words, [*words[1:], ""], strict=False))


def _round_like(amount: float, price: float) -> float:
    """Round an amount so that it ends like a price.

    Input:  663.2 like 390.0, 78.183 like 45.99, 78.183 like 45.5, 1.7 like 1.0
    Output: 660.0             78.99              78.5             2.0
    """
    whole, cents = divmod(round(price * 100), 100)
    if cents:
        return (max(1, math.floor(amount)) * 100 + cents) / 100
    steps = (10**digits for digits in range(16))
    step = max(s for s in steps if s == 1 or (s <= amount and whole % s == 0))
    return float(max(1, round(amount / step)) * step)


def _find_parents(name: str, records: Sequence[Record]) -> dict[str, Value]:
    """Return each category's value in the finest column that groups them: TOTES -> BAGS."""
    children = len({record.get(name) for record in records})
    finest, best = 1, {}
    for column in records[0] if records else ():
        pairs = Counter((str(record.get(name)), record.get(column)) for record in records)
        kinds = len({parent for _, parent in pairs})
        if column == name or not finest < kinds < children:
            continue
        parents = {child: parent for (child, parent), _ in reversed(pairs.most_common())}
        if sum(pairs[pair] for pair in parents.items()) >= MIN_PARENT_SHARE * len(records):
            finest, best = kinds, parents
    return best


def _rows(files: Iterable[Path], columns: Sequence[str]) -> Iterator[_Row]:
    batches = (batch for file in files for batch in read_batches(file, columns))
    return (row for batch in batches for row in batch.to_pylist())


def _extended_schema(files: Sequence[Path]) -> pa.Schema:
    """Return the schema of a split with the column of wrong completions."""
    rejected = dataset.REJECTED_COLUMN
    schema, *others = [read_schema(file) for file in files]
    if any((other.names, other.types) != (schema.names, schema.types) for other in others):
        raise failure("other_columns", file=files[0])
    for column, problem in ((rejected, "are_pairs"), (dataset.MESSAGES_COLUMN, "conversations")):
        if column in schema.names:
            raise failure(problem, file=files[0])
    metadata = dict(schema.metadata or {})
    described = json.loads(metadata.get(b"huggingface", b"{}"))
    if "features" in described.get("info", {}):
        described["info"]["features"][rejected] = {"dtype": "string", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(described).encode()
    return schema.append(pa.field(rejected, pa.string())).with_metadata(metadata or None)


def _write_card(
    folder: Path, data: Path, made: PreferencePairs, examples: Sequence[HardNegative]
) -> None:
    """Write metadata and card beside the rows."""
    metadata: dict[str, Any] = {"name": made.folder.absolute().name, **made._asdict()}
    del metadata["folder"]
    write_text(folder / MANIFEST, json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")
    source = data / "README.md"
    license = DatasetCard.load(source).data.get("license") if source.is_file() else None
    metadata |= {"header": card_header(made.splits, license), "examples": examples}
    card = render("pairs_card.md.j2", data=data.absolute().name, **metadata)
    write_text(folder / "README.md", card)
