"""`phi-vision serve`: answers over HTTP."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.model_options import add_model_options, load_predictor
from phi_vision.cli.options import Parser, add_fields, given_fields

if TYPE_CHECKING:
    from phi_vision.serving.settings import Settings

KEY_VARIABLE = "PHI_VISION_KEY"
"""Where the key is looked for, unless a file is given; an option would show it to everybody who
lists the processes of the machine."""

LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")
"""What the service needs beyond what everything needs."""


def add_options(parser: Parser) -> None:
    """Declare what `phi-vision serve` takes."""
    from phi_vision.serving.settings import Settings

    add_model_options(parser)
    add_fields(parser, Settings, {"": Settings()}, skip={"key", "batch_size"})
    key = (
        "file whose first line callers must send as a bearer token "
        f"(default: what {KEY_VARIABLE} holds; without either nobody is asked for a key)"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=key)


def run(options: argparse.Namespace) -> None:
    """Answer over HTTP: OpenAI's chat, records with confidences, and a page to try it on."""
    settings = chosen_settings(options)
    demand_libraries()

    from phi_vision.serving.server import bind, is_loopback, serve

    with bind(settings) as listener:
        predictor = load_predictor(options)
        if settings.key is None and not is_loopback(listener):
            print(
                f"warning: whoever reaches {settings.host} can use this server; "
                f"give --key-file or {KEY_VARIABLE}",
                file=sys.stderr,
            )

        def announce(address: str) -> None:
            print(f"{options.model} answers at {address} (Ctrl-C ends)", flush=True)

        serve(predictor, settings, listener=listener, announce=announce)


def demand_libraries() -> None:
    """Say what to install before anything is loaded.

    Raises:
        ValueError: A library is not installed.
    """
    if missing := [library for library in LIBRARIES if find_spec(library) is None]:
        raise ValueError(
            f"the service needs {', '.join(missing)}, which is not installed; "
            "pip install 'phi-vision[serve]'"
        )


def chosen_settings(options: argparse.Namespace) -> "Settings":
    """Put together what was given and the defaults.

    Raises:
        ValueError: A setting cannot work, or the key cannot be read.
    """
    from phi_vision.serving.settings import Settings

    given = given_fields(options, Settings)
    return Settings(**given, key=find_key(options.key_file))


def find_key(file: Path | None) -> str | None:
    """Read the key from its file, or from the environment.

    Raises:
        ValueError: Both are there and differ, or the one that is there is empty.
    """
    from_environment = os.environ.get(KEY_VARIABLE)
    if file is None:
        key, where = from_environment, KEY_VARIABLE
    else:
        lines = file.read_text(encoding="utf-8").splitlines()
        key, where = lines[0].strip() if lines else "", str(file)
    if key is not None and not key:
        raise ValueError(f"there is no key in {where}: found nothing; put one there, or unset it")
    if file is not None and from_environment not in (None, key):
        raise ValueError(f"{KEY_VARIABLE} and {file} hold different keys; keep one of them")
    return key
