"""Every kind of source becomes a dataset: links, lines, folders, conversations, tar shards."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogs import (
    image,
    product,
    products,
    rejected_of,
    rows_of,
    run,
    splits_of,
    tree,
    write_shop,
)

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import find_template
from phi_vision.prepare import schema

# Prepares links and kills itself as soon as some images are there.
KILLED_WHILE_FETCHING = """
import os, signal, sys
from pathlib import Path
from phi_vision.prepare.pipeline import PrepareCallbacks, prepare
from phi_vision.prepare.prepare_config import PrepareConfig

fetched = []
def count(one):
    fetched.append(one)
    if len(fetched) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

how = PrepareConfig(out=Path(sys.argv[2]), workers=0, allow_private_addresses=True, per_host=1)
prepare(sys.argv[1], how, PrepareCallbacks(on_fetched=count))
"""


class Shop(ThreadingHTTPServer):
    """Serves /<number> as an image, and counts what it gave in full."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.given: Counter[str] = Counter()

    def url(self, path: object) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shop

    def do_GET(self) -> None:
        name = self.path[1:]
        body = image(int(name)) if name.isdigit() else b"<html>Not here</html>"
        self.send_response(200 if name.isdigit() else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.given[name] += 1

    def log_message(self, format: str, *details: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_urls_are_fetched_once_and_failures_are_reported(tmp_path: Path, shop: Shop) -> None:
    rows = [product(n, photo=shop.url(n)) for n in range(6)]
    rows += [product(6, photo=shop.url("gone")), product(7, photo=shop.url(0))]
    table = write_shop(tmp_path / "shop", rows)
    run(table, tmp_path / "out", allow_private_addresses=True)
    assert len(rows_of(tmp_path / "out")) == 7
    lost = rejected_of(tmp_path / "out")[6]
    assert (lost["reason"], lost["detail"]) == ("not fetched, HTTP 404", shop.url("gone"))
    assert {name: shop.given[name] for name in map(str, range(6))} == dict.fromkeys("012345", 1)
    outcome = run(table, tmp_path / "out", allow_private_addresses=True)
    assert not outcome.changed
    assert {name: shop.given[name] for name in map(str, range(6))} == dict.fromkeys("012345", 1)


def test_private_addresses_are_not_reached_unless_reported_so(tmp_path: Path, shop: Shop) -> None:
    rows = [product(0), product(1, photo=shop.url(1))]
    outcome = run(write_shop(tmp_path / "shop", rows), tmp_path / "out")
    assert outcome.metadata["rejected"] == {
        "not fetched, private address (--allow-private-addresses permits it)": 1
    }
    assert not shop.given


def test_a_killed_run_is_resumed_without_fetching_twice(tmp_path: Path, shop: Shop) -> None:
    table = write_shop(tmp_path / "shop", [product(n, photo=shop.url(n)) for n in range(12)])
    words = [sys.executable, "-c", KILLED_WHILE_FETCHING, table, str(tmp_path / "out")]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    complete = Counter(dict.fromkeys(_numbers_in(tmp_path / "out-downloads"), 1))
    assert 5 <= len(complete) < 12
    first = shop.given.copy()
    run(table, tmp_path / "out", allow_private_addresses=True)
    assert len(rows_of(tmp_path / "out")) == 12
    assert not (shop.given - first).keys() & complete.keys()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "out-downloads", "shop"]


def _numbers_in(cache: Path) -> list[str]:
    """Which images lie in a cache, by their content."""
    numbers = {image(n): str(n) for n in range(12)}
    found = [numbers.get(file.read_bytes()) for file in cache.rglob("*") if file.is_file()]
    return [number for number in found if number is not None]


def test_links_far_down_are_fetched_too(
    tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "FIRST_ROWS", 3)
    rows = [*products(4), product(4, photo=shop.url(4)), product(5, photo=shop.url("gone"))]
    table = write_shop(tmp_path / "shop", rows)
    run(table, tmp_path / "out", allow_private_addresses=True)
    assert rows_of(tmp_path / "out").keys() == {f"S{n}" for n in range(5)}
    assert rejected_of(tmp_path / "out")[5]["reason"] == "not fetched, HTTP 404"


def test_json_lines_with_data_uris_and_base64(tmp_path: Path) -> None:
    encoded = base64.b64encode(image(1)).decode()
    rows = [
        {"img": f"data:image/png;base64,{encoded}", "name": "A", "type": "T", "price": "$5"},
        {"img": base64.b64encode(image(2)).decode(), "name": "B", "type": "T", "price": 6},
        {"img": "data:image/png;base64,####", "name": "C", "type": "T", "price": 7},
    ]
    lines = [*map(json.dumps, rows), '{"img": "broken', ""]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    outcome = run(tmp_path / "rows.jsonl", tmp_path / "out")
    samples = {row["title"]: row for row in rows_of(tmp_path / "out").values()}
    assert samples["A"]["image"]["bytes"] == image(1)
    assert samples["B"]["image"]["bytes"] == image(2)
    assert samples["A"]["full_price"] == 5.0
    assert outcome.metadata["rows"] == 4
    assert rejected_of(tmp_path / "out")[2]["reason"] == "broken base64"
    raw = json.loads(rejected_of(tmp_path / "out")[3]["values"])
    assert raw == {"raw": '{"img": "broken\n'}


def test_a_parquet_folder_keeps_its_splits(tmp_path: Path) -> None:
    (tmp_path / "photos" / "data").mkdir(parents=True)
    for split, numbers in {"train": range(8), "val": range(8, 10), "test": range(10, 14)}.items():
        table = pa.table(
            {
                "image": [{"bytes": image(n), "path": f"{n}.png"} for n in numbers],
                "id": [f"P{n}" for n in numbers],
                "title": [f"Product {n}" for n in numbers],
                "category": ["T"] * len(numbers),
                "price": [n + 0.5 for n in numbers],
            }
        )
        pq.write_table(table, tmp_path / "photos" / "data" / f"{split}-00000-of-00001.parquet")
    outcome = run(tmp_path / "photos", tmp_path / "out")
    kept = splits_of(tmp_path / "out")
    assert kept == {
        f"P{n}": "train" if n < 8 else "validation" if n < 10 else "test" for n in range(14)
    }
    assert outcome.metadata["splits"] == {"train": [8, 8], "validation": [2, 2], "test": [4, 4]}
    # The prepared folder is a source as any other, and ends as what it was.
    run(tmp_path / "out", tmp_path / "again")
    assert splits_of(tmp_path / "again") == kept
    # What it called a group before may not be lost either.
    again = rows_of(tmp_path / "again")["P3"]
    assert again == rows_of(tmp_path / "out")["P3"] | {"group_id_given": "P3"}


def test_a_leak_of_the_source_stays_and_is_reported_unless_grouping_is_strict(
    tmp_path: Path,
) -> None:
    rows = [product(n, split="train" if n % 2 else "test") for n in range(8)]
    rows[1]["photo"] = rows[0]["photo"]
    shop = write_shop(tmp_path / "shop", rows)
    outcome = run(shop, tmp_path / "out")
    assert splits_of(tmp_path / "out")["S1"] == "train"
    assert splits_of(tmp_path / "out")["S0"] == "test"
    assert outcome.metadata["warnings"]["leakage of 4 in test"].startswith(
        "1 share an image, title or group with train, as the source splits them; --grouping strict"
    )
    assert "--resplit" in outcome.metadata["warnings"]["validation"]
    outcome = run(shop, tmp_path / "strict", grouping="strict")
    assert splits_of(tmp_path / "strict")["S1"] == splits_of(tmp_path / "strict")["S0"] == "test"
    assert outcome.metadata["groups"]["rows moved with their group"] == 1


def test_a_folder_of_images_becomes_categories_with_a_template_of_their_own(
    tmp_path: Path,
) -> None:
    for category in ("red coats", "tees"):
        (tmp_path / "photos" / category).mkdir(parents=True)
        for n in range(5):
            name = tmp_path / "photos" / category / f"{n}.png"
            name.write_bytes(image(n + 100 * len(category)))
    (tmp_path / "photos" / "tees" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 half")
    outcome = run(tmp_path / "photos", tmp_path / "out")
    template = find_template(str(tmp_path / "out"))
    assert template.answer == "Category: {category3_code:category}"
    samples = load_samples(tmp_path / "out")
    assert Counter(sample.record["category3_code"] for sample in samples) == {
        "red coats": 5,
        "tees": 5,
    }
    assert len({sample.id for sample in samples}) == 10
    assert outcome.metadata["rejected"] == {"truncated image": 1}
    # An image that comes between the others moves none of them.
    before = splits_of(tmp_path / "out")
    (tmp_path / "photos" / "red coats" / "00.png").write_bytes(image(7))
    run(tmp_path / "photos", tmp_path / "out")
    after = splits_of(tmp_path / "out")
    assert len(after) == 11
    assert {name: after[name] for name in before} == before


def test_conversations_with_several_images_and_with_none(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(image(n))

    def turns(*words: str) -> list[dict[str, str]]:
        speakers = ("human", "gpt") * len(words)
        return [{"from": who, "value": said} for who, said in zip(speakers, words, strict=False)]

    rows: list[dict[str, object]] = [
        {"id": "one", "image": "0.png", "conversations": turns("<image>\nWhat?", "A <|end|> coat")},
        {
            "id": "two",
            "image": ["1.png", "2.png"],
            "conversations": turns("<image>\n<image>\nDiffer?", "Yes.", "How?", "By colour."),
        },
        {"id": "none", "conversations": turns("Hello?", "Hi.")},
        {"id": "marks", "image": "0.png", "conversations": turns("<image> <image>", "What?")},
        {"id": "half", "image": "0.png", "conversations": turns("<image>\nWhat?")},
        {"id": "gone", "image": "9.png", "conversations": turns("<image>\nWhat?", "A coat")},
    ]
    (tmp_path / "chat.json").write_text(json.dumps(rows))
    outcome = run(tmp_path / "chat.json", tmp_path / "out")
    samples = {sample.id: sample for sample in load_samples(tmp_path / "out")}
    assert samples.keys() == {"one", "two", "none"}
    assert [message.role for message in samples["two"].messages] == ["user", "assistant"] * 2
    assert samples["one"].messages[1].content == "A < |end|> coat"
    assert samples["one"].messages[0].content == "<image>\nWhat?"
    assert [len(samples[name].images) for name in ("one", "two", "none")] == [1, 2, 0]
    assert samples["two"].images == (image(1), image(2))
    assert outcome.metadata["rejected"] == {
        "image marks do not match images": 1,
        "the conversation does not end with an assistant message": 1,
        "no such file": 1,
    }
    assert not (tmp_path / "out" / "template.yaml").exists()
    opened = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    by_id = {row["id"]: row for part in opened.values() for row in part}
    assert [shown.size for shown in by_id["two"]["images"]] == [(32, 32), (32, 32)]
    assert by_id["none"]["images"] == []
    assert by_id["none"]["messages"][1] == {"role": "assistant", "content": "Hi."}


def test_tar_shards(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
            for n in range(shard * 3, shard * 3 + 3):
                record = {"title": f"Product {n}", "price": f"{n},50", "category": "T"}
                for name, body in {
                    f"{n:06d}.png": image(n),
                    f"{n:06d}.json": json.dumps(record).encode(),
                }.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
    run(f"{tmp_path}/shard-{{0..1}}.tar", tmp_path / "out")
    samples = {row["title"]: row for row in rows_of(tmp_path / "out").values()}
    assert len(samples) == 6
    assert samples["Product 4"]["full_price"] == 4.5
    assert samples["Product 4"]["image"]["bytes"] == image(4)


def test_file_names_that_are_not_utf_8_are_handled(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "photos" / "tees")
    os.makedirs(folder)  # noqa: PTH103  # A Path holds no such name.
    for number, name in enumerate((b"caf\xe9.png", b"plain.png")):
        with open(os.path.join(folder, name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(image(number))
    with open(os.path.join(folder, b"bad\xe9.png"), "wb") as file:  # noqa: PTH118, PTH123
        file.write(b"no image")
    run(tmp_path / "photos", tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 2
    (lost,) = rejected_of(tmp_path / "out").values()
    assert "bad\\xe9.png" in lost["origin"]


def test_the_splits_of_one_source_are_the_same_wherever_it_lies(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write_shop(tmp_path / place / "shop", products(12))
        run(tmp_path / place / "shop" / "products.csv", tmp_path / place / "out")
    here, there = tree(tmp_path / "here" / "out"), tree(tmp_path / "there" / "out")
    told = ("prepared.json", "README.md", "card.html")  # name the source as it was given
    assert {name for name in here if here[name] != there[name]} <= set(told)
