"""The model that is served, a photo of its data, and a server around it."""

import base64
import io

import pytest
import torch
from PIL import Image
from toy_products import draw_product

from phi_vision.inference.local import LocalPredictor


@pytest.fixture(scope="session")
def small() -> LocalPredictor:
    """Trained weights: where the likeliest token is hardly likelier than the next, sums in another
    order, as in a batch, make it another."""
    torch.set_num_threads(1)
    return LocalPredictor("phi-vision-small", dtype=torch.float32)


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A drawn product as a PNG."""
    return draw_product("red", "HATS", (120, 160))


@pytest.fixture(scope="session")
def image(photo: bytes) -> Image.Image:
    """The same, decoded."""
    return Image.open(io.BytesIO(photo))


@pytest.fixture(scope="session")
def address(photo: bytes) -> str:
    """The same, as a data: address."""
    return f"data:image/png;base64,{base64.b64encode(photo).decode()}"
