"""Load test of `phi-vision serve`: 64 concurrent clients for a minute; the gain of batching.

    python -m tests.load.serve_load MODEL --seconds 60 --clients 64
    python -m tests.load.serve_load MODEL --throughput

The server runs in its own process on one thread, the clients in this one. Its promises are checked
and printed as a table; the exit code is 1 if one is broken. `--out` writes all figures as JSON.
Clients are in `serve_clients.py`, their requests in `serve_requests.py`.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import psutil

from phi_vision.data.template import Template, find_template
from phi_vision.inference.local import resolve_template
from tests.load.serve_clients import ClientPool, Counts, live, open_session, send
from tests.load.serve_process import (
    Figures,
    Look,
    Server,
    leave,
    look,
    read_figures,
    serving,
    total,
    watch,
)
from tests.load.serve_requests import (
    MAX_BODY,
    Request,
    draw_images,
    good_requests,
    huge_request,
    refused_requests,
    response_text,
)
from tests.load.serve_throughput import Promise, measure_gain, print_gain

QUEUE = 16
"""Questions that may wait while 64 clients ask: few enough that some are rejected with 429."""

FLAT = 0.05
"""Most that memory may grow from the first to the last third of the load, as a share."""

WARM_UP = 45.0
"""Seconds of the same load beforehand: until then the allocator spreads images of all sizes over
its arenas, and resident memory rises towards a level at which it stays."""

IMAGES = 6

AT_ONCE_SECONDS = 1.0
"""Longest answer of a server that has nothing to do, to a question without a model."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What was seen of a server under load."""

    counts: Counts
    looks: list[Look]
    before: Figures
    """Server metrics before and after the load."""
    after: Figures
    rest: tuple[Look, Look]
    """The server at rest, before and after."""
    rest_seconds: float
    """How long it took afterwards to say that it is well."""
    alone_seconds: float
    """How long a question took, asked alone beforehand, and afterwards."""
    again_seconds: float
    exit_code: int | None
    exit_seconds: float


def run_load(
    model: str,
    template: Template,
    *,
    seconds: float,
    clients: int,
    warm_up: float = 0.0,
    options: Sequence[str] = (),
) -> Load:
    """Start a server, let the clients loose, and ask it to leave.

    Args:
        model: What `phi-vision serve` takes.
        template: Its prompt template.
        seconds: How long the clients keep on while memory is looked at.
        clients: How many there are.
        warm_up: Seconds that they are there before.
        options: More words of the server's command line.
    """
    limits = ["--max-body-bytes", str(MAX_BODY), "--queue", str(QUEUE)]
    with serving(model, [*limits, *options]) as server:
        seen = asyncio.run(_load(server, template, (warm_up, seconds), clients))
        code, took = leave(server)
        return Load(**seen, exit_code=code, exit_seconds=took)


async def _load(
    server: Server, template: Template, seconds: tuple[float, float], clients: int
) -> dict[str, Any]:
    images = draw_images(IMAGES)
    good = good_requests(images, template)
    process = psutil.Process(server.process.pid)
    async with open_session() as session:
        known, alone = await ask_alone(server, session, good)
        pool = ClientPool(
            server=server,
            session=session,
            good=good,
            known=known,
            refused=refused_requests(images[0]),
            huge=huge_request(),
        )
        looks: list[Look] = []
        before, rest = await read_figures(server, session), look(process)
        watching = asyncio.create_task(watch(server, looks))
        until = time.monotonic() + sum(seconds)
        await asyncio.gather(*(live(pool, random.Random(n), until) for n in range(clients)))
        watching.cancel()
        health = await _seconds_of(server, session, Request(name="", path="/health", method="GET"))
        after = await _figures_at_rest(server, session)
        again = await _seconds_of(server, session, good[0])
    await asyncio.sleep(1.0)  # until closed connections are forgotten
    return {
        "counts": pool.counts,
        "looks": [each for each in looks if each.second >= seconds[0]],
        "before": before,
        "after": after,
        "rest": (rest, look(process)),
        "rest_seconds": health,
        "alone_seconds": alone,
        "again_seconds": again,
    }


async def ask_alone(
    server: Server, session: aiohttp.ClientSession, good: Sequence[Request]
) -> tuple[dict[str, str], float]:
    """Send the requests one at a time: the response to each, and seconds of the first.

    Raises:
        RuntimeError: A good question is not answered.
    """
    known = {}
    for request in good:
        answer = await send(session, server, request)
        if answer.status != 200:
            raise RuntimeError(f"{request.name}, asked alone: {answer.status} {answer.body!r:.500}")
        known[request.name] = response_text(request, answer.body)
    return known, await _seconds_of(server, session, good[0])


async def _seconds_of(server: Server, session: aiohttp.ClientSession, request: Request) -> float:
    """Ask and take the time; endless where it is refused."""
    started = time.perf_counter()
    answer = await send(session, server, request)
    return time.perf_counter() - started if answer.status == 200 else float("inf")


async def _figures_at_rest(server: Server, session: aiohttp.ClientSession) -> Figures:
    """Read the figures when nothing is under way any more, or after a while all the same."""
    for _ in range(50):
        figures = await read_figures(server, session)
        if not still_busy(figures):
            break
        await asyncio.sleep(0.2)
    return figures


def still_busy(figures: Figures) -> float:
    """Count the questions that wait or are being answered."""
    waiting = total(figures, "phi_vision_requests_queued")
    return waiting + total(figures, "phi_vision_requests_running")


def promises_of(load: Load) -> list[Promise]:
    """Hold what was seen against what was promised."""
    counts, looks = load.counts, load.looks
    third = len(looks) // 3
    first, last = looks[:third], looks[-third:]
    memory = median(each.memory for each in last) / median(each.memory for each in first) - 1
    threads = [max(each.threads for each in part) for part in (first, last)]
    files = [each.files for each in load.rest]
    odd = count_mismatches(load)
    faults = f"{counts.fault_count} faults{''.join(f'; {fault}' for fault in counts.faults[:3])}"
    answers = f"{counts.right} right, {counts.wrong} wrong"
    overloads = f"{counts.overloads} times rejected with 429"
    return [
        Promise(name="no wrong answer", kept=not counts.wrong, found=answers),
        Promise(name="nothing but what it should be", kept=not counts.fault_count, found=faults),
        Promise(name="overload is rejected with 429", kept=counts.overloads > 0, found=overloads),
        Promise(name="memory is flat", kept=memory <= FLAT, found=f"{memory:+.2%}"),
        Promise(name="threads do not grow", kept=threads[1] <= threads[0], found=_arrow(threads)),
        Promise(name="files do not grow", kept=files[1] <= files[0] + 2, found=_arrow(files)),
        Promise(name="its own counts agree", kept=not odd, found="; ".join(odd) or "they do"),
        *_rest_promises(load),
    ]


def _rest_promises(load: Load) -> list[Promise]:
    busy = still_busy(load.after)
    health, code = load.rest_seconds, load.exit_code
    slower = load.again_seconds / load.alone_seconds
    leaving = f"exit code {code} after {load.exit_seconds:.1f} s"
    return [
        Promise(
            name="well at once afterwards", kept=health < AT_ONCE_SECONDS, found=f"{health:.3f} s"
        ),
        Promise(name="nothing waits afterwards", kept=not busy, found=f"{busy:.0f} questions"),
        Promise(name="as quick as before", kept=slower < 3, found=f"{slower:.2f} of the seconds"),
        Promise(name="leaves when asked to", kept=code == 0, found=leaving),
    ]


def count_mismatches(load: Load) -> list[str]:
    """Compare the server's counters with those of the clients.

    Requests of disconnected clients may or may not be counted by the server.
    """
    seen = Counter[str]()
    for (route, status), count in load.counts.answers.items():
        seen[_counted_as(route, status)] += count
    more = _counts(load.after)
    more.subtract(_counts(load.before))
    more.subtract(seen)
    odd = [
        f"{name}: {seen[name]} seen, {-count} of them not counted"
        for name, count in more.items()
        if count < 0
    ]
    extra, unseen = more.total(), load.counts.unseen.total()
    return odd + [f"{extra} counted that nobody saw, {unseen} disconnected"] * (extra > unseen)


def _counts(figures: Figures) -> Counter[str]:
    """Take the counts of requests out of the server's figures, but for those that ask for them."""
    counts = Counter[str]()
    for (name, labels), value in figures.items():
        held = dict(labels)
        if name == "phi_vision_requests_total" and held["route"] not in ("/metrics", "/health"):
            counts[_counted_as(held["route"], int(held["status"]))] += int(value)
    return counts


def _counted_as(route: str, status: int) -> str:
    """Input: ("/v1/records", 200), ("/v1/records", 413)    Output: "/v1/records 200", "413"

    What is refused may be refused before it is known where it would have gone.
    """
    return f"{route} 200" if status == 200 else str(status)


def mean_batch(before: Figures, after: Figures) -> float:
    """Questions that were answered together, on the mean of all batches in between."""
    name = "phi_vision_batch_size"
    counts, sums = (
        [total(each, f"{name}_{what}") for each in (before, after)] for what in ("count", "sum")
    )
    return (sums[1] - sums[0]) / (counts[1] - counts[0])


def print_load(load: Load, promises: Sequence[Promise]) -> None:
    """Print what was seen and what of it was promised."""
    print(f"{'':24}{'count':>8}{'median':>10}{'95 %':>10}{'longest':>10}")
    for name, seconds in sorted(load.counts.seconds.items()):
        most = quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
        times = "".join(f"{value:>8.3f} s" for value in (median(seconds), most, max(seconds)))
        print(f"{name:24}{len(seconds):>8}{times}")
    print(f"{'disconnected':24}{load.counts.unseen.total():>8}")
    print(f"{'questions in a batch':24}{mean_batch(load.before, load.after):>8.1f}\n")
    for promise in promises:
        print(f"{'kept  ' if promise.kept else 'BROKEN'}  {promise.name:32}{promise.found}")


def as_json(load: Load) -> dict[str, Any]:
    """Take what is worth keeping out of what was seen."""
    counts = load.counts
    return {
        "answers": {
            f"{route} {status}": n for (route, status), n in sorted(counts.answers.items())
        },
        "hung_up": dict(counts.unseen),
        "median_seconds": {name: median(values) for name, values in counts.seconds.items()},
        "longest_seconds": {name: max(values) for name, values in counts.seconds.items()},
        "questions_in_a_batch": mean_batch(load.before, load.after),
        "faults": counts.faults,
        "looks": [list(each) for each in load.looks],
        "alone_seconds": load.alone_seconds,
        "again_seconds": load.again_seconds,
    }


def _arrow(values: Sequence[float]) -> str:
    """Output: 14 -> 15"""
    return " -> ".join(str(value) for value in values)


def main() -> int:
    """Read the command line; the exit code tells whether all promises were kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="run, checkpoint or phi-vision-small")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, or of one round")
    parser.add_argument("--warm-up", type=float, default=WARM_UP, help="seconds of load before")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--throughput", action="store_true", help="what batching gains instead")
    parser.add_argument("--rounds", type=int, default=5, help="of throughput")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    figures: dict[str, Any]
    if options.throughput:
        gain = measure_gain(
            options.model,
            rounds=options.rounds,
            seconds=options.seconds,
            clients=options.clients,
        )
        promises, figures = [print_gain(gain)], {"gain": asdict(gain)}
    else:
        template = find_template(resolve_template(options.model, None))
        load = run_load(
            options.model,
            template,
            seconds=options.seconds,
            clients=options.clients,
            warm_up=options.warm_up,
        )
        promises = promises_of(load)
        print_load(load, promises)
        figures = as_json(load)
    if options.out:
        figures["promises"] = [asdict(promise) for promise in promises]
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(promise.kept for promise in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
