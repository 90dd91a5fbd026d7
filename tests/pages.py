"""What the tests of docs/*.md share: how a page is taken apart, and how its commands are typed."""

import re
import shlex

from phi_vision.cli.main import main

FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
"""Language and script of a fence."""


def type_commands(script: str) -> None:
    """Run lines that begin with `phi-vision` in this process, which has imported everything."""
    for line in script.splitlines():
        assert main(shlex.split(line, comments=True)[1:]) == 0, line


def numbers_beside(text: str, facts: list[str]) -> list[str]:
    """Find the numbers of prose that no fact accounts for; what stands in backticks is a name.

    Input:  "A first of 3, and `x1` of 4.", ["of 3"]
    Output: ["4."]

    Raises:
        AssertionError: A fact is not in the text.
    """
    for fact in sorted(facts, key=len, reverse=True):
        assert fact in text, fact
        text = text.replace(fact, "")
    found: list[str] = re.findall(r"\S*\d\S*", re.sub(r"`[^`]*`", "", text))
    return found
