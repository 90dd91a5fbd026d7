"""Codes, links and file names are composed like the real ones."""

import random

from phi_vision.data.samples import Value
from phi_vision.synthetic.code_patterns import Mention, fill, measure_pattern


def mentions(texts: list[str], records: list[dict[str, Value]]) -> list[Mention]:
    return [(text, record, n) for n, (text, record) in enumerate(zip(texts, records, strict=True))]


def test_a_file_name_that_repeats_the_code_is_understood() -> None:
    codes = [f"WSH{10 + n}-White" for n in range(10)]
    files = [f"shop/{code.lower()}_main.jpg" for code in codes]
    pattern = measure_pattern(mentions(files, [{"code": code} for code in codes]), ["code"])
    assert pattern.templates.named == (("shop/{code|lower}_main.jpg", 10),)


def test_a_link_repeats_title_and_code_and_belongs_to_nobody() -> None:
    records: list[dict[str, Value]] = [
        {"title": f"Bouclé Coat {n}", "code": 8001000 + n} for n in range(9)
    ]
    links = [f"https://www.burberry.com/boucle-coat-{n}-p{8001000 + n}" for n in range(9)]
    pattern = measure_pattern(mentions(links, records), ["code", "title"])
    assert pattern.templates.named == (("https://shop.example.com/{title|slug}-p{code|as}", 9),)


def test_codes_are_drawn_in_their_shape() -> None:
    codes = [f"{'QRSTUVWX'[n % 8]}K{n:02}" for n in range(20)]
    pattern = measure_pattern(mentions(codes, [{}] * 20), [])
    assert pattern.templates.named == (("[AA99]", 20),)
    assert pattern.unique


def test_digits_that_all_codes_begin_with_are_kept() -> None:
    codes = [str(80_000_000 + 1371 * n) for n in range(20)]
    pattern = measure_pattern(mentions(codes, [{}] * 20), [])
    assert pattern.templates.named == (("800[99999]", 20),)


def test_a_place_without_a_value_is_not_filled() -> None:
    assert fill("{title|slug}-[99]", {"title": None}, random.Random(0)) is None
    assert fill("{title|slug}", {"title": "Wool Coat"}, random.Random(0)) == "wool-coat"


def test_a_pattern_of_few_groups_is_not_kept() -> None:
    lone = mentions(["SECRET/1", "a-b", "c_d", "Zz.9"], [{}] * 4)
    assert measure_pattern(lone, []).templates.named == (("[AAAA9999]", 1),)
