"""docs/cli.md is what `--help` says. `make docs` writes it anew, from what this file prints."""

import os
from pathlib import Path

from phi_vision.cli.main import COMMANDS, command_parser, front_parser

REFERENCE = Path(__file__).parents[1] / "docs" / "cli.md"
OPENING = """\
# The command line

Every command with its options, as `--help` prints them. Written by `make docs`; a test compares.
"""


def reference() -> str:
    os.environ["COLUMNS"] = "100"  # argparse wraps to the terminal's width
    parts = [OPENING]
    for parser in [front_parser(), *map(command_parser, COMMANDS)]:
        parts.append(f"## {parser.prog}\n\n```text\n{parser.format_help()}```\n")
    return "\n".join(parts)


def test_the_reference_equals_the_help_texts() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run `make docs`"


if __name__ == "__main__":
    print(reference(), end="")
