"""PrepareConfig: the options of `phi-vision prepare`, with their defaults.

Imports nothing heavy, so that `--help` opens fast.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a catalog is prepared. Every field is an option of the command."""

    out: Path
    """Folder to write; one that an earlier run wrote is replaced."""
    kind: str | None = None
    """Format of the source; by default detected from its name and content."""
    split: str | None = None
    """Split of the source to read; all by default."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    streaming: bool = False
    """Read a hub dataset without storing it here first."""
    encoding: str | None = None
    """Encoding of a text source, such as cp1250; by default it is detected and shown with words."""
    map: tuple[str, ...] = ()
    """Columns, as PART=COLUMN: image, id, group, split, messages or a field of the record; the
    others are guessed, and the guess is shown."""
    images: str | None = None
    """Path of a row's image with columns in braces, such as 'images/{id}.jpg'; the same as
    --map image=PATH."""
    template: str | None = None
    """Prompt template: a name or a YAML file. A record must have its fields. By default `product`,
    or `category-first` where titles are mostly invented names, or a plain one over the fields that
    were found."""
    fields: tuple[str, ...] = ()
    """Fields of the answer, instead of a template, as FIELD or FIELD:KIND, such as title colours
    'weight:quantity kg' 'care:text?': text, category, number, list, quantity, money, boolean or
    path, with `?` where it may be missing; kinds not given are guessed from the values, and
    shown."""
    numbers: Literal["likeliest", "median"] | None = None
    """Which number of those that it finds possible a model will write where the answer has any: the
    digits that are likeliest one after the other, or the median of 16 draws, nearer to the true one
    in about twice the time; by default as the template says, else likeliest."""
    validation: float = 0.1
    """Fraction of samples in the validation split, which is evaluated during training."""
    test: float = 0.1
    """Fraction of samples in the test split."""
    resplit: bool = False
    """Split again: ignore the source's own splits and those of an earlier run."""
    seed: int = 0
    """Seed of the splits."""
    tolerance: int = 4
    """Maximum Hamming distance (of 64 bits) between perceptual hashes of near-duplicates."""
    grouping: Literal["auto", "strict", "images", "none"] = "auto"
    """What stays in one split: equal images, near-duplicates, the source's groups, and titles that
    identify products (auto); all equal titles, against the source's own splits, too (strict);
    without titles (images); nothing (none)."""
    decimal: Literal["point", "comma"] | None = None
    """Decimal mark of an ambiguous price such as 1.234; by default guessed from the others."""
    longest_side: int = 2016
    """Larger images are scaled down to this, in pixels: six crops of 336, the model's maximum."""
    downloads: Path | None = None
    """Cache of downloaded images; beside OUT by default."""
    allow_private_addresses: bool = False
    """Also download from this machine and its network."""
    per_host: int = 8
    """Parallel downloads from one host."""
    retries: int = 4
    """Retries where a host is busy or cannot be reached."""
    engine: Literal["local", "ray"] = "local"
    """Where images are cleaned: processes of this machine, or Ray Data."""
    ray_address: str | None = None
    """A running Ray cluster, such as auto or ray://head:10001; by default Ray is started here."""
    workers: int | None = None
    """Processes that clean images; one for each core by default."""
    shard_size: int = 256
    """Maximum size in MB of a Parquet file, approximately."""
    license: str | None = None
    """Licence of the data, for the card; by default that of the source."""

    def __post_init__(self) -> None:
        """Check the values against each other."""
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise ValueError(
                f"validation {self.validation} and test {self.test} leave no training data; "
                "they must add up to less than 1"
            )
        minimums = {"shard_size": 1, "tolerance": 0, "per_host": 1, "retries": 0}
        for name, least in {**minimums, "workers": int(self.engine == "ray")}.items():
            number = getattr(self, name)
            if number is not None and number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        if self.ray_address and self.engine != "ray":
            raise ValueError(
                f"ray_address is {self.ray_address}, but the engine {self.engine} has no cluster; "
                "use the engine ray"
            )

    @property
    def fractions(self) -> dict[str, float]:
        """Split -> its fraction, without empty ones."""
        train = 1 - self.validation - self.test
        fractions = {"train": train, "validation": self.validation, "test": self.test}
        return {name: fraction for name, fraction in fractions.items() if fraction}
