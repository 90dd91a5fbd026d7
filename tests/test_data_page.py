"""docs/data.md: its commands run as written, and its numbers and names are those of the code."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pages import FENCE, numbers_beside, type_commands

from phi_vision.cli.main import command_parser
from phi_vision.data import dataset, parquet_rows, row_groups, streaming
from phi_vision.data.template import PRODUCT
from phi_vision.generation.number_draws import DRAWS
from phi_vision.prepare import cleaning, dedup, prices, schema, splits
from phi_vision.prepare.columns import choose_columns
from phi_vision.prepare.fetch import Limits
from phi_vision.prepare.image_references import MAX_FILE_BYTES
from phi_vision.prepare.images import ImageRules
from phi_vision.prepare.prepare_config import PrepareConfig
from phi_vision.prepare.sources.json_files import MAX_ELEMENT
from phi_vision.prepare.sources.registry import SOURCES
from phi_vision.prepare.sources.rows import Row
from phi_vision.synthetic.column_models import MIN_GROUPS
from phi_vision.synthetic.profile import MIN_DATASET_GROUPS

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
SOURCE = re.compile(r"^\| .* \| `(\w+)` \| `phi-vision (prepare .*)` \|$", re.MULTILINE)
PRICE = re.compile(r"\| `([\w ()]+)` \| ([^|]+?) (?=\|)")
PORT = "8000"

PLAN, TAKEN, LIMITS = PrepareConfig(out=Path()), ImageRules(), Limits()
FACTS = [
    f"first {schema.FIRST_ROWS:,} rows",
    "at least 80 % distinct",
    f"read whole, up to {MAX_ELEMENT // 2**20} MB",
    f"its file may have {MAX_FILE_BYTES // 10**6} MB",
    f"{LIMITS.total} at a time and {PLAN.per_host} from one host",
    f"take {LIMITS.timeout:g} seconds, {LIMITS.max_bytes // 10**6} MB and",
    f"{LIMITS.max_redirects} redirects",
    f"{PLAN.retries} further attempts",
    f"more than {TAKEN.max_pixels // 10**6} million pixels",
    f"longer than {TAKEN.max_aspect:g} times its width",
    f"a side under {TAKEN.min_side} pixels",
    f"a side over {PLAN.longest_side} pixels",
    f"JPEG of quality {TAKEN.quality}",
    "CMYK, 16 bits",
    f"more than {cleaning.MAX_TEXT:,} characters",
    "at least 90 % of those",
    f"perceptual hashes of 64 bits within a Hamming distance of {PLAN.tolerance}",
    f"more than {dedup.MAX_JOINED} groups",
    f"`--validation` {PLAN.validation}, `--test` {PLAN.test}",
    f"that of {splits.RANDOM_SPLITS} random splits",
    f"at most {dedup.MAX_VARIANT_DISTANCE} of 64 bits apart",
    f"every {PLAN.shard_size} MB",
    f"needs {MIN_DATASET_GROUPS} groups",
    f"fewer than {MIN_GROUPS} groups",
    "letter pairs of 50 languages",
    f"up to {parquet_rows.HELD_BYTES // 2**20} MB of them",
    f"the median of {DRAWS} draws",
    f"headers of {dataset.MAX_CHECKED:,} images",
    f"row groups over {row_groups.MAX_GROUP_BYTES // 2**20} MB",
    f"a buffer of {streaming.BUFFER}",
    f"first {streaming.HEAD:,} samples",
    *("UTF-8", "UTF-16", "UTF-32", "base64", "SHA-256"),
]
"""Every number of the page's prose, in the words around it."""


def prose() -> str:
    """The page without what stands in fences, and its lines joined where a sentence goes on."""
    return FENCE.sub("", PAGE).replace("\n", " ")


@pytest.mark.parametrize("fact", FACTS)
def test_a_number_is_that_of_the_code(fact: str) -> None:
    assert fact in prose()


def test_no_number_goes_unchecked() -> None:
    assert numbers_beside(PRICE.sub("|", prose()), FACTS) == []


def test_every_option_exists_and_every_option_of_prepare_is_explained() -> None:
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--directory"}  # of Python's server
    offered = {
        name: {o for action in command_parser(name)._actions for o in action.option_strings}
        for name in ("prepare", "sample", "train")
    }
    assert named <= set().union(*offered.values())
    long = {o for o in offered["prepare"] if o.startswith("--") and not o.startswith("--no-")}
    assert long - {"--help"} <= named


def test_every_kind_of_source_is_there() -> None:
    assert [kind for kind, _ in SOURCE.findall(PAGE)] == [kind for kind in SOURCES if kind != "hub"]


def test_prices_are_read_as_documented() -> None:
    shown = PRICE.findall(PAGE[PAGE.index("## Prices") : PAGE.index("## Duplicates")])
    assert {form: prices.parse_price(price).form for form, price in shown} == {
        form: form for form, _ in shown
    }
    assert {form for form, _ in shown} == set(prices.FORMS) - {"number", "ambiguous"}
    assert prices.parse_price("1.234").form == "ambiguous"


def test_the_shares_are_those_of_the_code() -> None:
    assert prices.guess_decimal(["1,50"] * 9 + ["1.50"]) == ","
    assert prices.guess_decimal(["1,50"] * 8 + ["1.50"]) is None
    for distinct, found in ((8, "sku"), (7, None)):
        rows = [
            Row(number=n, origin="", values={"sku": min(n, distinct - 1), "image": b"x"})
            for n in range(10)
        ]
        assert choose_columns(rows, None, {}, None).id == found


def test_the_usual_wording_is_named() -> None:
    assert PRODUCT.fields == ("title", "category3_code", "full_price")
    assert "The default template asks for title, category and full price" in PAGE


def test_the_page_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but what needs the hub or a cluster, which stands in fences marked `sh`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    page = PAGE.replace(PORT, str(free_port()))
    pieces = [(m.start(), m[1], m[2]) for m in FENCE.finditer(page) if m[1] != "sh"]
    pieces += [(m.start(), "bash", f"phi-vision {m[2]}\n") for m in SOURCE.finditer(page)]
    for _, language, script in sorted(pieces):
        run(language, script)
    for kind, command in SOURCE.findall(page):
        out = Path(shlex.split(command)[-1])
        facts = json.loads((out / "prepared.json").read_text(encoding="utf-8"))
        assert facts["source"]["kind"] == kind
        assert facts["samples"] > 0
    for name in re.findall(r"`(runs/[\w./-]+)`", page):
        assert Path(name).exists(), name


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run(language: str, script: str) -> None:
    """Run a piece of the page; our own commands in this process, which has imported them."""
    if language == "bash" and all(line.startswith("phi-vision ") for line in script.splitlines()):
        type_commands(script)
        return
    command = {"bash": ["bash", "-ec"], "python": [sys.executable, "-c"]}[language]
    done = subprocess.run([*command, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script}\n{done.stderr}"
