"""Encodings are found although some lines are written in another one, and guesses are shown."""

import random
from pathlib import Path

import pytest

from phi_vision.prepare.sources.registry import open_source
from phi_vision.prepare.sources.rows import Row, Source, UnreadableRow
from phi_vision.prepare.sources.text_files import damage, detect_encoding
from phi_vision.synthetic.catalog import write_catalog
from phi_vision.synthetic.corrupted_export import read_corruptions, write_export

OWN = {
    "cp1252": (
        "Béret",
        "Robe d’été",
        "Crème à l'eau",
        "£260.00",
        "1.299,50 €",
        "Straße",
        "NESTLÉ®",
    ),
    "cp1250": ("Płaszcz żółty", "łączkę", "ściągacz", "Košile růžová", "Příliš žluťoučký"),
    "cp1251": ("Пальто женское", "Платье красное", "Сапоги", "Юбка чёрная"),
}
FOREIGN = ("Jacket ÍÝé", "Mantel Größe", "Płaszcz żółty", "Robe d’été – noire", "Пальто")
"""Their UTF-8 holds 8D and 9D, which cp1252 has not and cp1250 has."""


def open_titles(folder: Path, encoding: str, titles: str) -> Source:
    """Write a table of titles, without the letters that the encoding lacks, and open it."""
    rows = "".join(f"A{n};{title};{n}\n" for n, title in enumerate(titles.split(";")))
    (folder / "products.csv").write_bytes(f"sku;title;price\n{rows}".encode(encoding, "ignore"))
    return open_source(str(folder / "products.csv"))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "catalog"
    write_catalog(folder, rows=60, seed=3)
    return folder


@pytest.mark.parametrize("seed", range(3, 9))
def test_one_line_of_utf8_does_not_tip_an_export(catalog: Path, tmp_path: Path, seed: int) -> None:
    table = write_export(catalog, tmp_path / "export", rate=0.9, seed=seed, encoding="cp1252")
    source = open_source(str(table))
    assert source.detected["encoding"] == "cp1252"
    foreign = [
        f.row for f in read_corruptions(table.parent) if f.fault == "line in another encoding"
    ]
    broken = [piece for piece in source.rows() if isinstance(piece, UnreadableRow)]
    read = [p.number for p in broken if p.reason == "is UTF-8 in a file that is cp1252"]
    assert foreign
    assert read == foreign


@pytest.mark.parametrize("encoding", OWN)
def test_lines_of_utf8_have_no_vote(tmp_path: Path, encoding: str) -> None:
    """However many there are, as long as most special characters are the file's own."""
    file = tmp_path / "products.csv"
    for seed in range(60):
        rng = random.Random(seed)
        own = [f"{n};{rng.choice(OWN[encoding])};{n},50\n" for n in range(rng.randint(6, 60))]
        planted = [f"x;{rng.choice(FOREIGN)};9\n" for _ in range(rng.randint(1, 1 + len(own) // 8))]
        lines = [line.encode(encoding) for line in own] + [line.encode() for line in planted]
        rng.shuffle(lines)
        file.write_bytes(b"sku;title;price\n" + b"".join(lines))
        found = detect_encoding(file)
        assert found["encoding"] in (encoding, "utf-8"), f"seed {seed}"
        if found["encoding"] == encoding:
            rows = list(open_source(str(file)).rows())
            kept = sorted(";".join(map(str, r.values.values())) for r in rows if isinstance(r, Row))
            assert kept == sorted(line.strip() for line in own), f"seed {seed}"
            raw = sorted(row.raw for row in rows if isinstance(row, UnreadableRow))
            assert raw == sorted(planted), f"seed {seed}"


@pytest.mark.parametrize(
    ("text", "encoding", "meant"),
    [
        ("CafÃ©", "cp1252", "Café"),
        ("x;Robe dâ€™Ã©tÃ©", "cp1252", "x;Robe d’été"),
        ("PÅ‚aszcz Å¼Ã³Å‚ty", "cp1252", "Płaszcz żółty"),
        ("Ă©tĂ©", "cp1250", "été"),
        ("GrГ¶Гџe", "cp1251", "Größe"),
        ("PÅ‚aszcz", "cp1252", "Płaszcz"),
    ],
)
def test_utf8_that_would_pass_for_letters_is_found(text: str, encoding: str, meant: str) -> None:
    fault = damage(text, encoding)
    assert fault is not None
    assert fault.reason == f"is UTF-8 in a file that is {encoding}"
    assert fault.raw == meant


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("NESTLÉ® 250g", "cp1252"), ("weiß™", "cp1252"), ("ROSÉ’S", "cp1252"), ("通", "gb18030")],
)
def test_text_that_is_utf8_by_chance_is_left_alone(text: str, encoding: str) -> None:
    text.encode(encoding).decode()  # that is what makes it a chance
    assert damage(text, encoding) is None


def test_examples_of_a_guess_fit_into_a_line(tmp_path: Path) -> None:
    words = ["aé" * 200, "a" * 400 + "é" + "b" * 400, "Béret", "dé\x85jà", "Crème", "à", "ü\x1b[2J"]
    file = tmp_path / "products.csv"
    file.write_bytes("\n".join(words).encode("latin-1"))
    shown = detect_encoding(file)["encoding guessed from"]
    assert shown.isprintable()
    assert len(shown) <= 60
    assert len(shown.split(" · ")) == 3


@pytest.mark.parametrize(
    ("encoding", "titles"),
    [
        ("cp1254", "Kadın ayakkabı;Şık gömlek;Erkek çorap;Yağmurluk"),
        ("iso8859-9", "Kadın ayakkabı;Şık gömlek;Erkek çorap;Yağmurluk"),
        ("cp1250", "Női ruha;Férfi ing;Gyerek cipő;Sárga kabát"),
        ("cp1250", "Rochie lungă;Cămaşă albă;Pantofi bărbaţi;Geacă galbenă"),
        ("cp1250", "Płaszcz wełniany;Buty skórzane;Koszula męska;Żółty sweter"),
        ("iso8859-2", "Dámské šaty;Pánská košile;Dětské boty;Žlutý kabát"),
        ("iso8859-2", "Női ruha;Férfi ing;Gyerek cipő;Sárga kabát"),
        ("cp1257", "Moteriška suknelė;Vyriški marškiniai;Žieminė striukė"),
        ("cp1257", "Sieviešu kleita;Vīriešu krekls;Bērnu apavi;Dzeltens mētelis"),
        ("cp1253", "Γυναικείο φόρεμα;Ανδρικό πουκάμισο;Άσπρο παλτό"),
        ("iso8859-15", "Coat 90 €;Scarf 45 €;Shoe 120 €"),
        ("iso8859-15", "Robe d'été 20 €;Cœur rouge;Bœuf séché 12 €"),
        ("cp1252", "Wool coat £90;Silk scarf £45;Shoe £120"),
        ("cp1252", "Maglietta per città;Più bello;Caffè nero;Qualità"),
        ("cp1252", "Café table;Nestlé bar;Jalapeño;Beyoncé – tour;Levi’s® jeans"),
        ("cp1252", "Vestido de algodão;Calçado;Blusão de lã;Relógio"),
        ("cp1252", "Kjóll;Skór fyrir börn;Þykk peysa;Leðurtaska"),
        ("cp1252", "Këmishë për burra;Çantë lëkure;Pallto e zezë;Këpucë të bardha"),
        ("cp1257", "Moteriška suknelė;Vyriški marškiniai;Vaikiški batai;Odinė rankinė"),
        ("cp1254", "Yün şapka;Kadın çanta;Ayakkabı;Mavi gömlek;ığüşöç"),
        ("cp850", "Lasten kengät;Keltainen takki päällys;Nahkalaukku hyvä"),
        ("iso8859-15", "Sac à main œuvre;Cœur rouge;Œillet;Bœuf séché;Robe d été"),
        ("cp737", "Γυναικείο φόρεμα;Ανδρικό πουκάμισο;Άσπρο παλτό"),
        ("cp855", "Женское платье;Мужская рубашка;Детская обувь"),
        ("iso8859-6", "فستان نسائي;قميص رجالي;حذاء أطفال"),
        ("iso2022-jp", "レディース コート;ワンピース 夏"),
        ("koi8-r", "Женское платье;Мужская рубашка;Детская обувь"),
        ("cp1255", "שמלת נשים;חולצת גברים;נעלי ילדים"),
    ],
)
def test_letters_of_many_languages_are_right(tmp_path: Path, encoding: str, titles: str) -> None:
    source = open_titles(tmp_path, encoding, titles)
    read = [row.values["title"] for row in source.rows() if isinstance(row, Row)]
    assert read == titles.split(";")


def test_a_guess_between_two_equals_names_the_doubtful_words(tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_bytes("sku;title\nA;Cămașă albă\nB;Pantofi bărbați\n".encode("iso8859-16"))
    assert open_source(str(file)).detected == {
        "encoding": "cp1250",
        "encoding guessed from": "Cămaşă · albă · bărbaţi",
        "encoding uncertain": "check Cămaşă · bărbaţi; --encoding iso8859_16 is as likely",
        "separator": ";",
    }


def test_a_few_bad_bytes_do_not_change_the_encoding_of_an_ascii_file(tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    rows = [b"A%d,Coat %d,9\n" % (n, n) for n in range(1000)]
    rows[100], rows[500], rows[900] = b"B,Co\x81at,9\n", b"C,Hat\xff,9\n", b"D,\xfe Shoe,9\n"
    file.write_bytes(b"sku,title,price\n" + b"".join(rows))
    source = open_source(str(file))
    assert source.detected["encoding"] == "utf-8"
    broken = [row for row in source.rows() if isinstance(row, UnreadableRow)]
    assert [row.reason for row in broken] == ["holds bytes that are not utf-8"] * 3


def test_the_user_states_the_encoding(tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_bytes("sku;title\nA;Übergröße\n".encode("cp850"))
    source = open_source(str(file), encoding="cp850")
    assert source.detected == {"encoding": "cp850", "separator": ";"}
    assert [row.values["title"] for row in source.rows() if isinstance(row, Row)] == ["Übergröße"]
    with pytest.raises(ValueError, match="--encoding latin99: there is no such encoding"):
        open_source(str(file), encoding="latin99")


@pytest.mark.parametrize("line", [b"X,Co\xe9at,9\n", b"X,C\xe4at,9\n", b"X,\xe9Coat Coat\xfb,9\n"])
def test_bad_bytes_inside_words_that_occur_elsewhere_are_damage(
    tmp_path: Path, line: bytes
) -> None:
    file = tmp_path / "products.csv"
    rows = b"".join(b"A%d,Coat %d,9\n" % (n, n) for n in range(40))
    file.write_bytes(b"sku,title,price\n" + rows + line * 3)
    source = open_source(str(file))
    assert source.detected["encoding"] == "utf-8"
    assert sum(isinstance(row, UnreadableRow) for row in source.rows()) == 3


@pytest.mark.parametrize(
    ("encoding", "titles"),
    [
        ("cp1257", "Batai;Suknelė;Kepurė"),
        ("iso8859-9", "Qadın paltarı;Köynək;Şalvar"),
        ("iso8859-16", "Cămașă albă;Pantofi bărbați"),
    ],
)
def test_small_files_are_right_or_doubtful(tmp_path: Path, encoding: str, titles: str) -> None:
    source = open_titles(tmp_path, encoding, titles)
    read = [row.values["title"] for row in source.rows() if isinstance(row, Row)]
    expected = [title.encode(encoding, "ignore").decode(encoding) for title in titles.split(";")]
    assert read == expected or "--encoding" in source.detected["encoding uncertain"]
