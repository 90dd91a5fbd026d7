"""`phi-vision serve`: an HTTP server for a model."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.options import Parser, add_fields, add_listed, failure, given_fields
from phi_vision.cli.predict import load_predictor
from phi_vision.io.process import check_installed

if TYPE_CHECKING:
    from phi_vision.serving.settings import Settings

# Environment variable of the key. An option would show the key in the list of processes.
KEY_VARIABLE = "PHI_VISION_KEY"
LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")  # of the extra `serve`


def add_options(parser: Parser) -> None:
    """Declare the options of `phi-vision serve`."""
    from phi_vision.serving.settings import Settings

    add_listed(parser, "model")
    add_fields(parser, Settings, {"": Settings()}, skip={"key", "batch_size"})
    add_listed(parser, "serve", variable=KEY_VARIABLE)


def run(options: argparse.Namespace) -> None:
    """Serve a model over HTTP: OpenAI's chat API, records with confidence, and a demo page."""
    settings = settings_from(options)
    for library in LIBRARIES:
        check_installed(library, "phi-vision[serve]", "the server")
    from phi_vision.serving.server import bind, is_loopback, serve

    with bind(settings) as listener:
        predictor = load_predictor(options)
        if settings.key is None and not is_loopback(listener):
            print(
                f"warning: anyone who can connect to {settings.host} can use this server; "
                f"set --key-file or {KEY_VARIABLE}",
                file=sys.stderr,
            )

        def announce(url: str) -> None:
            print(f"serving {options.model} at {url} (Ctrl-C to stop)", flush=True)

        serve(predictor, settings, listener=listener, announce=announce)


def settings_from(options: argparse.Namespace) -> "Settings":
    """Build the settings from the options and the key."""
    from phi_vision.serving.settings import Settings

    return Settings(**given_fields(options, Settings), key=find_key(options.key_file))


def find_key(file: Path | None) -> str | None:
    """Read the key from its file or from the environment; both, if set, must agree."""
    from_environment = os.environ.get(KEY_VARIABLE)
    if file is None:
        key, where = from_environment, KEY_VARIABLE
    else:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        key, where = lines[0].strip() if lines else "", str(file)
    if key == "":
        raise failure("no_key", where=where)
    if file is not None and from_environment not in (None, key):
        raise ValueError(f"{KEY_VARIABLE} and {file} hold different keys; keep one of them")
    return key
