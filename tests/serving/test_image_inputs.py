"""Untrusted images: which are decoded, and why others are rejected."""

import asyncio
import base64
import io
import struct
import zlib
from urllib.parse import quote

import pytest
from PIL import Image

from phi_vision.io.image_decoding import open_image
from phi_vision.serving.errors import ApiError
from phi_vision.serving.image_inputs import ImageReader, read_data_uri
from phi_vision.serving.settings import MIB, Settings

RED = Image.new("RGB", (60, 40), "red")
BLUE = Image.new("RGB", (60, 40), "blue")


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG of which only the header is true."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + rest


def swollen(kind: bytes, times: int = 1) -> bytes:
    """Chunks of a few kilobytes that say they are many megabytes."""
    data = zlib.compress(b"\0" * (64 * MIB // times), 9)
    return b"".join(chunk(kind, b"k%d\0\0" % number + data) for number in range(times))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RED, "JPEG", exif=exif)


NOISE = encoded(Image.effect_noise((200, 200), 50), "JPEG")
FILM = {"save_all": True, "append_images": [BLUE]}
GOOD: dict[str, tuple[bytes, tuple[int, int]]] = {
    "png": (encoded(RED), (60, 40)),
    "jpeg": (encoded(RED, "JPEG"), (60, 40)),
    "webp": (encoded(RED, "WEBP"), (60, 40)),
    "cmyk": (encoded(RED.convert("CMYK"), "JPEG"), (60, 40)),
    "16 bit": (encoded(Image.new("I;16", (60, 40), 999)), (60, 40)),
    "rgba": (encoded(RED.convert("RGBA")), (60, 40)),
    "black and white": (encoded(RED.convert("1")), (60, 40)),
    "palette with a hole": (encoded(RED.convert("P"), transparency=0), (60, 40)),
    "turned by EXIF": (turned(), (40, 60)),
    "a phone's, with a preview": (encoded(RED, "MPO", **FILM), (60, 40)),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), (1, 1)),
    "at the aspect": (encoded(Image.new("RGB", (200, 10))), (200, 10)),
}
BAD: dict[str, tuple[bytes, int, str]] = {
    "bomb": (png(30_000, 30_000), 413, "more than 178,956,970 pixels; the limit is 50,000,000"),
    "smaller bomb": (png(8000, 8000), 413, "has 8,000 × 8,000 pixels; the limit is 50,000,000"),
    "large text": (png(9, 9, swollen(b"zTXt")), 400, "cannot decode an image from"),
    "much text": (png(9, 9, swollen(b"zTXt", 99)), 400, "cannot decode an image from"),
    "large profile": (png(9, 9, swollen(b"iCCP")), 400, "cannot decode an image from"),
    "pixels missing": (png(300, 300), 400, "cannot decode an image from"),
    "no pixels": (png(0, 9), 400, "cannot decode an image from"),
    "cut JPEG": (NOISE[:-3000], 400, "truncated; send a complete PNG, JPEG or WebP"),
    "cut header": (NOISE[:12], 400, "cannot decode an image from 12 bytes"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "41 bytes, an SVG; send"),
    "gif": (encoded(RED, "GIF"), 400, ", a GIF; send"),
    "avif": (encoded(RED, "AVIF"), 400, "; send a complete PNG, JPEG or WebP, the only formats"),
    "tiff": (encoded(RED, "TIFF"), 400, ", a TIFF; send"),
    "html": (b"<!DOCTYPE html>", 400, ", a web page; send"),
    "nothing": (b"", 400, "the image is empty"),
    "garbage": (b"\0" * 100, 400, "cannot decode an image from 100 bytes; send"),
    "film": (encoded(RED, "WEBP", **FILM), 400, "the image is animated (2 frames)"),
    "film of PNG": (encoded(RED, "PNG", **FILM), 400, "the image is animated (2 frames)"),
    "thread": (
        encoded(Image.new("RGB", (5000, 1))),
        400,
        "1 pixels, an aspect ratio above 20",
    ),
}


def read(source: str | bytes, settings: Settings | None = None) -> Image.Image:
    async def read_one() -> Image.Image:
        images = ImageReader(settings or Settings())
        try:
            return await images.read(source, param="image")
        finally:
            images.close()

    return asyncio.run(read_one())


@pytest.mark.parametrize("name", GOOD)
def test_a_photo_is_decoded_as_in_training(name: str) -> None:
    source, size = GOOD[name]
    image = read(source)
    assert image.size == size
    assert image.mode == open_image(source).mode
    assert image.tobytes() == open_image(source).tobytes()


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_rejected_with_the_reason(name: str) -> None:
    source, status, said = BAD[name]
    with pytest.raises(ApiError) as rejection:
        read(source)
    assert rejection.value.status == status
    assert rejection.value.param == "image"
    assert said in rejection.value.message


# data: URIs

PLAIN = base64.b64encode(GOOD["png"][0]).decode()
ODD = GOOD["png"][0] + b"\0" * (len(GOOD["png"][0]) % 3 == 0)  # So that it is padded.
PADDED = base64.b64encode(ODD).decode()


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{PLAIN}",
        f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
        f"data:image/png;charset=utf-8;base64,{PLAIN}",
        f"data:image/png;name=a%20coat.png;charset=utf-8;base64,{PLAIN}",
        f"data:image/jpeg;base64,{PLAIN}",
        f"data:;base64,{PLAIN}",
        f"data:application/octet-stream;base64,{PLAIN}",
        f"data:image/png; base64, {PLAIN}",
        f"data:image/png;base64,{PLAIN[:8]} \r\n\t{PLAIN[8:]}\n",
        f"data:image/png;base64,{quote(PLAIN, safe='')}",
        f"data:image/png;base64,{PLAIN.replace('+', '-').replace('/', '_')}",
        f"data:image/png;base64,{PADDED.rstrip('=')}",
        f"data:image/png;base64,{PADDED}==",
    ],
)
def test_data_uris_are_parsed_leniently(uri: str) -> None:
    assert read_data_uri(uri) in (GOOD["png"][0], ODD)
    assert read(uri).size == (60, 40)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (f"data:image/png,{PLAIN}", "is not in base64"),
        ("data:image/png;base64", "is not in base64"),
        ("data:", "is not in base64"),
        ("data:image/png;base64,", "the image is empty"),
        ("data:image/png;base64,AAAA!", "base64 is invalid or truncated"),
        ("data:image/png;base64,A", "base64 is invalid or truncated"),
        ("data:image/png;base64,AA=AAA", "base64 is invalid or truncated"),
        ("data:image/png;base64,Käse", "base64 is invalid or truncated"),
        ("data:image/png;base64,\ud800", "base64 is invalid or truncated"),
        (f"data:text/html;base64,{PLAIN}", "holds text/html; send"),
        (PLAIN, "found a string without a scheme"),
        ("", "found a string without a scheme"),
        ("file:///etc/passwd", "found file:"),
        ("ftp://shop.example/coat.jpg", "found ftp:"),
        ("blob:null/1", "found blob:"),
        ("https://shop.example/coat.jpg", "can allow hosts by name (--allow-hosts)"),
        ("HTTP://shop.example/coat.jpg", "can allow hosts by name (--allow-hosts)"),
    ],
)
def test_other_urls_are_rejected_with_the_reason(uri: str, said: str) -> None:
    with pytest.raises(ApiError) as rejection:
        read(uri)
    assert rejection.value.status == 400
    assert said in rejection.value.message


# Memory


def test_images_beyond_the_memory_limit_are_rejected() -> None:
    large = encoded(Image.new("L", (500, 500)))  # one million bytes as it is counted

    async def read_three() -> None:
        images = ImageReader(Settings(max_held_bytes=2 * MIB))
        held = [await images.read(large) for _ in range(2)]
        with pytest.raises(ApiError, match="2,000,000 of 2,097,152 bytes") as rejection:
            await images.read(large)
        assert (rejection.value.status, rejection.value.retry_after) == (429, 1.0)
        del held[0]
        assert (await images.read(large)).size == (500, 500)
        images.close()

    asyncio.run(read_three())


def test_a_single_image_is_decoded_whatever_the_memory_limit() -> None:
    assert read(encoded(Image.new("L", (600, 600))), Settings(max_held_bytes=MIB)).width == 600
