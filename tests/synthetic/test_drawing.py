"""The drawn products: recognisable facts, whole in the image, the same for the same seed."""

import io
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from phi_vision.synthetic.drawing import (
    CHOICES,
    COLOURS,
    KINDS,
    MATERIALS,
    PATTERNS,
    SHAPES,
    Scene,
    draw,
    encode,
    mirror,
    random_garment,
    random_scene,
)

_SCENE = Scene(
    width=300,
    height=400,
    background="white",
    tint=(230, 230, 230),
    light=0.0,
    contrast=1.0,
    exposure=1.0,
    warmth=0.0,
    rotation=0.0,
    scale=0.85,
    offset=(0.0, 0.0),
    flip=False,
    shadow=0.0,
    hanger=False,
    quality=90,
    noise=0.0,
    seed=0,
)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.int16)


def test_a_half_outline_is_closed_by_its_mirror_image() -> None:
    assert mirror("0 -10 L 20 0 L 0 10") == "M0 -10 L 20 0 L 0 10 L0 10 L-20 0 L0 -10 Z"


def test_every_kind_has_a_shape_and_there_are_at_least_24() -> None:
    assert set(SHAPES) == set(KINDS)
    assert len(KINDS) >= 24


def test_the_choices_of_a_kind_are_in_the_vocabulary() -> None:
    for choices in CHOICES.values():
        assert set(choices.materials) <= set(MATERIALS)
        assert set(choices.patterns) <= set(PATTERNS)
        assert set(choices.colours) <= set(COLOURS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_garment_stays_within_the_choices_of_its_kind(kind: str) -> None:
    rng = random.Random(kind)
    for garment in (random_garment(rng, kind) for _ in range(20)):
        choices = CHOICES[kind]
        assert garment.kind == kind
        assert garment.material in choices.materials
        assert garment.pattern in (*choices.patterns, "plain")
        assert garment.trim in choices.trims
        assert garment.hardware in choices.hardware


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_drawn_whole(kind: str) -> None:
    # On white, every pixel of the border is background: nothing is cut off by box or image.
    for number in range(3):
        garment = random_garment(random.Random(f"{kind} {number}"), kind)
        drawn = _pixels(draw(garment, replace(_SCENE, hanger=True), longest_side=120))
        border = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
        assert border.min() >= 250
        assert (drawn.min(axis=2) < 245).mean() > 0.04


def test_the_same_facts_and_scene_draw_the_same_bytes() -> None:
    def drawn_bytes(seed: int) -> bytes:
        rng = random.Random(seed)
        garment, scene = random_garment(rng), random_scene(rng)
        return encode(draw(garment, scene), scene)

    assert drawn_bytes(3) == drawn_bytes(3)
    assert drawn_bytes(3) != drawn_bytes(4)


def test_longest_side_scales_the_image() -> None:
    garment = random_garment(random.Random(0), "boot")
    assert draw(garment, _SCENE).size == (300, 400)
    assert draw(garment, _SCENE, longest_side=200).size == (150, 200)


def test_a_smaller_drawing_shows_the_same_image() -> None:
    garment = random_garment(random.Random(1), "blazer")
    small = draw(garment, _SCENE, longest_side=100)
    shrunk = draw(garment, _SCENE).resize(small.size, Image.Resampling.LANCZOS)
    # Outlines fall on other pixels: a mean of 12 of 255 levels is far below any change of facts.
    assert np.abs(_pixels(small) - _pixels(shrunk)).mean() < 12


@pytest.mark.parametrize(
    ("fact", "values"),
    [
        ("pattern", ("plain", "striped", "checked", "dotted", "floral")),
        ("material", ("cotton", "denim", "wool", "knit", "silk", "leather", "tweed")),
        ("trim", ("none", "contrast", "monogram", "embroidery")),
        ("colour", ("red", "navy", "yellow")),
    ],
)
def test_each_fact_is_visible(fact: str, values: tuple[str, ...]) -> None:
    chosen = random_garment(random.Random(0), "t-shirt")
    dyed = replace(chosen, colour="red", rgb=COLOURS["red"])
    plain = replace(dyed, material="cotton", pattern="plain", trim="none")
    seen = []
    for value in values:
        garment = replace(plain, **{fact: value})  # type: ignore[arg-type]
        if fact == "colour":
            garment = replace(garment, rgb=COLOURS[value])
        seen.append(_pixels(draw(garment, _SCENE, longest_side=160)))
    for index, one in enumerate(seen):
        for other in seen[index + 1 :]:
            assert (np.abs(one - other).max(axis=2) > 12).mean() > 0.01


def test_hardware_is_visible() -> None:
    garment = random_garment(random.Random(0), "belt")
    silver, gold = (
        _pixels(draw(replace(garment, hardware=metal), _SCENE, longest_side=160))
        for metal in ("silver", "gold")
    )
    assert (np.abs(silver - gold).max(axis=2) > 40).sum() > 30


def test_scenes_differ_in_size_shape_and_compression() -> None:
    scenes = [random_scene(random.Random(seed)) for seed in range(200)]
    assert all(260 <= side <= 640 for scene in scenes for side in (scene.width, scene.height))
    assert {scene.background for scene in scenes} == {"white", "grey", "tinted", "textured"}
    assert len({round(scene.width / scene.height, 1) for scene in scenes}) >= 4
    assert len({scene.quality for scene in scenes}) >= 20


def test_encoding_writes_a_jpeg_of_the_drawn_size() -> None:
    garment = random_garment(random.Random(2))
    image = Image.open(io.BytesIO(encode(draw(garment, _SCENE), _SCENE)))
    assert (image.format, image.size, image.mode) == ("JPEG", (300, 400), "RGB")
