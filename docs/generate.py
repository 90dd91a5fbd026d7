"""Hooks of MkDocs: what comes from the code is filled into the pages, and llms.txt is written.

A page asks for a part with a line `<!-- generated: NAME -->`, NAME one of `PARTS`. Beside each page
stands its Markdown, for programs: `llms.txt` (https://llmstxt.org) lists them in the order of the
navigation. Links to source files, which the site does not hold, become their words.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import docstring_parser
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

from phi_vision.training.recipes import RECIPES, Recipe, recipe_fields

DOCS = Path(__file__).parent
MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)\s]+\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)\s]*\)")
FENCE = re.compile(r"^```.*?^```\n", re.MULTILINE | re.DOTALL)
PHOTOGRAPH = re.compile(r'<img src="(https:[^"]+)"[^>]* alt="([^"]+)">')

Schema = Mapping[str, Any]

_read: dict[str, str] = {}
"""File of a page -> its Markdown, generated parts included."""
_navigation: list[Navigation] = []


def on_nav(nav: Navigation, **_: object) -> Navigation:
    """Keep the navigation for llms.txt."""
    _navigation[:] = [nav]
    return nav


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Fill in generated parts, and unlink source files."""
    filled = MARK.sub(lambda mark: _part(mark[1], page.file.src_uri), markdown)
    _read[page.file.src_uri] = unlinked = OUTSIDE.sub(r"\1", filled)
    return unlinked


def on_post_build(config: MkDocsConfig, **_: object) -> None:
    """Write llms.txt and the Markdown of each page."""
    site = Path(config.site_dir)
    for name, markdown in _read.items():
        (site / name).write_text(markdown, encoding="utf-8")
    text = llms_text(_navigation[0], str(config.site_name), str(config.site_description))
    (site / "llms.txt").write_text(text, encoding="utf-8")


def _part(name: str, page: str) -> str:
    if name not in PARTS:
        raise PluginError(f"{page} asks for the part {name!r}; there are {', '.join(PARTS)}")
    return PARTS[name]()


def llms_text(nav: Navigation, name: str, description: str) -> str:
    """Write llms.txt: a title, one sentence, and each section with its pages as links.

    Output: # phi-vision … ## Train … - [My GPU](gpu.md): Train the official checkpoint on a GPU.
    """
    pages = [item for item in nav.items if isinstance(item, Page)]
    lines = [f"# {name}", "", f"> {description}", "", *map(_entry, pages)]
    for section in (item for item in nav.items if isinstance(item, Section)):
        found = [page for page in nav.pages if section in page.ancestors]
        lines += ["", f"## {section.title}", "", *map(_entry, found)]
    return "\n".join(lines) + "\n"


def _entry(page: Page) -> str:
    sentence = first_sentence(page.markdown or "")
    return f"- [{unescape(str(page.title))}]({page.file.src_uri}): {sentence}"


def first_sentence(markdown: str) -> str:
    """Find the first sentence of a page's prose, without links.

    Input:  "# My GPU\\n\\nTrain the [official](x.md) checkpoint. More."
    Output: "Train the official checkpoint."
    """
    for paragraph in FENCE.sub("\n", markdown).split("\n\n"):
        text = " ".join(LINK.sub(r"\1", paragraph).split())
        if text and text[0] not in "#<!|-:":
            return re.split(r"(?<=[.?]) ", text)[0].rstrip(":")
    return ""


# Recipes


def recipe_table() -> str:
    """Write a table of the recipes: what each trains, and the values in which it differs."""
    plain = {field.name: field.default for field in dataclasses.fields(Recipe)}
    rows = ["| recipe | what it does | sets |", "|---|---|---|"]
    for name, make in RECIPES.items():
        words = docstring_parser.parse_from_object(make).short_description or ""
        values = recipe_fields(make())
        changed = [
            f"`{field}` {_value(value)}"
            for field, value in values.items()
            if field not in ("method", "output_dir") and value != plain.get(field)
        ]
        rows.append(f"| `{name}` | {_cell(words)} | {', '.join(changed)} |")
    return "\n".join(rows)


def recipe_field_list() -> str:
    """Write each field of a recipe under a heading of its own, with default and description."""
    described = docstring_parser.parse_from_object(Recipe).params
    words = {each.arg_name: " ".join((each.description or "").split()) for each in described}
    parts = []
    for field in dataclasses.fields(Recipe):
        presets = {name: recipe_fields(make()).get(field.name) for name, make in RECIPES.items()}
        option = f"`--{field.name.replace('_', '-')}` · " if field.name not in NO_OPTION else ""
        line = f"{option}{_defaults(presets)}"
        parts.append(f"### {field.name}\n\n{words[field.name]}\n\n{line}" if line else "")
        if field.name == "further":
            parts[-1] = f"### further\n\n{words['further']}"
    return "\n\n".join(parts)


NO_OPTION = ("method", "objective", "further")
"""Fields that a recipe's name decides, and the one whose entries are options themselves."""


def _defaults(presets: Mapping[str, object]) -> str:
    """Format defaults by recipe: "default 2e-05 (full), 0.0002 (lora, qlora)"."""
    groups: dict[str, list[str]] = {}
    for name, value in presets.items():
        groups.setdefault(_value(value), []).append(name)
    if len(groups) == 1:
        return f"default {next(iter(groups))}"
    return "default " + ", ".join(
        f"{value} ({', '.join(names)})" for value, names in groups.items()
    )


def _value(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


# HTTP


def http_routes() -> str:
    """Write each route of docs/openapi.json: parameters, request, responses."""
    parts = []
    for path, operations in _openapi()["paths"].items():
        for method, operation in operations.items():
            parts.append(f"## {method.upper()} {path}\n\n{operation['description']}")
            parts += _parameters(operation)
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                parts.append(f"Request, `{kind}`: {_kind(content['schema'], top=True)}")
            parts.append(_responses(operation["responses"]))
    return "\n\n".join(parts)


def http_objects() -> str:
    """Write each object of docs/openapi.json with its fields."""
    openapi = _openapi()
    record = openapi["paths"]["/v1/records"]["post"]["requestBody"]["content"]
    objects = openapi["components"]["schemas"]
    objects = {"RecordRequest": record["application/json"]["schema"]} | objects
    return "\n\n".join(
        f"### {name}\n\n{schema.get('description', '')}\n\n{_fields(schema)}"
        for name, schema in sorted(objects.items())
    )


def _openapi() -> dict[str, Any]:
    described: dict[str, Any] = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    return described


def _parameters(operation: Schema) -> Iterator[str]:
    if found := operation.get("parameters"):
        rows = ["| parameter | in | type |", "|---|---|---|"]
        rows += [f"| `{p['name']}` | {p['in']} | {_kind(p['schema'])} |" for p in found]
        yield "\n".join(rows)


def _responses(responses: Mapping[str, Schema]) -> str:
    rows = ["| status | response | body |", "|---|---|---|"]
    for status, response in sorted(responses.items()):
        bodies = [
            f"{_kind(content['schema'])} as `{kind}`"
            for kind, content in response.get("content", {}).items()
        ]
        rows.append(f"| {status} | {_cell(response['description'])} | {' or '.join(bodies)} |")
    return "\n".join(rows)


def _fields(schema: Schema) -> str:
    rows = ["| field | type | default | what |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        default = "required" if name in required else default
        words = _cell(field.get("description", ""))
        rows.append(f"| `{name}` | {_kind(field)} | {default} | {words} |")
    return "\n".join(rows)


def _kind(schema: Schema, *, top: bool = False) -> str:
    """Describe a JSON schema in words: "list of [TextPart](#textpart)", "whole number from 1"."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if top and schema.get("title") == "RecordRequest":
        return "[RecordRequest](#recordrequest)"
    for join in ("anyOf", "oneOf"):
        if join in schema and "properties" not in schema:
            return " or ".join(dict.fromkeys(map(_kind, schema[join])))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{json.dumps(value)}`" for value in values)
    kinds = schema.get("type", "any value")
    if schema.get("format") == "binary":
        return "the bytes of an image"
    words = [_typed(kind, schema) for kind in (kinds if isinstance(kinds, list) else [kinds])]
    return " or ".join(words) + _range(schema)


def _typed(kind: str, schema: Schema) -> str:
    if kind == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}" if schema["items"] else "list"
    names = {
        "integer": "whole number",
        "string": "text",
        "array": "list",
        "boolean": "true or false",
    }
    return names.get(kind, kind)


def _range(schema: Schema) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("maxItems"))
    words = {"from": low, "to": high}
    return "".join(f" {word} {limit:g}" for word, limit in words.items() if limit is not None)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# README and changelog


def readme() -> str:
    """Take README.md, its photographs as links: the site loads nothing from elsewhere.

    Input:  <img src="https://x.org/a.jpg" width="150" alt="A bag">, [log](docs/log.md)
    Output: [A bag](https://x.org/a.jpg), [log](log.md)
    """
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    text = PHOTOGRAPH.sub(r"[\2](\1)", text)
    # Of other files of the repository only the words stay.
    return re.sub(r"\]\((?!docs/|https?:)", "](../", text).replace("](docs/", "](")


def changelog() -> str:
    """Take CHANGELOG.md without its title; links into docs/ become those of the site."""
    text = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.partition("\n\n")[2].replace("](docs/", "](")


PARTS: Mapping[str, Callable[[], str]] = {
    "recipes": recipe_table,
    "recipe_fields": recipe_field_list,
    "http_routes": http_routes,
    "http_objects": http_objects,
    "readme": readme,
    "changelog": changelog,
}
"""Name in a page's mark -> what writes that part."""
