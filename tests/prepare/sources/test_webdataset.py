"""WebDataset shards: whole, incomplete, and cut off."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from phi_vision.prepare.sources import text_files
from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row, UnreadableRow

IMAGE = b"\xff\xd8\xff" + bytes(range(256)) * 8


def write_shard(file: Path, members: dict[str, bytes | str], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as shard:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            encoded = content.encode() if isinstance(content, str) else content
            member.size = len(encoded)
            shard.addfile(member, io.BytesIO(encoded))
    return file


def sample(key: str) -> dict[str, bytes | str]:
    title = json.dumps({"title": f"Coat {key}"})
    return {f"{key}.jpg": IMAGE, f"{key}.json": title, f"{key}.txt": f"a coat {key}\n"}


def test_members_of_one_name_are_one_row(tmp_path: Path) -> None:
    members = sample("a/001") | {"a/001.cls": "3"} | sample("b/001")
    source = open_source(str(write_shard(tmp_path / "s.tar", members)))
    assert source.kind == "webdataset"
    assert next(source.rows()) == Row(
        number=0,
        origin="s.tar: a/001",
        values={
            "key": "a/001",
            "title": "Coat a/001",
            "caption": "a coat a/001",
            "category": "3",
            "image": IMAGE,
        },
    )
    assert len(list(source.rows())) == 2


def test_missing_members_leave_a_row_without_them(tmp_path: Path) -> None:
    lone: dict[str, bytes | str] = {"2.json": '{"title": "Hat"}', "3.png": IMAGE}
    members = sample("1") | lone | sample("4")
    rows = list(open_source(str(write_shard(tmp_path / "s.tar", members))).rows())
    assert [sorted(row.values) for row in rows if isinstance(row, Row)] == [
        ["caption", "image", "key", "title"],
        ["key", "title"],
        ["image", "key"],
        ["caption", "image", "key", "title"],
    ]


def test_several_images_of_one_name_are_a_list(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {"1.front.jpg": IMAGE, "1.back.png": b"back"}
    members["1.json"] = '{"images": ["f", "b"]}'
    (row,) = open_source(str(write_shard(tmp_path / "s.tar", members))).rows()
    assert isinstance(row, Row)
    assert row.values == {
        "key": "1",
        "images": [IMAGE, b"back"],
        "images_in_json": ["f", "b"],
    }


def test_broken_json_breaks_its_row_only(tmp_path: Path) -> None:
    members = sample("1") | {"2.jpg": IMAGE, "2.json": '{"title": '} | sample("3")
    rows = list(open_source(str(write_shard(tmp_path / "s.tar", members))).rows())
    assert rows[1] == UnreadableRow(
        number=1, origin="s.tar: 2", reason="broken JSON", raw='{"title": '
    )
    assert [type(row) for row in rows] == [Row, UnreadableRow, Row]


def test_several_shards_are_counted_through_and_have_splits(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-000.tar", sample("1"))
    write_shard(tmp_path / "train-001.tar.gz", sample("2"), "w:gz")
    write_shard(tmp_path / "val" / "s.tar", sample("3"))
    rows = [row for row in open_source(str(tmp_path)).rows() if isinstance(row, Row)]
    assert [(row.number, row.origin, row.split) for row in rows] == [
        (0, "train-000.tar: 1", "train"),
        (1, "train-001.tar.gz: 2", "train"),
        (2, "val/s.tar: 3", "validation"),
    ]


@pytest.mark.parametrize("pattern", ["s-{08..10}.tar", "s-{08,09,10}.tar", "s-*.tar"])
def test_patterns_name_shards(tmp_path: Path, pattern: str) -> None:
    for name in ("08", "09", "10"):
        write_shard(tmp_path / f"s-{name}.tar", sample(name))
    rows = list(open_source(str(tmp_path / pattern)).rows())
    assert [row.origin for row in rows] == ["s-08.tar: 08", "s-09.tar: 09", "s-10.tar: 10"]


def test_missing_shards_of_a_range_are_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "s-0.tar", sample("0"))
    with pytest.raises(ValueError, match=r"2 of the 3 shards of .* are missing: .*s-1.tar"):
        open_source(str(tmp_path / "s-{0..2}.tar"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_shard_keeps_its_whole_rows_and_the_next_shard(tmp_path: Path, mode: str) -> None:
    members = {name: content for n in range(30) for name, content in sample(f"{n:03}").items()}
    cut = write_shard(tmp_path / "s-0.tar", members, mode)
    # In the middle of the content of an image; packed, near the end.
    whole = cut.read_bytes()
    cut.write_bytes(whole[: 10 * (512 + 2560 + 4 * 512) + 1000] if mode == "w" else whole[:-200])
    write_shard(tmp_path / "s-1.tar", sample("x"))
    rows = list(open_source(str(tmp_path)).rows())
    broken = [row for row in rows if isinstance(row, UnreadableRow)]
    assert [row.reason for row in broken] == ["the tar is cut off or damaged"]
    assert broken[0].origin.startswith("s-0.tar: 0")
    assert len(rows) > 10
    assert rows[-1].origin == "s-1.tar: x"
    for row in rows:  # half a row does not look like a whole one
        assert isinstance(row, UnreadableRow) or {"image", "title", "caption"} <= set(row.values)


def test_a_shard_cut_between_two_members_is_reported(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", sample("1") | sample("2"))
    shard.write_bytes(shard.read_bytes()[: 512 + 2560])
    rows = list(open_source(str(shard)).rows())
    assert [type(row) for row in rows] == [Row, UnreadableRow]
    assert isinstance(rows[1], UnreadableRow)
    assert rows[1].reason == "the tar has no end mark, so members may be missing"


def test_a_compressed_shard_that_unpacks_without_limit_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_UNPACKED", 2**20)
    shard = write_shard(tmp_path / "s.tar.gz", sample("1") | {"2.json": b" " * 2**23}, "w:gz")
    with pytest.raises(ValueError, match="unpacks to more than"):
        list(open_source(str(shard)).rows())
