"""Tables of text, with every fault that exports have planted in a file of its own."""

import gzip
from pathlib import Path

import pytest

from phi_vision.prepare.sources import text_files
from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow


def planted(folder: Path, content: str | bytes, name: str = "products.csv") -> Source:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_source(str(file))


def values(source: Source) -> list[dict[str, object]]:
    return [dict(row.values) for row in source.rows() if isinstance(row, Row)]


def faults(source: Source) -> list[tuple[str, str, str]]:
    return [
        (row.origin, row.reason, row.raw) for row in source.rows() if isinstance(row, UnreadableRow)
    ]


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
        ("cp1252", "cp1252"),
        ("mac_roman", "mac_roman"),
    ],
)
def test_encodings_are_found_out(tmp_path: Path, encoding: str, found: str) -> None:
    text = "sku,title,price\nA,Béret,£90\nB,Robe d’été,€45\nC,Crème à l'eau,£5\n"
    source = planted(tmp_path, text.encode(encoding))
    assert source.detected["encoding"] == found
    assert values(source) == [
        {"sku": "A", "title": "Béret", "price": "£90"},
        {"sku": "B", "title": "Robe d’été", "price": "€45"},
        {"sku": "C", "title": "Crème à l'eau", "price": "£5"},
    ]


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("cp1250", "Płaszcz żółty w łączkę, ściągacz"),
        ("cp1251", "Пальто женское красное"),
        ("gb18030", "女式连衣裙 夏季新款 红色大衣"),
        ("cp932", "レディース コート ワンピース 夏 新作"),
    ],
)
def test_encodings_of_other_languages_are_guessed(
    tmp_path: Path, encoding: str, title: str
) -> None:
    source = planted(tmp_path, f"sku;title\nA;{title}\n".encode(encoding))
    assert values(source) == [{"sku": "A", "title": title}]


def test_a_guess_is_shown_with_words_from_the_file(tmp_path: Path) -> None:
    source = planted(tmp_path, "sku;title\nA;Béret £90\n".encode("cp1252"))
    assert source.detected["encoding guessed from"] == "Béret · £90"


def test_the_first_special_character_may_be_far_into_the_file(tmp_path: Path) -> None:
    plain = (
        b"sku,title\n" + (b"A," + b"Coat " * 100 + b"\n") * 5_000
    )  # more than two of the chunks it is read in
    source = planted(tmp_path, plain + "B,Béret à £90\n".encode("cp1252"))
    assert source.detected["encoding"] == "cp1252"
    assert list(source.rows())[-1].values == {  # type: ignore[union-attr]
        "sku": "B",
        "title": "Béret à £90",
    }


def test_a_few_foreign_bytes_in_utf8_break_their_rows_only(tmp_path: Path) -> None:
    good = "A,Béret\nB,Crème\n".encode()
    source = planted(tmp_path, b"sku,title\n" + good + b"C,Caf\xe9\n" + good)
    assert source.detected["encoding"] == "utf-8"
    assert [row["sku"] for row in values(source)] == ["A", "B", "A", "B"]
    assert faults(source) == [
        ("products.csv line 4", "holds bytes that are not utf-8", "C,Caf\\xe9\n")
    ]


@pytest.mark.parametrize(("sign", "shown"), [(",", ","), (";", ";"), ("\t", "tab"), ("|", "|")])
def test_separators_are_found_out(tmp_path: Path, sign: str, shown: str) -> None:
    lines = [("sku", "title", "price"), ("A", "Coat", "1.5"), ("B", '"Hat, red; or | blue"', "2")]
    source = planted(tmp_path, "\n".join(sign.join(line) for line in lines))
    assert source.detected["separator"] == shown
    assert values(source)[1] == {"sku": "B", "title": "Hat, red; or | blue", "price": "2"}


def test_decimal_commas_are_no_separators_and_are_reported(tmp_path: Path) -> None:
    source = planted(tmp_path, "sku;price\nA;1.299,50\nB;12,00 €\nC;5,5\n")
    assert source.detected["separator"] == ";"
    assert source.detected["decimal comma in"] == "price"
    assert values(source)[0] == {"sku": "A", "price": "1.299,50"}


def test_tsv_and_text_files_are_tables(tmp_path: Path) -> None:
    for name in ("products.tsv", "products.txt"):
        assert values(planted(tmp_path, "sku\ttitle\nA\tCoat\n", name)) == [
            {"sku": "A", "title": "Coat"}
        ]


def test_excels_separator_line_is_read_as_one(tmp_path: Path) -> None:
    source = planted(tmp_path, "sep=|\nsku|title\nA|Coat, long\n")
    assert values(source) == [{"sku": "A", "title": "Coat, long"}]


def test_quoted_newlines_quotes_and_separators_stay_in_their_cell(tmp_path: Path) -> None:
    source = planted(tmp_path, 'sku,title\r\nA,"Coat,\r\nlong ""new"""\r\nB, "Hat, red"\r\n')
    assert [(row.origin, dict(row.values)) for row in source.rows() if isinstance(row, Row)] == [
        ("products.csv line 2", {"sku": "A", "title": 'Coat,\nlong "new"'}),
        ("products.csv line 4", {"sku": "B", "title": "Hat, red"}),
    ]


def test_a_quote_in_the_middle_of_a_cell_is_a_sign_like_others(tmp_path: Path) -> None:
    source = planted(tmp_path, 'sku,title\nA,5" heel\nB,Hat\n')
    assert [row["title"] for row in values(source)] == ['5" heel', "Hat"]


@pytest.mark.parametrize("following", ['B,"Hat"', "B,Hat"])
def test_a_quote_that_is_never_closed_breaks_one_line(tmp_path: Path, following: str) -> None:
    source = planted(tmp_path, 'sku,title\nA,"Coat\n' + f"{following}\n" * 3)
    assert [row["title"] for row in values(source)] == ["Hat"] * 3
    assert faults(source) == [("products.csv line 2", "a quote is never closed", 'A,"Coat\n')]


def test_ragged_lines_are_broken_and_counted(tmp_path: Path) -> None:
    source = planted(tmp_path, "sku,title,price\nA,Coat,5\nB,Hat\nC,Hat,red,5\nD,Bag,7,,\n,,\n")
    assert [row["sku"] for row in values(source)] == ["A", "D"]
    assert faults(source) == [
        ("products.csv line 3", "found fewer cells than columns", "B,Hat"),
        ("products.csv line 4", "found more cells than columns", "C,Hat,red,5"),
        ("products.csv line 6", "all cells are empty", ",,"),
    ]
    assert [row.number for row in source.rows()] == [0, 1, 2, 3, 4]


def test_columns_without_a_name_of_their_own_get_one(tmp_path: Path) -> None:
    source = planted(tmp_path, "sku,price,,price,price\nA,1,x,2,3\n")
    assert values(source) == [
        {"sku": "A", "price": "1", "column_3": "x", "price_2": "2", "price_3": "3"}
    ]
    assert source.detected["columns renamed"] == (
        "column 3 -> column_3, price -> price_2, price -> price_3"
    )


def test_a_first_line_of_addresses_is_no_header(tmp_path: Path) -> None:
    source = planted(tmp_path, "https://x.example/1.jpg,Coat\nhttps://x.example/2.jpg,Hat\n")
    assert values(source)[0] == {"column_1": "https://x.example/1.jpg", "column_2": "Coat"}
    assert source.detected["header"].startswith("none")


def test_a_title_above_the_header_is_left_out_and_reported(tmp_path: Path) -> None:
    source = planted(tmp_path, "Export of the shop\n\nsku,title\nA,Coat\nB,Hat\n")
    assert values(source)[0] == {"sku": "A", "title": "Coat"}
    assert source.detected["lines above the header"] == "1"


def test_nul_bytes_break_their_row(tmp_path: Path) -> None:
    source = planted(tmp_path, b"sku,title\nA,Coat\nB,H\0at\nC,Bag\n" + b"\0" * 300)
    assert [row["sku"] for row in values(source)] == ["A", "C"]
    assert [reason for _, reason, _ in faults(source)] == ["holds NUL bytes"] * 2


def test_old_mac_line_ends_are_line_ends(tmp_path: Path) -> None:
    assert len(values(planted(tmp_path, "sku,title\rA,Coat\rB,Hat\r"))) == 2


def test_cells_may_be_as_long_as_an_image(tmp_path: Path) -> None:
    image = "data:image/png;base64," + "A" * 300_000  # the csv module stops at 131,072
    assert values(planted(tmp_path, f"sku,image\nA,{image}\n")) == [
        {"sku": "A", "image": image}
    ] or values(planted(tmp_path, f'sku,image\nA,"{image}"\n')) == [{"sku": "A", "image": image}]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(ValueError, match="is empty: found"):
        planted(tmp_path, content)


def test_a_header_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no rows"):
        planted(tmp_path, "sku,title\n")


def test_compressed_files_are_read_and_a_truncated_one_keeps_its_complete_rows(
    tmp_path: Path,
) -> None:
    # Numbers that do not repeat, so that a cut file still gives half of them.
    text = "sku,title\n" + "".join(f"{n},{n * 7919 % 100_003}\n" for n in range(20_000))
    whole = gzip.compress(text.encode())
    assert len(values(planted(tmp_path, whole, "products.csv.gz"))) == 20_000
    cut = planted(tmp_path, whole[: len(whole) // 2], "cut.csv.gz")
    assert 4_000 < len(values(cut)) < 16_000
    assert faults(cut)[-1][1] == "the compressed file is truncated"


def test_a_folder_of_tables_is_one_source_with_splits(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("sku,title\nC,Bag\n")
    (tmp_path / "train.csv").write_text("sku,title\nA,Coat\nB,Hat\n")
    source = open_source(str(tmp_path))
    assert [
        (row.number, row.origin, row.split) for row in source.rows() if isinstance(row, Row)
    ] == [
        (0, "train.csv line 2", "train"),
        (1, "train.csv line 3", "train"),
        (2, "val.csv line 2", "validation"),
    ]
    assert len(list(open_source(str(tmp_path), split="val").rows())) == 1
    with pytest.raises(ValueError, match=r"no split 'test' in .*: it has train, validation"):
        open_source(str(tmp_path), split="test")


def test_rows_begin_anew_at_every_call(tmp_path: Path) -> None:
    source = planted(tmp_path, "sku,title\nA,Coat\nB,Hat\n")
    assert list(source.rows()) == list(source.rows())


def test_a_broken_header_is_an_error_that_shows_it(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_bytes(b'"sku,title\nA,Coat\nB,Hat\n')
    with pytest.raises(ValueError, match="line 1 a quote is never closed"):
        open_source(str(tmp_path / "products.csv"))


@pytest.mark.parametrize(
    ("table", "facts"),
    [
        ('"sku","title"\n"A","Cap 12\\" wide, red"\n', {"quotes": "escaped by a backslash"}),
        ('"sku","title"\n"A","Cap 12\\" wide"\n', {"quotes": "escaped by a backslash"}),
        ("sku,title\n'A','Cap, red'\n'B','Hat, blue'\n", {"quotes": "single"}),
        ("sku~title\nA~Cap, red\nB~Hat\n", {"separator": "~"}),
        ("sku^title\nA^Cap, red\nB^Hat\n", {"separator": "^"}),
        ("sku\x01title\nA\x01Cap, red\nB\x01Hat\n", {"separator": "Ctrl-A"}),
        ("sku,title\nA,'Cap' red\nB,Hat 12\\n", {"separator": ","}),
    ],
)
def test_other_quotes_and_separators_are_found(
    tmp_path: Path, table: str, facts: dict[str, str]
) -> None:
    source = planted(tmp_path, table.encode())
    assert facts.items() <= source.detected.items()
    rows = values(source)
    assert rows[0]["sku"] == "A"
    assert str(rows[0]["title"]) in ('Cap 12" wide, red', 'Cap 12" wide', "Cap, red", "'Cap' red")


def test_a_table_of_thousands_of_columns_is_rejected(tmp_path: Path) -> None:
    row = ",".join(map(str, range(2001)))
    with pytest.raises(ValueError, match="found 2,001 columns, more than 2,000"):
        planted(tmp_path, f"c{row.replace(',', ',c')}\n{row}\n".encode())


def test_a_compressed_file_that_unpacks_without_limit_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_UNPACKED", 2**20)
    file = tmp_path / "products.csv.gz"
    file.write_bytes(gzip.compress(b"sku,title\n" + b"A,Coat\n" * 2**20))
    with pytest.raises(ValueError, match=r"unpacks to more than .* bytes, 200 times"):
        open_source(str(file))
    with pytest.raises(ValueError, match="unpacks to more than"):
        list(open_source(str(file), encoding="utf-8").rows())
