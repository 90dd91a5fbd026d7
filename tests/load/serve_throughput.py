"""What answering together gains a server: answers a second beside those of one that does not.

`python -m tests.load.serve_load MODEL --throughput` runs it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import psutil

from tests.load.serve_clients import open_session, send
from tests.load.serve_process import Server, serving
from tests.load.serve_requests import RECORDS, Request, draw_images

GAIN = 2.5
"""Least answers of a server that batches, in those of one that does not."""


IMAGES = 16


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What was promised, and what was found."""

    name: str
    kept: bool
    found: str


class Rate(NamedTuple):
    """How many answers a server gave."""

    a_second: float
    a_cpu_second: float
    """Of what the processor did for it: a busy machine disturbs that less."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What two servers gave in turn, one that answers together and one that does not."""

    together: list[Rate]
    alone: list[Rate]

    @property
    def ratios(self) -> list[Rate]:
        """How many times as many, pair by pair."""
        pairs = zip(self.together, self.alone, strict=True)
        return [Rate(a[0] / b[0], a[1] / b[1]) for a, b in pairs]


def measure_gain(
    model: str, *, rounds: int, seconds: float, clients: int, batch_size: int = 16
) -> Gain:
    """Ask two servers in turn about images, as fast as they answer."""
    raw = {"Content-Type": "image/jpeg"}
    asked = [
        Request(name=f"#{number}", path=RECORDS, body=image, headers=raw)
        for number, image in enumerate(draw_images(IMAGES))
    ]
    queue = ["--queue", str(2 * clients)]
    with (
        serving(model, ["--batch-size", str(batch_size), *queue]) as together,
        serving(model, ["--batch-size", "1", *queue]) as alone,
    ):
        rates: dict[str, list[Rate]] = {together.address: [], alone.address: []}
        for number in range(-1, rounds):  # the first round warms up
            # There and back, so that whatever drifts on the machine meets both alike.
            for server in (together, alone) if number % 2 else (alone, together):
                rate = asyncio.run(_rate(server, asked, seconds, clients))
                rates[server.address] += [rate] if number >= 0 else []
        return Gain(together=rates[together.address], alone=rates[alone.address])


async def _rate(server: Server, asked: Sequence[Request], seconds: float, clients: int) -> Rate:
    """Let clients ask one question after another for a while, and wait for the last answers."""
    ended: list[float] = []

    async def ask(number: int) -> None:
        while time.perf_counter() < until:
            answer = await send(session, server, asked[number % len(asked)])
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.body!r:.500}")
            ended.append(time.perf_counter())
            number += clients + 1

    async with open_session() as session:
        worked, started = _cpu_seconds(server), time.perf_counter()
        until = started + seconds
        await asyncio.gather(*map(ask, range(clients)))
        worked = _cpu_seconds(server) - worked
    return Rate(len(ended) / (ended[-1] - started), len(ended) / worked)


def _cpu_seconds(server: Server) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    spent: float = times.user + times.system
    return spent


def print_gain(gain: Gain) -> Promise:
    """Print the answers of both, and say whether the gain is the promised one."""
    for place, unit in enumerate(("a second", "a CPU second")):
        for name, rates in (("together", gain.together), ("one at a time", gain.alone)):
            print(f"{name:16}{_spread([rate[place] for rate in rates])} answers {unit}")
        print(f"{'gain':16}{_spread([ratio[place] for ratio in gain.ratios])}\n")
    found = _spread([ratio.a_second for ratio in gain.ratios])
    kept = median(ratio.a_second for ratio in gain.ratios) >= GAIN
    return Promise(name="batching gains", kept=kept, found=found)


def _spread(values: Sequence[float]) -> str:
    """Output: 3.12 (2.98 to 3.40)"""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
