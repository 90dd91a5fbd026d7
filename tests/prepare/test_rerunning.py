"""Running again: nothing changes, nothing moves, and a kill leaves the old dataset or the new."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from catalogs import image, product, products, rows_of, run, splits_of, times, tree, write_shop

from phi_vision.prepare.pipeline import PrepareCallbacks, prepare
from phi_vision.prepare.prepare_config import PrepareConfig

# Prepares SOURCE into OUT in a child process that is killed at its n-th dealing with files, for
# several n, and tells what OUT was afterwards. An audit hook sees each dealing before it happens.
KILLED_RUNS = """
import os, shutil, signal, sys
from pathlib import Path
from phi_vision.prepare.pipeline import prepare
from phi_vision.prepare.prepare_config import PrepareConfig

source, out, old, moments = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
DEALINGS = ("open", "os.", "shutil.", "ctypes.dlsym")

def run(last):
    seen = 0
    def hook(event, details):
        nonlocal seen
        if event.startswith(DEALINGS):
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        prepare(source, PrepareConfig(out=out, workers=0))
        out.with_name("count").write_text(str(seen))
        os._exit(0)
    return os.waitpid(child, 0)[1]

def state(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

before = state(old)
assert run(0) == 0
after, count = state(out), int(out.with_name("count").read_text())
assert before != after
for moment in range(moments):
    shutil.rmtree(out)
    shutil.copytree(old, out)
    killed = run(count - moment * count // moments)
    found = state(out)
    print(killed, "old" if found == before else "new" if found == after else "broken")
"""

ONE_RUN = """
import sys
from pathlib import Path
from phi_vision.prepare.pipeline import prepare
from phi_vision.prepare.prepare_config import PrepareConfig

prepare(sys.argv[1], PrepareConfig(out=Path(sys.argv[2]), workers=0))
"""


def test_running_again_changes_nothing(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", [*products(20), product(3), product(40, price="N/A")])
    assert run(shop, tmp_path / "out").changed
    before, stamps = tree(tmp_path / "out"), times(tmp_path / "out")
    outcome = run(shop, tmp_path / "out")
    assert not outcome.changed
    assert outcome.metadata == json.loads(before["prepared.json"])
    assert tree(tmp_path / "out") == before
    assert times(tmp_path / "out") == stamps
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "shop"]


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """Also where a set of texts, such as the changes of a row, has another order."""
    rows = [
        product(n, title=f" A&amp;B  {n} ", sale_price="1,50", old_price="2.50") for n in range(4)
    ]
    shop = write_shop(tmp_path / "shop", rows)
    for seed in ("1", "2"):
        words = [sys.executable, "-c", ONE_RUN, shop, str(tmp_path / seed / "out")]
        subprocess.run(words, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_rows_at_the_end_move_nothing_even_without_the_earlier_run(tmp_path: Path) -> None:
    run(write_shop(tmp_path / "shop", products(40)), tmp_path / "few")
    run(write_shop(tmp_path / "shop", products(60)), tmp_path / "many")
    few, many = splits_of(tmp_path / "few"), splits_of(tmp_path / "many")
    assert len(many) == 60
    assert {name: many[name] for name in few} == few


@pytest.mark.parametrize("columns", [("sku",), ()])
def test_rows_in_the_middle_move_nothing_beside_the_earlier_run(
    tmp_path: Path, columns: tuple[str, ...]
) -> None:
    def rows(numbers: list[int]) -> list[dict[str, str]]:
        dropped = {"sku"} - set(columns)
        return [{k: v for k, v in product(n).items() if k not in dropped} for n in numbers]

    run(write_shop(tmp_path / "shop", rows(list(range(0, 60, 2)))), tmp_path / "out")
    before = {row["title"]: row["split"] for row in rows_of(tmp_path / "out").values()}
    outcome = run(write_shop(tmp_path / "shop", rows(list(range(60)))), tmp_path / "out")
    after = {row["title"]: row["split"] for row in rows_of(tmp_path / "out").values()}
    assert outcome.changed
    assert len(after) == 60
    assert {title: after[title] for title in before} == before
    anew = run(write_shop(tmp_path / "shop", rows(list(range(60)))), tmp_path / "new").folder
    assert after != {row["title"]: row["split"] for row in rows_of(anew).values()}


def test_a_corrected_text_does_not_move_a_row_that_has_no_id(tmp_path: Path) -> None:
    rows = [{k: v for k, v in product(n).items() if k != "sku"} for n in range(40)]
    run(write_shop(tmp_path / "shop", rows), tmp_path / "out")
    before = splits_of(tmp_path / "out")
    for row in rows:
        row["title"] += " corrected"
    run(write_shop(tmp_path / "shop", rows[::-1]), tmp_path / "out")
    assert splits_of(tmp_path / "out") == before


def test_resplit_forgets_where_things_were(tmp_path: Path) -> None:
    rows = [product(n, split="test" if n < 30 else "train") for n in range(40)]
    shop = write_shop(tmp_path / "shop", rows)
    run(shop, tmp_path / "out")
    assert splits_of(tmp_path / "out") == {row["sku"]: row["split"] for row in rows}
    assert run(shop, tmp_path / "out", resplit=True).changed
    anew = splits_of(tmp_path / "out")
    assert 28 <= list(anew.values()).count("train") <= 36
    assert not run(shop, tmp_path / "out", resplit=True).changed


def test_a_source_of_training_data_alone_is_split_all_the_same(tmp_path: Path) -> None:
    rows = [product(n, split="train") for n in range(40)]
    run(write_shop(tmp_path / "shop", rows), tmp_path / "out")
    assert set(splits_of(tmp_path / "out").values()) == {"train", "validation", "test"}


def test_a_split_that_lost_its_share_is_reported(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", products(40))
    run(shop, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(ValueError, match="the split 'test', which has no fraction"):
        run(shop, tmp_path / "out", test=0.0)
    assert tree(tmp_path / "out") == before
    assert run(shop, tmp_path / "out", test=0.0, resplit=True).changed


def test_an_error_in_the_middle_leaves_the_old_dataset(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", products(5))
    run(shop, tmp_path / "out")
    before, stamps = tree(tmp_path / "out"), times(tmp_path / "out")

    def fail(samples: int, rejected: int) -> None:
        raise KeyboardInterrupt

    callbacks = PrepareCallbacks(on_cleaned=fail)
    shop = write_shop(tmp_path / "shop", products(70))
    with pytest.raises(KeyboardInterrupt):
        prepare(shop, PrepareConfig(out=tmp_path / "out", workers=0), callbacks)
    assert tree(tmp_path / "out") == before
    assert times(tmp_path / "out") == stamps
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "shop"]


def test_a_kill_at_any_moment_leaves_the_old_dataset_or_the_new(tmp_path: Path) -> None:
    old, out = tmp_path / "old", tmp_path / "out"
    run(write_shop(tmp_path / "shop", products(5)), out)
    shutil.copytree(out, old)
    shop = write_shop(tmp_path / "shop", products(8))
    words = [sys.executable, "-c", KILLED_RUNS, shop, str(out), str(old), "8"]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    states = told[1::2]
    assert told[::2] == ["9"] * 8  # each was killed indeed
    assert set(states) == {"old", "new"}
    (tmp_path / "count").unlink()
    # The next run works, and leaves nothing of the killed ones behind.
    run(shop, out)
    assert len(rows_of(out)) == 8
    assert sorted(file.name for file in tmp_path.iterdir()) == ["old", "out", "shop"]


def test_a_dataset_that_lost_a_file_is_made_whole(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", products(5))
    run(shop, tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "card.html").unlink()
    (tmp_path / "shop" / "images" / "unused.png").write_bytes(image(99))
    assert run(shop, tmp_path / "out").changed
    assert tree(tmp_path / "out") == before
