"""Training on data of any size: seconds to the first step and peak memory, by the number of rows.

    python -m benchmarks.data_size                          3,000 and 200,000 rows; then two at once
    python -m benchmarks.data_size --rows 300 3000 --steps 2

Draws rows of some 10 KB into Parquet, as `phi-vision prepare` writes them, and trains adapters of
the small base on them, in a control group (cgroup) with a memory limit where one can be made. The
memory of a process is read ten times a second: its own, and that of files it has mapped, both
divided by the processes that share them. The last line printed is a JSON list.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pyarrow as pa

from benchmarks.large_catalog import CALL, TICK, Group, control_group, draw_images, size_mb
from phi_vision.model.checkpoint import SMALL
from phi_vision.prepare.shards import Shards
from phi_vision.runs import RunDir

DISTINCT = 200  # images that are drawn; each row has one of them, with another ending
SHARD_BYTES = 500_000_000
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "group_id", "title", "category3_code")]
    + [("full_price", pa.float64())]
    + [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The measurements of one training, or of one of several at the same time."""

    rows: int
    processes: int
    data_mb: float
    seconds_to_first_step: float  # from the start of the command to the end of the step
    cpu_seconds_to_first_step: float
    own_mb: float  # peak of the memory that is no file's
    mapped_mb: float  # peak of mapped files, libraries too, of all processes together
    group_peak_mb: float | None  # of all processes, page cache included; None without a group


def write_data(rows: int, folder: Path) -> Path:
    """Write samples in groups of two."""
    folder.mkdir()
    images = draw_images(0, DISTINCT)
    with Shards(folder, "train", SCHEMA, max_bytes=SHARD_BYTES) as shards:
        for number in range(rows):
            encoded = images[number % DISTINCT] + number.to_bytes(8, "big")
            row = {"id": f"P{number:08d}", "group_id": f"G{number // 2:08d}"}
            row |= {"title": f"Woven coat No. {number}", "category3_code": f"KIND {number % 40}"}
            image = {"bytes": encoded, "path": f"{number}.jpg"}
            shards.add({**row, "full_price": 20.0 + number % 900, "image": image}, len(encoded))
    return folder


def measure(
    data: Path, rows: int, processes: int, steps: int, cap_mb: float, options: list[str]
) -> list[Training]:
    """Train once in each of several processes at the same time.

    Raises:
        ValueError: A training failed.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=data.parent)))
        group = stack.enter_context(control_group(cap_mb * processes))
        output = stack.enter_context((scratch / "output").open("w+b"))
        started, watched = time.perf_counter(), list[_Watched]()
        for number in range(processes):
            run = RunDir(scratch / f"run-{number}")
            command = [sys.executable, "-c", CALL, "train", "lora", "--model", SMALL]
            command += ["--data", str(data), "--output-dir", str(run.path), "--eval-samples", "0"]
            # The last step is followed by an evaluation of all validation samples.
            command += ["--validation-fraction", "0.001", "--report-to", "none"]
            command += ["--max-steps", str(steps), *options]
            command = _enter(group, command)
            process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            watched.append(_Watched(process, run))
        running, mapped_mb = watched, 0.0
        while running:
            running = [each for each in running if each.is_running(started)]
            mapped_mb = max(mapped_mb, sum(each.mapped_mb for each in running))
            time.sleep(TICK)
        if any(each.process.returncode for each in watched):
            output.seek(0)
            raise ValueError(f"a training failed: {output.read()[-2000:].decode()}")
        peak = group.peak_mb() if group else None
    return [
        Training(
            rows=rows,
            processes=processes,
            data_mb=round(size_mb(data), 1),
            seconds_to_first_step=round(each.first_step, 2),
            cpu_seconds_to_first_step=round(each.cpu_seconds, 2),
            own_mb=round(each.own_mb, 1),
            mapped_mb=round(mapped_mb, 1),
            group_peak_mb=peak,
        )
        for each in watched
    ]


class _Watched:
    """A training, the peak of its own memory, and what it maps now."""

    def __init__(self, process: psutil.Popen, run: RunDir) -> None:
        self.process, self.run = process, run
        self.first_step = self.cpu_seconds = self.own_mb = self.mapped_mb = 0.0

    def is_running(self, started: float) -> bool:
        """Read the memory and the log; False after the end."""
        if self.process.poll() is not None:
            return False
        own = mapped = 0
        try:
            if not self.first_step:
                used = self.process.cpu_times()
                self.cpu_seconds = used.user + used.system
                log = self.run.log_file
                if log.is_file() and log.stat().st_size:
                    self.first_step = time.perf_counter() - started
            for each in [self.process, *self.process.children(recursive=True)]:
                file = Path(f"/proc/{each.pid}/smaps_rollup")
                sizes = dict(line.split()[:2] for line in file.read_text().splitlines()[1:])
                own += int(sizes["Pss_Anon:"])
                mapped += int(sizes["Pss_File:"]) + int(sizes["Pss_Shmem:"])
        except (psutil.Error, OSError):  # it has just ended
            return True
        self.own_mb, self.mapped_mb = max(self.own_mb, own / 1024), mapped / 1024
        return True


def _enter(group: Group | None, command: list[str]) -> list[str]:
    """Let a command join a control group before it starts."""
    if group is None:
        return command
    return ["sh", "-c", f'echo $$ > "{group.folder}/cgroup.procs" && exec "$@"', "sh", *command]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[3000, 200_000])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--cap-mb", type=float, default=1500.0, help="of one process")
    parser.add_argument("--folder", type=Path, help="where there is room; removed afterwards")
    given, options = parser.parse_known_args()  # the others are those of the training
    found = list[Training]()
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        for rows in given.rows:
            data = write_data(rows, Path(scratch) / str(rows))
            for processes in (1, 2) if rows == given.rows[-1] else (1,):
                found += measure(data, rows, processes, given.steps, given.cap_mb, options)
                print(found[-1], file=sys.stderr)
    print(json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
