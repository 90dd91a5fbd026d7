"""docs/openapi.json is what a server says at `/openapi.json`. `make docs` writes it anew."""

import json
from pathlib import Path

from phi_vision.inference.local import LocalPredictor
from phi_vision.serving.server import create_app
from phi_vision.serving.settings import Settings

REFERENCE = Path(__file__).parents[1] / "docs" / "openapi.json"


def described() -> str:
    """The description by a server with the usual settings and a key, as JSON."""
    app = create_app(LocalPredictor("phi-vision-small"), Settings(key="key"))
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def test_the_reference_is_what_a_server_describes() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == described(), "run `make docs`"


if __name__ == "__main__":
    print(described(), end="")
