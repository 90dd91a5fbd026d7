"""Images fetched per second of CPU time: ours and img2dataset, on a loopback server.

    python -m venv elsewhere && elsewhere/bin/pip install img2dataset
    python -m benchmarks.download compare --img2dataset elsewhere/bin/python

A separate process serves drawn JPEGs; ours and img2dataset in three settings fetch them in turn,
several rounds, each into an empty folder. CPU time includes all child processes (`wait4`). Start-up
(imports, pools) is measured by runs over a single image, and figures are printed with and without
it. The last line printed is a JSON object.
"""

import argparse
import asyncio
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image

from phi_vision.prepare.fetch import Limits, fetch

OURS = "phi-vision"
CALL = "import json, sys, img2dataset; img2dataset.download(**json.loads(sys.argv[1]))"
BARE: dict[str, object] = {"extract_exif": False, "compute_hash": None}
SETTINGS: dict[str, dict[str, object]] = {
    "img2dataset, its defaults": {},
    "img2dataset, bytes kept": {"resize_mode": "no", "skip_reencode": True, **BARE},
    "img2dataset, not decoded": {"disable_all_reencoding": True, **BARE},
}
"""From its defaults to its cheapest setting."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The measurements of one run."""

    images: int
    seconds: float
    cpu_seconds: float


def compare(python: Path, images: int, rounds: int, connections: int) -> None:
    """Run all downloaders in turn and print the images per second of each."""
    with serving(images) as port, tempfile.TemporaryDirectory() as scratch:
        runs: dict[str, list[Cost]] = {name: [] for name in (OURS, *SETTINGS)}
        starts: dict[str, list[Cost]] = {name: [] for name in runs}
        for number in range(rounds):
            # In both orders, so that drift of the machine affects all alike.
            for name in runs if number % 2 == 0 else reversed(runs):
                for costs, count in ((starts, 1), (runs, images)):
                    with tempfile.TemporaryDirectory(dir=scratch) as folder:
                        urls = [f"http://127.0.0.1:{port}/{i}.jpg" for i in range(count)]
                        cost = measure(name, python, urls, Path(folder), connections)
                        costs[name].append(cost)
                print(f"round {number + 1}: {name}: {cost}", file=sys.stderr)
    report(runs, starts)


@contextmanager
def serving(images: int) -> Iterator[int]:
    """Run the server in a separate process, and yield its port."""
    command = [sys.executable, "-m", "benchmarks.download", "serve", str(images)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def measure(name: str, python: Path, urls: list[str], folder: Path, connections: int) -> Cost:
    """Fetch the URLs once, and check that all of them arrived."""
    listed, out = folder / "urls.txt", folder / "out"
    listed.write_text("\n".join(urls) + "\n")
    if name == OURS:
        options = [str(listed), str(out), str(connections)]
        command = [sys.executable, "-m", "benchmarks.download", "fetch", *options]
    else:
        setting = {
            "url_list": str(listed),
            "output_folder": str(out),
            "thread_count": connections,
            "processes_count": 1,
            **SETTINGS[name],
        }
        command = [str(python), "-c", CALL, json.dumps(setting)]
    cost = run(command, len(urls))
    kept = [file for file in out.rglob("*") if file.suffix == ".jpg" or len(file.name) == 64]
    if len(kept) != len(urls):
        raise ValueError(f"{name} kept {len(kept)} of {len(urls)} images: {' '.join(command)}")
    return cost


def run(command: list[str], images: int) -> Cost:
    """Run a process; its CPU time includes that of its children."""
    # img2dataset's libraries check for newer versions of themselves on import.
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "offline"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            raise ValueError(f"{' '.join(command)} failed: {output.read().decode()[-2000:]}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Cost(images=images, seconds=seconds, cpu_seconds=cpu_seconds)


def report(runs: dict[str, list[Cost]], starts: dict[str, list[Cost]]) -> None:
    """Print medians over the rounds, and the ratio of ours to the others."""
    figures: dict[str, dict[str, float]] = {}
    for name, costs in runs.items():
        start = median(cost.cpu_seconds for cost in starts[name])
        wall = median(cost.seconds for cost in starts[name])
        figures[name] = {
            "images_per_second": median(c.images / c.seconds for c in costs),
            "images_per_cpu_second": median(c.images / c.cpu_seconds for c in costs),
            "start_cpu_seconds": start,
            "images_per_second_less_start": median(
                (c.images - 1) / (c.seconds - wall) for c in costs
            ),
            "images_per_cpu_second_less_start": median(
                (c.images - 1) / (c.cpu_seconds - start) for c in costs
            ),
        }
    for name, values in figures.items():
        print(name)
        for what, value in values.items():
            ratio = f"ours is {figures[OURS][what] / value:.2f} times that"
            print(f"    {what:36}{value:10.2f}    {ratio if 'per' in what else ''}".rstrip())
    print(json.dumps(figures))


def fetch_list(listed: Path, out: Path, connections: int) -> None:
    """Fetch the URLs of a file with our own downloader."""
    limits = Limits(per_host=connections, total=connections, allow_private=True)
    for fetched in fetch(listed.read_text().splitlines(), out, limits):
        assert fetched.reason is None, fetched


def serve(images: int) -> None:
    """Serve `/0.jpg`, `/1.jpg`, ... until stopped; the first line printed is the port."""
    answers = [_answer(number) for number in range(images)]

    class Server(asyncio.Protocol):
        """Answers requests on persistent connections."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            self.received = b""

        def data_received(self, data: bytes) -> None:
            *requests, self.received = (self.received + data).split(b"\r\n\r\n")
            for request in requests:
                self.transport.write(answers[int(request[5 : request.index(b".jpg")])])
                if b"connection: close" in request.lower():
                    self.transport.close()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main())


def _answer(number: int) -> bytes:
    """Build a response with a noisy JPEG of 20 to 50 KB, a different one for each number."""
    side = random.Random(number).randint(225, 350)
    bands = [Image.effect_noise((side, side), 35) for _ in range(3)]
    file = io.BytesIO()
    Image.merge("RGB", bands).save(file, "JPEG", quality=75)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {file.tell()}\r\n\r\n"
    return head.encode() + file.getvalue()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    comparing = commands.add_parser("compare", help="run all downloaders")
    comparing.add_argument("--img2dataset", type=Path, required=True, help="a Python that has it")
    comparing.add_argument("--images", type=int, default=3000)
    comparing.add_argument("--rounds", type=int, default=5)
    comparing.add_argument("--connections", type=int, default=64, help="at a time, for all")
    serving_ = commands.add_parser("serve", help="only the server")
    serving_.add_argument("images", type=int)
    fetching = commands.add_parser("fetch", help="only our downloader")
    fetching.add_argument("listed", type=Path)
    fetching.add_argument("out", type=Path)
    fetching.add_argument("connections", type=int)
    options = parser.parse_args()
    if options.command == "compare":
        compare(options.img2dataset, options.images, options.rounds, options.connections)
    elif options.command == "serve":
        serve(options.images)
    else:
        fetch_list(options.listed, options.out, options.connections)


if __name__ == "__main__":
    main()
