"""What a data set says of itself: licence, description, homepage and citation, as given."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from phi_vision.prepare.sources.lines import open_text

NOTES = ("license", "description", "homepage", "citation")
INFO_FILE = "dataset_info.json"
_LONGEST = 2000  # characters: a README can be a book


def read_notes(folder: Path) -> dict[str, str]:
    """Read what a folder says of itself, in dataset_info.json and in the head of README.md.

    Input:  README.md beginning with "---", "license: cc-by-4.0", "---", "# Coats", "Photos."
    Output: {"license": "cc-by-4.0", "description": "Photos."}
    """
    notes: dict[str, str] = {}
    readme = folder / "README.md"
    if readme.is_file():
        with open_text(readme, "utf-8-sig") as stream:
            notes = read_card(stream.read(100_000))
    info = folder / INFO_FILE
    if info.is_file():
        notes |= given_notes(read_json_object(info))
    return notes


def read_card(text: str) -> dict[str, str]:
    """Read the YAML head of a data card, and its first paragraph as the description."""
    body, head = text, {}
    if text.startswith("---\n") and "\n---" in text[3:]:
        written, _, body = text[4:].partition("\n---")
        try:
            head = yaml.safe_load(written)
        except yaml.YAMLError:
            head = {}  # a head that a person wrote wrongly says nothing; the data is still good
    paragraphs = [part.strip() for part in body.split("\n\n")]
    plain = [part for part in paragraphs if part and part[0] not in "#<[!|-`"]
    notes = {"description": " ".join(plain[0].split())} if plain else {}
    return notes | (given_notes(head) if isinstance(head, dict) else {})


def given_notes(said: Mapping[str, object]) -> dict[str, str]:
    """Keep the notes that say something; a licence of no known name by its own name.

    Input:  {"license": "other", "license_name": "house rules", "homepage": ""}
    Output: {"license": "house rules"}
    """
    found = {name: said.get(name) for name in NOTES}
    if found["license"] in (None, "", "other") and said.get("license_name"):
        found["license"] = said["license_name"]
    texts = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in found.items()
        if value
    }
    return {name: text.strip()[:_LONGEST] for name, text in texts.items()}


def read_json_object(file: Path) -> dict[str, object]:
    """Read a small JSON file that describes others.

    Raises:
        ValueError: It holds no JSON object.
    """
    try:
        said = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}; write the data set again") from error
    if not isinstance(said, dict):
        raise ValueError(f"cannot read {file}: found no object in it; write the data set again")
    return said
