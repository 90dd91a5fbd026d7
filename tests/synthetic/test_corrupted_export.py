"""An export with the corruptions of real shops, and the list of them."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from phi_vision.synthetic.corrupted_export import (
    CORRUPTIONS,
    Encoding,
    PlantedCorruption,
    read_corruptions,
    write_export,
)

Cells = list[list[str]]


def read_table(export: Path, encoding: str) -> Cells:
    text = (export / "products.csv").read_bytes().decode(encoding, errors="replace")
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=";"))[1:]


@pytest.fixture(scope="module")
def corrupted(
    shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[PlantedCorruption]]:
    """An export in which every second row is corrupted."""
    out = tmp_path_factory.mktemp("exports") / "export"
    write_export(shop, out, rate=0.5, seed=2, encoding="cp1252")
    return out, read_corruptions(out)


def open_image(export: Path, planted: PlantedCorruption) -> Image.Image:
    return Image.open(export / planted.after)


def test_every_kind_of_corruption_is_about_as_frequent(
    corrupted: tuple[Path, list[PlantedCorruption]],
) -> None:
    kinds = [planted.fault for planted in corrupted[1]]
    assert set(kinds) == set(CORRUPTIONS)
    assert {kinds.count(kind) for kind in CORRUPTIONS} <= {1, 2, 3, 4}
    assert 45 <= len(kinds) <= 75


def test_the_list_locates_each_corruption(corrupted: tuple[Path, list[PlantedCorruption]]) -> None:
    out, corruptions = corrupted
    table = read_table(out, "cp1252")
    header = (out / "products.csv").read_bytes().split(b"\r\n")[0].decode().split(";")
    for planted in corruptions:
        if planted.fault != "line in another encoding":
            assert table[planted.row][header.index(planted.column)] == planted.after
        if planted.partner is not None:
            assert planted.partner == planted.row - 1
    ragged = [planted.row for planted in corruptions if planted.fault == "ragged line"]
    assert [n for n, row in enumerate(table) if len(row) != len(header)] == ragged


def test_images_have_the_listed_corruptions(
    corrupted: tuple[Path, list[PlantedCorruption]],
) -> None:
    out, corruptions = corrupted
    by_fault = {planted.fault: planted for planted in corruptions}
    assert open_image(out, by_fault["CMYK image"]).mode == "CMYK"
    assert open_image(out, by_fault["image with alpha"]).mode == "RGBA"
    assert open_image(out, by_fault["16-bit image"]).mode == "I;16"
    assert open_image(out, by_fault["turned by EXIF"]).getexif()[274] == 6
    assert open_image(out, by_fault["turned by EXIF"]).size == (128, 96)
    assert open_image(out, by_fault["1 x 5000 image"]).size == (1, 5000)
    assert getattr(open_image(out, by_fault["animated image"]), "n_frames", 1) > 1
    with pytest.warns(Image.DecompressionBombWarning):
        assert open_image(out, by_fault["decompression bomb"]).size == (12_000, 12_000)
    with pytest.raises(OSError, match="truncated"):
        open_image(out, by_fault["truncated image"]).load()
    assert not (out / by_fault["missing image file"].after).exists()


def test_repaired_texts_are_listed(corrupted: tuple[Path, list[PlantedCorruption]]) -> None:
    by_fault = {planted.fault: planted for planted in corrupted[1]}
    pounds, blanks = by_fault["price in pounds"], by_fault["needless blanks"]
    assert pounds.after == f"£{float(pounds.before.replace(',', '.')):,.2f}"
    assert pounds.mended == pounds.before
    assert blanks.after != blanks.mended == blanks.before
    assert "&amp;" in by_fault["entities in title"].after


@pytest.mark.parametrize(("encoding", "mark"), [("cp1252", b"gro"), ("utf-8-sig", b"\xef\xbb\xbf")])
def test_a_clean_export_can_be_read_back(
    shop: Path, tmp_path: Path, encoding: Encoding, mark: bytes
) -> None:
    out = tmp_path / "export"
    assert write_export(shop, out, rate=0, seed=1, encoding=encoding) == out / "products.csv"
    assert read_corruptions(out) == []
    assert (out / "products.csv").read_bytes().startswith(mark)
    table = read_table(out, encoding)
    assert len(table) == 120
    assert any("\nMade in Österreich" in row[-2] for row in table)
    assert all((out / row[-1]).is_file() for row in table)
    assert all(row[7].count(",") == 1 for row in table)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8-sig"])
def test_a_foreign_line_has_no_meaning_in_the_encoding_of_the_file(
    shop: Path, tmp_path: Path, encoding: Encoding
) -> None:
    write_export(shop, tmp_path / "export", rate=0.5, seed=2, encoding=encoding)
    with pytest.raises(UnicodeDecodeError):
        (tmp_path / "export" / "products.csv").read_bytes().decode(encoding)


def test_a_rate_above_one_is_an_error(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the rate of faults is 10; use a fraction from 0 to 1"):
        write_export(shop, tmp_path / "export", rate=10, seed=1)
