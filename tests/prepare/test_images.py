"""Images of every kind that exports hold: made plain, or refused with a reason."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from phi_vision.io.image_decoding import open_image
from phi_vision.prepare.images import ImageRules, clean_image

RULES = ImageRules()
RED, BLUE, WHITE = (200, 40, 30), (20, 90, 160), (255, 255, 255)


def photo(size: tuple[int, int] = (120, 80)) -> Image.Image:
    """Red in the upper left corner, a blue disc at the right, white paper."""
    width, height = size
    image = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 3, height // 3), fill=RED)
    draw.ellipse((width // 2, height // 3, width - 10, height - 5), fill=BLUE)
    return image


def file_of(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A black PNG whose header says what it likes; its pixels are those of 80×80."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(80 * 241)))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def cleaned(encoded: bytes, rules: ImageRules = RULES) -> tuple[Image.Image, tuple[str, ...]]:
    """The image as a reader of the dataset gets it, and what was done to it."""
    made = clean_image(encoded, rules)
    image = open_image(made.encoded)
    assert image.size == (made.width, made.height)
    assert image.mode in ("RGB", "L")
    return image, made.changes


def same_colour(found: float | tuple[int, ...] | None, expected: tuple[int, int, int]) -> bool:
    levels = np.broadcast_to(np.asarray(found, dtype=float), 3)
    return bool(np.abs(levels - expected).max() <= 4)  # JPEG's rounding


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_image_is_kept_byte_for_byte(format: str, mode: str) -> None:
    encoded = file_of(photo().convert(mode), format)
    image = clean_image(encoded, RULES)
    assert image.encoded == encoded
    assert image.changes == ()


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [
        # Where the red corner of the stored pixels belongs: left or right, top or bottom.
        (1, (120, 80), (5, 5)),
        (2, (120, 80), (-5, 5)),
        (3, (120, 80), (-5, -5)),
        (4, (120, 80), (5, -5)),
        (5, (80, 120), (5, 5)),
        (6, (80, 120), (-5, 5)),
        (7, (80, 120), (-5, -5)),
        (8, (80, 120), (5, -5)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_rotated_by_its_exif_orientation(
    orientation: int, size: tuple[int, int], corner: tuple[int, int], format: str
) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    image, changes = cleaned(file_of(photo(), format, exif=exif))
    assert image.size == size
    assert same_colour(image.getpixel((corner[0] % size[0], corner[1] % size[1])), RED)
    assert changes == (() if orientation == 1 else ("turned by EXIF",))


def test_an_odd_orientation_leaves_the_image_alone() -> None:
    exif = Image.Exif()
    exif[0x112] = 99
    encoded = file_of(photo(), "JPEG", exif=exif)
    assert clean_image(encoded, RULES).encoded == encoded


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_broken_exif_is_dropped_so_that_other_readers_do_not_stumble_over_it(format: str) -> None:
    encoded = file_of(photo(), format, exif=b"Exif\0\0garbage!")
    image, changes = cleaned(encoded)
    assert changes == ("broken EXIF dropped",)
    assert same_colour(image.getpixel((5, 5)), RED)


def test_cmyk_is_read_with_and_without_the_adobe_mark_as_browsers_read_it() -> None:
    adobe = file_of(photo().convert("CMYK"), "JPEG", quality=95)
    at = adobe.index(b"\xff\xee")
    bare = adobe[:at] + adobe[at + 2 + struct.unpack(">H", adobe[at + 2 : at + 4])[0] :]
    assert b"Adobe" in adobe
    assert b"Adobe" not in bare
    for encoded in (adobe, bare):
        image, changes = cleaned(encoded)
        assert changes == ("CMYK to RGB",)
        assert same_colour(image.getpixel((5, 5)), RED)
        assert same_colour(image.getpixel((115, 5)), WHITE)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(format: str) -> None:
    ramp = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16)[None], 64, axis=0)
    image, changes = cleaned(file_of(Image.fromarray(ramp), format))
    assert changes[0] == "16-bit to 8-bit"
    levels = np.asarray(image)[32].astype(int)
    assert np.abs(levels - np.linspace(0, 255, 64)).max() <= 3


def test_a_palette_becomes_rgb_and_its_transparent_entry_white() -> None:
    palette = photo().quantize(8)
    image, changes = cleaned(file_of(palette))
    assert changes == ("palette to RGB",)
    assert same_colour(image.getpixel((5, 5)), RED)
    image, changes = cleaned(file_of(palette, transparency=palette.getpixel((5, 5))))
    assert changes == ("alpha over white",)
    assert same_colour(image.getpixel((5, 5)), WHITE)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white_and_not_over_what_hides_behind_it(format: str) -> None:
    see_through = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    see_through.paste((200, 40, 30, 255), (0, 0, 32, 64))
    image, changes = cleaned(file_of(see_through, format))
    assert changes[0] == "alpha over white"
    assert same_colour(image.getpixel((10, 30)), RED)
    assert same_colour(image.getpixel((50, 30)), WHITE)


def test_grey_with_alpha_and_grey_with_a_transparent_level_become_opaque() -> None:
    half = Image.new("LA", (64, 64), (0, 128))
    image, changes = cleaned(file_of(half))
    assert changes == ("alpha over white",)
    assert same_colour(image.getpixel((10, 10)), (127, 127, 127))
    grey = Image.new("L", (64, 64), 10)
    grey.paste(90, (40, 40, 64, 64))
    image, changes = cleaned(file_of(grey, transparency=10))
    assert changes == ("alpha over white",)
    assert same_colour(image.getpixel((10, 10)), WHITE)


def test_black_and_white_becomes_grey() -> None:
    image, changes = cleaned(file_of(photo().convert("1")))
    assert changes == ("black and white to grey",)
    assert image.mode == "L"


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("GIF", ("palette to RGB", "first frame of several", "GIF to JPEG")),
        ("WEBP", ("first frame of several",)),
        ("PNG", ("first frame of several",)),
        ("AVIF", ("first frame of several", "AVIF to JPEG")),
        ("TIFF", ("first frame of several", "TIFF to JPEG")),
    ],
)
def test_of_an_animation_the_first_frame_is_kept(format: str, expected: tuple[str, ...]) -> None:
    frames = [Image.new("RGB", (120, 80), colour) for colour in ("green", "blue")]
    encoded = file_of(photo(), format, save_all=True, append_images=frames)
    image, changes = cleaned(encoded)
    assert changes == expected
    assert same_colour(image.getpixel((5, 5)), RED)


def test_the_depth_map_behind_a_phone_photo_does_not_count() -> None:
    encoded = file_of(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (120, 80))])
    image = clean_image(encoded, RULES)
    assert image.encoded == encoded
    assert image.changes == ()


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_formats_that_not_every_reader_knows_become_jpeg(format: str) -> None:
    image = clean_image(file_of(photo(), format), RULES)
    assert image.encoded.startswith(b"\xff\xd8\xff")
    assert image.changes[-1] == f"{format} to JPEG"


def test_another_colour_space_becomes_srgb_and_srgb_by_any_name_is_kept() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    named = file_of(photo(), "JPEG", icc_profile=srgb)
    assert clean_image(named, RULES).encoded == named
    # A profile that says "what is called red here is green": the sRGB one, two entries exchanged.
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    image, changes = cleaned(file_of(photo(), "PNG", icc_profile=swapped))
    assert changes == ("colour profile to sRGB",)
    red, green, _ = image.getpixel((5, 5))  # type: ignore[misc]
    assert green > 150 > red
    assert "icc_profile" not in image.info


def test_a_broken_colour_profile_is_ignored_as_browsers_do() -> None:
    encoded = file_of(photo(), "JPEG", icc_profile=b"no profile at all")
    assert clean_image(encoded, RULES).changes == ()


def test_a_large_image_is_scaled_down_to_the_longest_side() -> None:
    rules = ImageRules(longest_side=300)
    image, changes = cleaned(file_of(photo((900, 600)), "JPEG"), rules)
    assert image.size == (300, 200)
    assert changes == ("scaled down",)
    assert same_colour(image.getpixel((20, 20)), RED)


def reason(encoded: bytes, rules: ImageRules = RULES) -> str:
    with pytest.raises(ValueError, match=": ") as caught:
        clean_image(encoded, rules)
    return str(caught.value).partition(": ")[0]


BOMB = zlib.compress(bytes(100_000_000))
REFUSED = {
    "no bytes": (b"", "empty image"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "not an image"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "pdf": (b"%PDF-1.7", "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "not an image"),
    "words": (b"404 not found", "not an image"),
    "jpeg without its end": (file_of(photo(), "JPEG")[:-300], "truncated image"),
    "png without its end": (file_of(photo(), "PNG")[:-60], "truncated image"),
    "png without its middle": (file_of(photo(), "PNG")[:12], "damaged image"),
    "png with a flipped bit": (png(80, 80).replace(b"IDATx", b"IDATy"), "damaged image"),
    "10×10": (file_of(Image.new("RGB", (10, 10))), "too small"),
    "27×100": (file_of(Image.new("RGB", (27, 100))), "too small"),
    "1×5000": (file_of(Image.new("RGB", (1, 5000))), "too narrow"),
    "900×100": (file_of(Image.new("RGB", (900, 100))), "too narrow"),
    "20000×20000": (png(20_000, 20_000), "too many pixels"),
    "15000×10000": (png(15_000, 10_000), "too many pixels"),
    "4 billion squared": (png(2**31 - 1, 2**31 - 1), "too many pixels"),
    "bomb in the profile": (png(80, 80, before=chunk(b"iCCP", b"x\0\0" + BOMB)), "damaged image"),
    "bomb in the text": (png(80, 80, before=chunk(b"zTXt", b"x\0\0" + BOMB)), "damaged image"),
    "bomb at the end": (
        png(80, 80, after=chunk(b"iTXt", b"x\0\1\0\0\0" + BOMB)),
        "damaged image",
    ),
    "32-bit floats": (file_of(Image.fromarray(np.zeros((80, 80), np.float32)), "TIFF"), "unknown"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_images_are_rejected_with_their_reason(name: str) -> None:
    encoded, expected = REFUSED[name]
    assert reason(encoded).startswith(expected)


def test_a_photo_of_a_phone_says_how_it_is_converted() -> None:
    with pytest.raises(ValueError, match=r"a photo in HEIC, which `heif-convert IN.heic OUT.jpg`"):
        clean_image(REFUSED["heic"][0], RULES)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_an_image_cut_anywhere_is_rejected_or_read_and_never_fails_otherwise(format: str) -> None:
    encoded = file_of(photo(), format)
    for length in range(0, len(encoded), max(1, len(encoded) // 40)):
        with contextlib.suppress(ValueError):
            clean_image(encoded[:length], RULES)


def test_a_bomb_is_rejected_from_its_header_before_its_pixels_are_looked_at() -> None:
    # Its pixel data are missing: decoding would find that first.
    assert reason(png(20_000, 20_000)[:45]) == "too many pixels"
    assert reason(file_of(photo()), ImageRules(max_pixels=9_599)) == "too many pixels"
    assert clean_image(file_of(photo()), ImageRules(max_pixels=9_600)).width == 120


def test_a_jpeg_that_draws_itself_a_thousand_times_is_rejected() -> None:
    encoded = file_of(photo(), "JPEG", progressive=True)
    last = encoded.rindex(b"\xff\xda")
    assert reason(encoded[:last] + encoded[last:-2] * 1000 + b"\xff\xd9") == "too many scans"


def test_cleaning_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # 9500×10000 pixels are more than Pillow likes and fewer than the rules allow.
        assert reason(png(9_500, 10_000)) == "truncated image"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_pixels", 0),
        ("max_pixels", 10**9),
        ("longest_side", 70_000),
        ("longest_side", 20),
        ("max_aspect", 0.5),
        ("quality", 101),
    ],
)
def test_rules_that_could_not_take_effect_are_an_error(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is|{field} {value}"):
        ImageRules(**{field: value})  # type: ignore[arg-type]


def test_the_same_pixels_have_the_same_digest_whatever_the_file() -> None:
    grey = photo().convert("L").convert("RGB")
    files = [file_of(grey, format) for format in ("PNG", "BMP", "TIFF")]
    files += [file_of(grey.convert("L")), file_of(grey, "WEBP", lossless=True)]
    assert len({clean_image(encoded, RULES).digest for encoded in files}) == 1
    assert clean_image(file_of(photo()), RULES).digest not in {
        clean_image(encoded, RULES).digest for encoded in files
    }


def test_cleaning_again_changes_nothing() -> None:
    once = clean_image(file_of(photo().convert("CMYK"), "TIFF"), RULES)
    twice = clean_image(once.encoded, RULES)
    assert twice.encoded == once.encoded
    assert twice.changes == ()


def test_a_white_logo_on_transparency_is_no_blank_sample() -> None:
    logo = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    logo.paste((255, 255, 255, 255), (16, 16, 48, 48))
    file = io.BytesIO()
    logo.save(file, "PNG")
    with pytest.raises(ValueError, match=r"^blank image: nothing is visible over white"):
        clean_image(file.getvalue(), ImageRules())
