"""A catalog larger than memory: rows per second and peak memory of `prepare` under a cap.

    python -m benchmarks.large_catalog                               200,000 rows, both engines
    python -m benchmarks.large_catalog --rows 2000 --engine local --source csv

Draws rows into Parquet with embedded images (or a CSV with image files beside it), then runs
`phi-vision prepare` on them. The kernel enforces the cap where a control group (cgroup) can be
made; elsewhere the run is stopped when the summed resident memory of its processes, read ten times
a second, exceeds it. Both figures are printed. The last line printed is a JSON list.
"""

import argparse
import csv
import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE = 128  # pixels: 200,000 of these JPEGs take about 2 GB and some minutes
BATCH = 1000  # rows drawn together, about 10 MB in memory
TICK = 0.1  # seconds between two readings of the memory
CALL = "import sys; from phi_vision.cli.main import main; sys.exit(main(sys.argv[1:]))"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
ADJECTIVES = ("Plain", "Quilted", "Striped", "Washed", "Woven", "Printed", "Ribbed", "Cropped")
KINDS = ("Coat", "Shirt", "Skirt", "Scarf", "Belt", "Boot", "Tote", "Dress", "Hat", "Glove")

Columns = dict[str, list[str] | list[bytes]]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The measurements of one run."""

    engine: str
    rows: int
    samples: int
    rejected: int
    seconds: float
    rows_per_second: float

    peak_mb: float
    """Peak of the summed resident memory of all processes."""

    group_peak_mb: float | None
    """Peak counted by the kernel, page cache included; None without a control group."""

    cap_mb: float
    data_mb: float

    cleaned_mb: float
    """Size of the prepared folder."""

    data_over_cap: float


def draw_images(start: int, count: int) -> list[bytes]:
    """Draw small images, all different and no near-duplicates: waves and noise in colours.

    Args:
        start: The number of the first image; equal numbers give equal images.
        count: How many.
    """
    grid = np.linspace(0, 1, SIDE)
    images = []
    for number in range(start, start + count):
        random = np.random.default_rng(number)
        coarse = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        blocks = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        slope = 60 * np.sin(random.uniform(2, 9) * (grid[:, None] + random.uniform(-1, 1) * grid))
        noise = random.integers(-30, 31, (SIDE, SIDE, 3))
        pixels = np.clip(blocks + slope[:, :, None] + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    return images


def draw_rows(rows: int) -> Iterator[Columns]:
    """Yield rows in batches, as columns; a title comes twice in a thousand rows."""
    for start in range(0, rows, BATCH):
        numbers = range(start, min(start + BATCH, rows))
        kinds = [KINDS[number % len(KINDS)] for number in numbers]
        titled = [number - number % 500 if number % 500 == 1 else number for number in numbers]
        yield {
            "sku": [f"P{number:08d}" for number in numbers],
            "title": [
                f"{ADJECTIVES[number // 10 % len(ADJECTIVES)]} {kind} No. {number}"
                for number, kind in zip(titled, kinds, strict=True)
            ],
            "category": [kind.upper() for kind in kinds],
            "price": [f"£{20 + number * 37 % 1980:,}.00" for number in numbers],
            "image": draw_images(start, len(numbers)),
        }


def write_parquet(rows: int, folder: Path) -> Path:
    """Write the catalog as one Parquet file with the images inside."""
    file = folder / "catalog.parquet"
    text = [(name, pa.string()) for name in ("sku", "title", "category", "price")]
    schema = pa.schema([*text, ("image", pa.binary())])
    with pq.ParquetWriter(file, schema) as writer:
        for columns in draw_rows(rows):
            writer.write_table(pa.table(columns, schema=schema), row_group_size=BATCH)
    return file


def write_csv(rows: int, folder: Path) -> Path:
    """Write the catalog as a CSV file with the images beside it, a thousand in a folder."""
    file = folder / "catalog.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["sku", "title", "category", "price", "image"])
        for batch, columns in enumerate(draw_rows(rows)):
            (folder / f"{batch:04d}").mkdir()
            images = columns.pop("image")
            names = [f"{batch:04d}/{place:03d}.jpg" for place in range(len(images))]
            for name, image in zip(names, images, strict=True):
                assert isinstance(image, bytes)
                (folder / name).write_bytes(image)
            writer.writerows(zip(*columns.values(), names, strict=True))
    return file


def measure(source: Path, engine: str, cap_mb: float, workers: int | None, scratch: Path) -> Cost:
    """Prepare the catalog once.

    Raises:
        ValueError: It failed, exceeded the cap, or lost rows.
    """
    out = scratch / f"prepared-{engine}"
    command = [sys.executable, "-c", CALL, "prepare", str(source), "--out", str(out)]
    command += ["--engine", engine, *(["--workers", str(workers)] if workers else [])]
    started = time.perf_counter()
    with control_group(cap_mb) as group:
        sampled = group.run(command) if group else run_below(cap_mb, command)
        counted = group.peak_mb() if group else None
    seconds = time.perf_counter() - started
    facts = json.loads((out / "prepared.json").read_text(encoding="utf-8"))
    rejected = sum(facts["rejected"].values())
    if facts["samples"] + rejected != facts["rows"]:
        raise ValueError(f"{facts['rows']} rows became {facts['samples']} and {rejected} others")
    data_mb = size_mb(source if source.suffix == ".parquet" else source.parent)
    return Cost(
        engine=engine,
        rows=facts["rows"],
        samples=facts["samples"],
        rejected=rejected,
        seconds=round(seconds, 2),
        rows_per_second=round(facts["rows"] / seconds, 1),
        peak_mb=round(sampled, 1),
        group_peak_mb=round(counted, 1) if counted else None,
        cap_mb=cap_mb,
        data_mb=round(data_mb, 1),
        cleaned_mb=round(size_mb(out), 1),
        data_over_cap=round(data_mb / cap_mb, 2),
    )


@dataclass(frozen=True, kw_only=True)
class Group:
    """A control group of the kernel, whose files are named differently in v1 and v2."""

    folder: Path
    limit: str
    peak: str
    mark: str
    """A file that the parent has in this version."""

    def run(self, command: list[str]) -> float:
        """Run a command whose process joins the group before it starts the program."""
        enter = f'echo $$ > "{self.folder}/cgroup.procs" && exec "$@"'
        return run_below(math.inf, ["sh", "-c", enter, "sh", *command])

    def wait_until_empty(self) -> None:
        """Wait up to half a minute for daemons (Ray's) that outlive the command."""
        for _ in range(300):
            if not (self.folder / "cgroup.procs").read_text():
                return
            time.sleep(TICK)

    def peak_mb(self) -> float:
        """Read the group's peak memory, in MB."""
        return int((self.folder / self.peak).read_text()) / 2**20


VERSIONS = (
    Group(
        folder=CONTROL_GROUPS,
        limit="memory.max",
        peak="memory.peak",
        mark="cgroup.subtree_control",
    ),
    Group(
        folder=CONTROL_GROUPS / "memory",
        limit="memory.limit_in_bytes",
        peak="memory.max_usage_in_bytes",
        mark="cgroup.procs",
    ),
)


@contextmanager
def control_group(cap_mb: float) -> Iterator[Group | None]:
    """Make a control group with a memory limit; None where the system does not allow it."""
    found = next((each for each in VERSIONS if (each.folder / each.mark).is_file()), None)
    if found is None:
        yield None
        return
    group = replace(found, folder=found.folder / f"large-catalog-{os.getpid()}")
    try:
        group.folder.mkdir()
    except OSError:
        yield None
        return
    try:
        yield group if _is_limited(group, cap_mb) else None
    finally:
        group.wait_until_empty()
        group.folder.rmdir()


def _is_limited(group: Group, cap_mb: float) -> bool:
    """Set the limit; False where the kernel supports no limit or reports no peak."""
    if not all((group.folder / name).is_file() for name in (group.limit, group.peak)):
        return False
    try:
        (group.folder / group.limit).write_text(str(int(cap_mb * 2**20)))
    except OSError:
        return False
    return True


def run_below(cap_mb: float, command: list[str]) -> float:
    """Run a command, summing the resident memory of its processes; stop it above the cap.

    Returns:
        The peak, in MB.

    Raises:
        ValueError: It failed, or exceeded the cap.
    """
    with tempfile.TemporaryFile() as output:
        process = psutil.Popen(command, stdout=output, stderr=output)
        peak_mb = 0.0
        while process.poll() is None and peak_mb <= cap_mb:
            peak_mb = max(peak_mb, resident_mb(process))
            time.sleep(TICK)
        if process.poll() is None:
            for each in [*process.children(recursive=True), process]:
                each.kill()
            process.wait()
            raise ValueError(f"it held {peak_mb:.0f} MB, the cap is {cap_mb:.0f} MB")
        if process.returncode:
            output.seek(0)
            printed = output.read().decode(errors="replace")[-2000:]
            raise ValueError(f"ended with {process.returncode} at {peak_mb:.0f} MB: {printed}")
    return peak_mb


def resident_mb(process: psutil.Process) -> float:
    """Sum the memory of a process and its descendants, shared pages in proportion (PSS)."""
    held = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for each in family:
        try:
            held += each.memory_full_info().pss if psutil.LINUX else each.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return held / 2**20


def size_mb(path: Path) -> float:
    """Return the size of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


WRITERS = {"parquet": write_parquet, "csv": write_csv}
"""Kind of source -> function that draws a catalog of it."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--source", choices=WRITERS, default="parquet")
    parser.add_argument("--engine", choices=["local", "ray", "both"], default="both")
    parser.add_argument("--cap-mb", type=float, default=1400.0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--folder", type=Path, help="where there is room; removed afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        drawn = Path(scratch) / "catalog"
        drawn.mkdir()
        before = time.perf_counter()
        table = WRITERS[options.source](options.rows, drawn)
        print(f"drew {options.rows} rows in {time.perf_counter() - before:.0f} s", file=sys.stderr)
        costs = []
        for name in ["local", "ray"] if options.engine == "both" else [options.engine]:
            cost = measure(table, name, options.cap_mb, options.workers, Path(scratch))
            print(cost, file=sys.stderr)
            costs.append(asdict(cost))
        print(json.dumps(costs))
