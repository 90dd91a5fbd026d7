"""What a cell says of its image: found inside the folder, decoded, or refused with a reason."""

import base64
import io
import os
import urllib.parse
from pathlib import Path

import pytest
from PIL import Image

from phi_vision.prepare.image_references import (
    MAX_FILE_BYTES,
    list_references,
    read_reference,
    url_of,
)
from phi_vision.prepare.images import ImageRules, clean_image


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A source's folder with images under difficult names, and a secret beside it."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    for name in ("a.jpg", "red coat.jpg", "50%20off.jpg", "wrong.txt", "ü.jpg"):
        (folder / "images" / name).write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "outside").symlink_to(tmp_path)
    (folder / "in.jpg").symlink_to(folder / "images" / "a.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images/a.jpg", b"a.jpg"),
        (" images/a.jpg\n", b"a.jpg"),
        ("./images/../images/a.jpg", b"a.jpg"),
        (r"images\a.jpg", b"a.jpg"),
        (r".\images\red coat.jpg", b"red coat.jpg"),
        ("images/red%20coat.jpg", b"red coat.jpg"),
        (r"images\red%20coat.jpg", b"red coat.jpg"),
        ("images/50%20off.jpg", b"50%20off.jpg"),
        ("images/%C3%BC.jpg", "ü.jpg".encode()),
        ("images/wrong.txt", b"wrong.txt"),
        ("in.jpg", b"a.jpg"),
    ],
)
def test_a_path_is_found_in_the_folder_however_it_is_written(
    shop: Path, name: str, expected: bytes
) -> None:
    assert read_reference(name, shop) == expected
    assert read_reference({"bytes": None, "path": name}, shop) == expected


def test_an_absolute_path_may_lead_into_the_folder_also_through_a_link(
    shop: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(shop)
    assert read_reference(str(shop / "images" / "a.jpg"), shop) == b"a.jpg"
    assert read_reference(tmp_path / "link" / "images" / "a.jpg", tmp_path / "link") == b"a.jpg"
    with pytest.raises(ValueError, match=r"^no such file: "):
        read_reference(str(tmp_path / "link" / "b.jpg"), tmp_path / "link")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../secret.jpg", "outside the folder"),
        ("images/../../secret.jpg", "outside the folder"),
        (r"..\secret.jpg", "outside the folder"),
        ("..%2Fsecret.jpg", "outside the folder"),
        ("%2e%2e/secret.jpg", "outside the folder"),
        ("../not there.jpg", "outside the folder"),
        ("/etc/passwd", "outside the folder"),
        ("/not/there.jpg", "outside the folder"),
        (r"C:\Users\me\a.jpg", "outside the folder"),
        ("out.jpg", "outside the folder"),
        ("outside/secret.jpg", "outside the folder"),
        ("/dev/zero", "outside the folder"),
        ("loop.jpg", "no such file"),
        ("gone.jpg", "no such file"),
        ("missing.jpg", "no such file"),
        ("images/a.jpg\0.png", "no such file"),
        ("a" * 5000, "no such file"),
        ("a/" * 5000, "no such file"),
        ("~/a.jpg", "no such file"),
        ("images", "not a file"),
        (".", "not a file"),
        ("pipe.jpg", "not a file"),
        ("file:///etc/passwd", "outside the folder"),
        ("s3://bucket/a.jpg", "not a local path"),
        ("https://shop.example/a.jpg", "not a local path"),
        ("", "no image"),
        ("  ", "no image"),
        (None, "no image"),
        (b"", "no image"),
        (float("nan"), "no image"),
        (7, "no image"),
        (["images/a.jpg"], "no image"),
        ({"bytes": None, "path": None}, "no image"),
        ({}, "no image"),
        ({"path": {"path": "images/a.jpg"}}, "no image"),
    ],
)
def test_a_reference_that_leads_nowhere_or_outside_is_rejected(
    shop: Path, name: object, expected: str
) -> None:
    with pytest.raises(ValueError, match=": ") as caught:
        read_reference(name, shop)
    assert str(caught.value).partition(": ")[0] == expected
    assert "secret" not in str(caught.value).replace(repr(name), "")


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no space
    with pytest.raises(ValueError, match=r"^file too large: "):
        read_reference("disk.img", tmp_path)


def test_a_device_inside_the_folder_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^not a file: "):
        read_reference("zero", Path("/dev"))


def test_without_a_folder_paths_are_rejected_and_bytes_are_not() -> None:
    with pytest.raises(ValueError, match=r"^no folder: "):
        read_reference("images/a.jpg", None)
    assert read_reference(b"abc", None) == b"abc"
    assert read_reference(bytearray(b"abc"), None) == b"abc"
    assert read_reference({"bytes": b"abc", "path": "../../etc/passwd"}, None) == b"abc"


def test_data_uris_are_read_in_every_writing() -> None:
    buffer = io.BytesIO()
    Image.effect_noise((60, 40), 80).save(buffer, "PNG")
    encoded = buffer.getvalue()
    letters = base64.b64encode(encoded).decode()
    wrapped = "\n".join(letters[at : at + 76] for at in range(0, len(letters), 76))
    for uri in (
        f"data:image/png;base64,{letters}",
        f" DATA:image/png;charset=utf-8;BASE64,{letters} ",
        f"data:;base64,{wrapped}",
        f"data:image/png;base64,{urllib.parse.quote(letters)}",
        f"data:image/jpeg;base64,{letters.rstrip('=')}",
        f"data:image/png;base64,{letters.replace('+', '-').replace('/', '_')}",
        f"data:image/png,{urllib.parse.quote(encoded)}",
        letters,
        wrapped,
        {"bytes": letters, "path": None},
    ):
        assert read_reference(uri, None) == encoded


@pytest.mark.parametrize(
    "uri", ["data:image/png;base64", "data:image/png;base64,abc$", "data:;base64,abcde"]
)
def test_broken_data_uris_are_rejected(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^broken (data URI|base64): "):
        read_reference(uri, None)


def test_a_data_uri_that_holds_no_image_is_rejected_by_its_content() -> None:
    for uri in ("data:image/svg+xml;utf8,<svg xmlns='x'></svg>", "data:text/plain,hello"):
        with pytest.raises(ValueError, match=r"^not an image: "):
            clean_image(read_reference(uri, None), ImageRules())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://shop.example/a.jpg", "https://shop.example/a.jpg"),
        ("  HTTP://shop.example/a.jpg ", "HTTP://shop.example/a.jpg"),
        ("//cdn.shop.example/a.jpg", "https://cdn.shop.example/a.jpg"),
        ({"bytes": None, "path": "https://shop.example/a.jpg"}, "https://shop.example/a.jpg"),
        ({"bytes": b"x", "path": "https://shop.example/a.jpg"}, None),
        ("images/a.jpg", None),
        ("/images/a.jpg", None),
        ("//images/a.jpg", None),
        ("ftp://shop.example/a.jpg", None),
        ("data:image/png;base64,", None),
        (b"https://", None),
        (None, None),
    ],
)
def test_urls_are_reported_from_paths(value: object, expected: str | None) -> None:
    assert url_of(value) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a.jpg, b.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg;b.PNG", ["a.jpg", "b.PNG"]),
        ("a.jpg|b.jpg|", ["a.jpg", "b.jpg"]),
        ("Coat, red.jpg", ["Coat, red.jpg"]),
        ("https://x.eu/w_300,h_4/a.jpg", ["https://x.eu/w_300,h_4/a.jpg"]),
        ("https://x.eu/a.jpg, https://x.eu/b", ["https://x.eu/a.jpg", "https://x.eu/b"]),
        ("https://x.eu/a?f=jpg|//x.eu/b.jpg", ["https://x.eu/a?f=jpg", "//x.eu/b.jpg"]),
        ("https://x.eu/a.jpg https://x.eu/b.jpg", ["https://x.eu/a.jpg", "https://x.eu/b.jpg"]),
        ("https://x.eu/a.jpg||https://x.eu/b", ["https://x.eu/a.jpg", "https://x.eu/b"]),
        ("https://x.eu/a.jpg#https://x.eu/b.png", ["https://x.eu/a.jpg", "https://x.eu/b.png"]),
        ("https://x.eu/?u=https://y.eu/a.jpg", ["https://x.eu/?u=https://y.eu/a.jpg"]),
        ("https://x.eu/a.jpg?x=[1]&f=b.jpg", ["https://x.eu/a.jpg?x=[1]&f=b.jpg"]),
        ("['in/a.jpg' 'in/b.jpg']", ["in/a.jpg", "in/b.jpg"]),
        ("array(['a.jpg', 'b.jpg'], dtype=object)", ["a.jpg", "b.jpg"]),
        ('{a.jpg,"b.jpg"}', ["a.jpg", "b.jpg"]),
        ("{a.jpg}", ["a.jpg"]),
        ("a.jpg / b.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg::b.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg 320w, b.jpg 640w", ["a.jpg", "b.jpg"]),
        ("![A coat](a.jpg)", ["a.jpg"]),
        ("a.jpg ! alt : A | b.jpg ! alt : B", ["a.jpg", "b.jpg"]),
        ("dir.png/a.jpg", ["dir.png/a.jpg"]),
        ("red coat (1).jpg", ["red coat (1).jpg"]),
        ("a.jpg_2.jpg", ["a.jpg_2.jpg"]),
        ([{"originalSrc": "a.jpg"}, {"asset": {"url": "b.jpg"}}], ["a.jpg", "b.jpg"]),
        ({"angle": 3, "fileName": "a.jpg"}, ["a.jpg"]),
        ('["a.jpg", "b.jpg"]', ["a.jpg", "b.jpg"]),
        ("['a.jpg', 'b.jpg']", ["a.jpg", "b.jpg"]),
        ("{'bytes': None, 'path': 'a.jpg'}", [{"bytes": None, "path": "a.jpg"}]),
        ("[broken.jpg]", ["[broken.jpg]"]),
        ('<p><img alt="x" src="a.jpg"/><IMG SRC=b.jpg></p>', ["a.jpg", "b.jpg"]),
        ('=IMAGE("a.jpg")', ["a.jpg"]),
        ([{"id": 1, "src": "https://x.eu/a.jpg"}], ["https://x.eu/a.jpg"]),
        ([{"thumb": "s.jpg", "large": "m.jpg", "hi_res": None}], ["m.jpg"]),
        ({"hi_res": [None, "l.jpg"], "large": ["a.jpg", "b.jpg"]}, ["a.jpg", "b.jpg"]),
        ({"edges": [{"node": {"url": "a.jpg"}}, {"node": {"url": "b.jpg"}}]}, ["a.jpg", "b.jpg"]),
        ("  ", []),
        (None, []),
    ],
)
def test_one_cell_may_hold_several_images(cell: object, expected: list[object]) -> None:
    assert list_references(cell) == expected


@pytest.mark.parametrize(
    "name",
    ["7.jpg", "7", "7.JPG", "coats/7.jpg", "/coats/7.jpg", "/home/x/shop/images/coats/7.jpg"],
)
def test_an_image_is_found_by_name_below_the_folder(tmp_path: Path, name: str) -> None:
    file = tmp_path / "images" / "coats" / "7.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"7")
    assert read_reference(name, tmp_path) == b"7"


def test_an_image_of_another_folder_or_one_of_several_is_not_taken(tmp_path: Path) -> None:
    for place in ("women/7.jpg", "a/8.jpg", "b/8.jpg"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"x")
    for name in ("men/7.jpg", "8.jpg"):
        with pytest.raises(ValueError, match=r"^no such file: .*--images 'images/\{id\}.jpg'"):
            read_reference(name, tmp_path)
