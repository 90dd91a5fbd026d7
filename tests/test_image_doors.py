"""Every kind of image through every door: the model always sees the same upright, opaque pixels."""

import base64
import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import putchunk
from starlette.testclient import TestClient

from phi_vision.cli import predict as command
from phi_vision.cli.main import main
from phi_vision.data.samples import Sample
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference import local
from phi_vision.inference.batch import job_spec, predict_catalog
from phi_vision.inference.batch_catalog import BatchConfig
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.openai_server import _data_url
from phi_vision.io.image_decoding import image_size, open_image
from phi_vision.prepare.images import ImageRules, clean_image
from phi_vision.serving import routes
from phi_vision.serving.server import create_app
from phi_vision.serving.settings import Settings

RED, WHITE = (200, 40, 30), (255, 255, 255)
SIZE = (60, 40)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# "What is called red here is green": two entries of the profile exchanged.
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def photo(mode: str = "RGB", right: object = WHITE) -> Image.Image:
    """Red on the left; the right half is white, or what else the case wants there."""
    image = Image.new(mode, SIZE, right)  # type: ignore[arg-type]
    image.paste({"LA": (90, 255), "L": 90}.get(mode, RED), (0, 0, 30, 40))
    return image


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def deep_png(pixels: np.ndarray, color_type: int, hidden: Sequence[int] = ()) -> bytes:
    """Write a PNG of 16 bits a level, which Pillow cannot, with its transparent colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    putchunk(file, b"IHDR", struct.pack(">IIBBBBB", *SIZE, 16, color_type, 0, 0, 0))
    if hidden:
        putchunk(file, b"tRNS", struct.pack(f">{len(hidden)}H", *hidden))
    putchunk(file, b"IDAT", zlib.compress(rows))
    putchunk(file, b"IEND", b"")
    return file.getvalue()


def turned(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: by a quarter, the stored left half is the upper one
    return file_of(photo(), "JPEG", quality=95, subsampling=0, exif=exif)


def palette() -> bytes:
    image = photo(right=(0, 0, 255)).quantize(4)
    return file_of(image, transparency=image.getpixel((50, 20)))


def big_endian() -> Image.Image:
    levels = np.asarray(photo("L", 255)).astype(">u2") * 257
    return Image.frombytes("I;16B", SIZE, levels.astype(">u2").tobytes())


DEEP = np.asarray(photo(right=(0, 0, 0))).astype(np.uint16) * 257
DEEP_GREY = np.asarray(photo("L", 0)).astype(np.uint16) * 257
GREY = (90, 90, 90)
BLACK_AND_WHITE = photo().convert("1", dither=Image.Dither.NONE)
FILM = {"save_all": True, "append_images": [Image.new("RGB", SIZE, "blue")]}
KINDS: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "plain.png": (file_of(photo()), RED),
    "plain.jpg": (file_of(photo(), "JPEG", quality=95, subsampling=0), RED),
    "alpha.png": (file_of(photo("RGBA", (0, 0, 0, 0))), RED),
    "alpha.webp": (file_of(photo("RGBA", (0, 0, 0, 0)), "WEBP", lossless=True), RED),
    "grey alpha.png": (file_of(photo("LA", (0, 0))), GREY),
    "palette.png": (palette(), RED),
    "colour key.png": (file_of(photo(right=(1, 2, 3)), transparency=(1, 2, 3)), RED),
    "deep grey.png": (deep_png(DEEP_GREY, 0, [0]), GREY),
    "deep.png": (deep_png(DEEP, 2, [0, 0, 0]), RED),
    "cmyk.jpg": (file_of(photo().convert("CMYK"), "JPEG", quality=95, subsampling=0), RED),
    "turned.jpg": (turned(), RED),
    "big endian.tif": (file_of(big_endian(), "TIFF"), GREY),
    "fax.tif": (file_of(BLACK_AND_WHITE, "TIFF", compression="group4"), (0, 0, 0)),
    "progressive.jpg": (file_of(photo(), "JPEG", quality=95, subsampling=0, progressive=True), RED),
    "profile.png": (file_of(photo(), icc_profile=SRGB), RED),
    "one bit.png": (file_of(BLACK_AND_WHITE), (0, 0, 0)),
    "film.gif": (file_of(photo(), "GIF", **FILM), RED),
    "film.webp": (file_of(photo(), "WEBP", lossless=True, **FILM), RED),
    "tiff.tif": (file_of(photo(), "TIFF"), RED),
    "avif.avif": (file_of(photo(), "AVIF", quality=100), RED),
}
REFUSED_BY_SERVER = {"film.gif", "film.webp", "tiff.tif", "avif.avif", "big endian.tif", "fax.tif"}


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def check(image: Image.Image, name: str) -> None:
    expected = KINDS[name][1]
    assert image.size == (SIZE[::-1] if name == "turned.jpg" else SIZE), name
    assert image.mode in ("RGB", "L"), name
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels[2, 2] - expected).max() <= 6, (name, pixels[2, 2])
    assert np.abs(pixels[-3, -3] - 255).max() <= 6, (name, pixels[-3, -3])


Seen = list[Image.Image]


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> LocalPredictor:
    return LocalPredictor(tiny_checkpoint, dtype=torch.float32, device="cpu", batch_size=4)


@pytest.fixture
def seen(predictor: LocalPredictor, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The images that reach the model, in order."""
    images: Seen = []

    def look(model: object, processor: object, requests: Sequence[GenerationRequest], **_: object):  # type: ignore[no-untyped-def]
        images.extend(image for request in requests for image in request.images)
        generation = Generation("", (0,), (0.0,), "stop")
        for request in requests:
            if request.on_finish is not None:
                request.on_finish(generation)
        return [generation] * len(requests)

    monkeypatch.setattr(local, "generate", look)
    monkeypatch.setattr(routes, "generate", look)
    monkeypatch.setattr(command, "load_predictor", lambda options: predictor)
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for name, (encoded, _) in KINDS.items():
        (folder / name).write_bytes(encoded)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_preparation_and_reading_agree_and_reading_again_changes_nothing(name: str) -> None:
    encoded, _ = KINDS[name]
    image = open_image(encoded)
    check(image, name)
    assert open_image(image).tobytes() == image.tobytes()
    prepared = clean_image(encoded, ImageRules())
    again = open_image(prepared.encoded)
    check(again, name)
    # Prepared images are read as Pillow decodes them, so that runs on them do not change.
    with Image.open(io.BytesIO(prepared.encoded)) as plain:
        assert (again.mode, again.tobytes()) == (plain.mode, plain.tobytes())
    assert prepared.changes or again.tobytes() == image.tobytes()


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_upright(orientation: int) -> None:
    encoded = turned(orientation)
    with Image.open(io.BytesIO(encoded)) as image:
        upright = ImageOps.exif_transpose(image).tobytes()
    assert open_image(encoded).tobytes() == upright
    assert image_size(encoded) == open_image(encoded).size


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (file_of(Image.new("F", SIZE), "TIFF"), "mode 'F', .* save the image as RGB"),
        (file_of(Image.new("I", SIZE), "TIFF"), "mode 'I', .* save the image as RGB"),
        (KINDS["plain.jpg"][0][:400], "truncated image: 400 bytes"),
        (struct.pack(">8sI4sIIBBBBB", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", 2**31, 9, 8, 2, 0, 0, 0),
         "damaged image: 29 bytes end in the header"),
    ],
)  # fmt: skip
def test_what_has_no_known_pixels_is_rejected_alike(encoded: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as read:
        open_image(encoded)
    with pytest.raises(ValueError, match=reason) as prepared:
        clean_image(encoded, ImageRules())
    assert str(read.value) == str(prepared.value)


def test_sixteen_bit_colours_are_prepared_with_eight() -> None:
    encoded = deep_png(DEEP, 2)
    prepared = clean_image(encoded, ImageRules())
    assert prepared.changes == ("16-bit to 8-bit",)
    assert prepared.encoded.startswith(b"\xff\xd8")
    assert open_image(encoded).getpixel((2, 2)) == RED


def test_the_transparent_colour_of_a_png_has_as_many_bits_as_its_levels() -> None:
    row = np.array([1000, 2000, 3000], np.uint16)
    pixels = np.broadcast_to(row, (*SIZE[::-1], 3))
    assert open_image(deep_png(pixels, 2, row.tolist())).getpixel((0, 0)) == WHITE
    assert open_image(deep_png(pixels[..., 0], 0, [1000])).getpixel((0, 0)) == 255
    assert open_image(deep_png(pixels[..., 0], 0, [1001])).getpixel((0, 0)) == 4


def test_a_colour_profile_counts_in_prediction_as_in_preparation() -> None:
    encoded = file_of(photo(), icc_profile=SWAPPED)
    red, green, _ = open_image(encoded).getpixel((2, 2))  # type: ignore[misc]
    assert green > 150 > red
    prepared = np.asarray(open_image(clean_image(encoded, ImageRules()).encoded)).astype(int)
    assert np.abs(prepared - np.asarray(open_image(encoded))).max() <= 6


@pytest.mark.parametrize("door", ["path", "bytes", "file", "PIL", "sample", "stream"])
def test_the_predictor_sees_every_kind_alike(
    door: str, predictor: LocalPredictor, seen: Seen, folder: Path
) -> None:
    for name, (encoded, _) in KINDS.items():
        match door:
            case "path":
                predictor.predict(str(folder / name))
            case "bytes":
                predictor.predict(encoded)
            case "file":
                predictor.predict(io.BytesIO(encoded))
            case "PIL":
                predictor.predict(Image.open(io.BytesIO(encoded)))
            case "sample":
                sample = Sample(id=name, group="", images=(encoded,), record={})
                list(predictor.predict_samples([sample]))
            case "stream":
                list(predictor.stream(encoded))
        check(seen[-1], name)
    assert len(seen) == len(KINDS)


def test_the_command_sees_every_kind_alike(seen: Seen, folder: Path, tmp_path: Path) -> None:
    names = sorted(KINDS)
    assert main(["predict", "model", *(str(folder / name) for name in names)]) == 0
    assert main(["predict", "model", str(folder)]) == 0
    assert len(seen) == 2 * len(names)
    for name, image in zip([*names, *names], seen, strict=True):
        check(image, name)


def test_a_catalog_is_predicted_from_the_same_pixels(
    predictor: LocalPredictor, seen: Seen, folder: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    out = tmp_path / "out.parquet"
    summary = predict_catalog(folder, job_spec(str(tiny_checkpoint)), BatchConfig(out=out))
    assert (summary.rows, summary.errors) == (len(KINDS), {})
    read = [open_image(encoded) for encoded, _ in KINDS.values()]
    # A grey image is the same input in RGB, and equal inputs are predicted once.
    found, expected = (
        {(each.size, each.convert("RGB").tobytes()) for each in images} for images in (seen, read)
    )
    assert found == expected


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[str]:
    """A web server with the images."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, directory=str(folder), **options)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_server_sees_every_kind_alike(
    predictor: LocalPredictor, seen: Seen, host: str, folder: Path
) -> None:
    settings = Settings(batch_wait=0.0, allow_hosts=(host,))
    with TestClient(create_app(predictor, settings)) as client:
        for name, (encoded, _) in KINDS.items():
            kind = {"content-type": "image/jpeg"}
            data = f"data:image/png;base64,{base64.b64encode(encoded).decode()}"
            url = f"http://{host}/{name.replace(' ', '%20')}"
            chat = [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": each}}]}
                for each in (data, url)
            ]
            answers = [
                client.post("/v1/records", content=encoded, headers=kind),
                client.post("/v1/records", json={"image": data}),
                client.post("/v1/records", json={"image": url}),
                *(client.post("/v1/chat/completions", json={"messages": [each]}) for each in chat),
            ]
            expected = 400 if name in REFUSED_BY_SERVER else 200
            assert [each.status_code for each in answers] == [expected] * 5, (name, answers[0].text)
            if expected == 200:
                assert len(seen) == 5, name
                for image in seen:
                    check(image, name)
                seen.clear()
        assert not seen


@pytest.mark.parametrize("name", KINDS)
def test_another_server_is_sent_the_pixels_that_training_saw(name: str) -> None:
    encoded, _ = KINDS[name]
    _, _, text = _data_url(encoded, open_image(encoded)).partition(",")
    sent = base64.b64decode(text)
    with Image.open(io.BytesIO(sent)) as image:
        check(image, name)
    is_plain = name in ("plain.png", "plain.jpg", "profile.png", "progressive.jpg")
    assert (sent == encoded) == is_plain or name == "film.webp"


# A folder with unusable files.


def test_a_folder_is_predicted_whole_and_what_fails_is_named(
    seen: Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = file_of(photo()), KINDS["plain.jpg"][0][:400]
    files = {"a.png": good, "empty.jpg": b"", "cut.jpg": bad, "page.png": b"<html>", "p.heic": HEIC}
    files |= {"sub dir/ä #1 [x].PNG": good, "sub dir/deep/b.avif": KINDS["avif.avif"][0]}
    files |= {"thin.png": file_of(Image.new("RGB", (5000, 1))), "notes.txt": b"", ".hid.png": b"?"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    caplog.set_level("INFO", "phi_vision")
    assert main(["predict", "model", str(tmp_path), "--json"]) == 2
    printed = capsys.readouterr()
    predicted = [json.loads(line)["image"] for line in printed.out.splitlines()]
    assert predicted == [str(tmp_path / n) for n in ("a.png", "sub dir/deep/b.avif",
                                                      "sub dir/ä #1 [x].PNG")]  # fmt: skip
    *named, last = printed.err.splitlines()
    assert [line.removeprefix(f"error: {tmp_path}/").partition(": ")[0] for line in named] == [
        "cut.jpg",
        "empty.jpg",
        "p.heic",
        "page.png",
        "thin.png",
    ]
    assert "found a photo in HEIC, which `heif-convert IN.heic OUT.jpg` converts" in named[2]
    assert last == "phi-vision: error: 5 of 8 images have no prediction: see above"
    assert "1 file without an image's ending, such as notes.txt" in caplog.text


def test_a_folder_without_a_readable_image_fails_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    assert main(["predict", "no-such-model", str(tmp_path)]) == 2
    assert "2 of 2 images have no prediction" in capsys.readouterr().err
