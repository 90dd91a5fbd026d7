"""Drawn images show what the record says, in the size and weight that was planned."""

import io

import pytest
from PIL import Image

from phi_vision.synthetic.image_style import ImagePlan, choose_garment, draw_image


@pytest.mark.parametrize(
    ("texts", "colour", "kind", "drawn"),
    [
        (["Velta Trench Coat", "OUTERWEAR"], "Navy", "trench coat", "navy"),
        (["Cassius Sparring Tank", "Tanks"], "Gray", "tank top", "grey"),
        (["Idibuf", "Hoodies & Sweatshirts"], "Lilac", "hoodie", "purple"),
        (["Cotton Polo Shirt", "Tops"], "red", "polo shirt", "red"),
    ],
)
def test_words_decide_what_is_drawn(texts: list[str], colour: str, kind: str, drawn: str) -> None:
    garment = choose_garment(texts, colour, "", "seed")
    assert (garment.kind, garment.colour) == (kind, drawn)


def test_an_unknown_category_always_gets_the_same_kind_of_thing() -> None:
    kinds = {choose_garment(["Xu"], "", "Falconry", str(seed)).kind for seed in range(9)}
    assert len(kinds) == 1


@pytest.mark.parametrize(("width", "height"), [(96, 128), (40, 40), (1100, 400)])
def test_an_image_has_the_planned_size(width: int, height: int) -> None:
    garment = choose_garment(["Scarf"], "red", "", "seed")
    plan = ImagePlan(
        garment=garment, seed="a", width=width, height=height, density=0.2, format="JPEG"
    )
    encoded = draw_image(plan)
    assert Image.open(io.BytesIO(encoded)).size == (width, height)
    assert draw_image(plan) == encoded


def test_a_heavier_image_is_heavier() -> None:
    garment = choose_garment(["Scarf"], "red", "", "seed")
    plan = ImagePlan(garment=garment, seed="a", width=200, height=200, density=0.1, format="JPEG")
    sizes = [len(draw_image(plan._replace(density=density))) for density in (0.1, 0.3)]
    assert sizes == pytest.approx([4000, 12000], rel=0.15)
