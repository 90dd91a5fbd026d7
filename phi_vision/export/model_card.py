"""The model card: README.md with the header that hubs read, and all that is known of the model.

Nothing is guessed: what is not known is left out, or said to be unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from phi_vision.data.template import Template
from phi_vision.export.verify import Proof
from phi_vision.io.atomic import write_text
from phi_vision.model.checkpoint import adapter_base, resolve
from phi_vision.runs import DATA_FINGERPRINT, RunDir

CARD_FILE = "README.md"

UNKNOWN_LICENCE = "unknown"
"""How hubs call a licence that nobody has stated."""

PRIVATE_FIELDS = ("out", "data", "model", "tracker")
"""Fields of a recipe that name places of the machine it ran on; the card says it in words."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What kind of folder a card describes."""

    library: str
    """What opens it, as hubs call it: "transformers"."""

    holds: str
    """A sentence on what lies there."""

    use: str
    """How it is asked, in Markdown."""


def write_card(source: str, folder: Path, *, template: Template, proof: Proof, form: Form) -> None:
    """Write the card of an exported folder.

    Args:
        source: What was exported; a run tells most, above all once it was evaluated.
        folder: Where the card goes.
        template: The wording it is asked in.
        proof: What was found when it was held against the source.
        form: What was written.
    """
    recipe = RunDir(source).recipe()
    base = name_base(source)
    parts = [
        _header(source, base, form),
        _introduce(source, base, template, recipe, form),
        f"## Use\n\n{form.use.strip()}\n",
        _word(template),
        _judge(Path(source)),
        _train(Path(source), recipe),
        _verify(proof),
        _license(source, base),
    ]
    write_text(folder / CARD_FILE, "\n".join(part for part in parts if part))


def name_base(source: str) -> str | None:
    """Name what a run or an adapter was made from; None where that is not known."""
    recipe = RunDir(source).recipe()
    if recipe:
        return str(recipe["model"])
    return adapter_base(resolve(source))


def licence_of(source: str) -> str:
    """Read the licence in the header of a checkpoint's own card; "unknown" where there is none."""
    try:
        file = Path(resolve(source)) / CARD_FILE
        header = file.read_text(encoding="utf-8").split("---\n")[1]
        return str(yaml.safe_load(header)["license"])
    # No such folder, no card, no header, no licence in it: all the same to whoever reads this.
    except (ValueError, OSError, IndexError, KeyError, TypeError, yaml.YAMLError):
        return UNKNOWN_LICENCE


def _header(source: str, base: str | None, form: Form) -> str:
    """Write the header; hubs take a base only by its id there."""
    data = ModelCardData(
        license=licence_of(base or source),
        base_model=base if base and _is_hub_id(base) else None,
        pipeline_tag="image-text-to-text",
        library_name=form.library,
        tags=["phi3_v", "vision", "product-photos", "phi-vision"],
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _introduce(
    source: str, base: str | None, template: Template, recipe: Mapping[str, Any], form: Form
) -> str:
    fields = ", ".join(field.replace("_", " ") for field in template.fields)
    told = f"Reads a product photo and writes its record: {fields}."
    if base:
        how = f" ({recipe['method']})" if recipe else ""
        told += f" Made from {_short(base)} with phi-vision{how}."
    return f"# {_short(source)}\n\n{told}\n\n{form.holds}\n"


def _word(template: Template) -> str:
    kinds = "\n".join(f"| `{field}` | {kind} |" for field, kind in template.kinds.items())
    return (
        "## GenerationRequest and answer\n\n"
        "It was trained to answer one question in one form; other questions are outside of what "
        "it learnt.\n\n"
        f"```text\n{template.question}\n{template.answer}\n```\n\n"
        f"| field | holds |\n|---|---|\n{kinds}\n"
    )


def _judge(run: Path) -> str:
    """Quote the run's own report; its figures are those of the run, before the export."""
    file = RunDir(run).report.summary_file
    if not file.is_file():
        return (
            "## Evaluation\n\nNot evaluated: there are no figures on how often it is right. "
            "`phi-vision evaluate` measures it on samples that it did not learn from.\n"
        )
    _, _, body = file.read_text(encoding="utf-8").partition("\n")
    return f"## Evaluation\n\nOf the run, before it was exported.\n\n{body.strip()}\n"


def _train(run: Path, recipe: Mapping[str, Any]) -> str:
    if not recipe:
        return "## Training\n\nHow it was trained is not known: no recipe lay beside its weights.\n"
    facts = [f"Learnt from `{Path(str(recipe['data'])).name}`"]
    versions = RunDir(run).versions()
    if versions:
        digest = versions.get(DATA_FINGERPRINT)
        facts[0] += f" (sha256 of its samples `{digest}`)" if digest else ""
        names = (
            f"{name} {number}" for name, number in versions.items() if name != DATA_FINGERPRINT
        )
        facts.append(f"Trained with {', '.join(names)}")
    if recipe.get("quantization"):
        facts.append(
            f"The adapter was trained beside weights in {recipe['quantization']}, and is merged "
            "into whole ones: answers can differ a little from those during training"
        )
    shown = {name: value for name, value in recipe.items() if name not in PRIVATE_FIELDS}
    words = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    listed = "\n".join(f"- {fact}." for fact in facts)
    return (
        f"## Training\n\n{listed}\n\n"
        f"<details><summary>Recipe</summary>\n\n```yaml\n{words}```\n\n</details>\n"
    )


def _verify(proof: Proof) -> str:
    return (
        "## Held against the run\n\nThe folder was loaded again and asked about samples, of those "
        f"held out from training where there are any: {proof.words()}.\n"
        if proof.samples
        else f"## Held against the run\n\nThis folder was {proof.words()}.\n"
    )


def _license(source: str, base: str | None) -> str:
    licence = licence_of(base or source)
    if licence == UNKNOWN_LICENCE:
        told = (
            f"The licence of {_short(base)} is not stated beside its weights; look it up before "
            "these are passed on."
            if base
            else "No licence is stated beside the weights."
        )
    elif base:
        told = f"The base, {_short(base)}, is under the licence `{licence}`."
    else:
        told = f"It was exported from a checkpoint under the licence `{licence}`."
    return f"## Licence\n\n{told}\n"


def _short(place: str) -> str:
    """Name a base without the folders of the machine it lay on.

    Input:  "/home/anna/models/phi", "microsoft/Phi-3.5-vision-instruct"
    Output: "phi",                   "microsoft/Phi-3.5-vision-instruct"
    """
    return Path(place).name if Path(place).is_absolute() or Path(place).exists() else place


def _is_hub_id(place: str) -> bool:
    """Whether a base came from the hub: `models/base` may as well be a folder that is gone."""
    try:
        return isinstance(try_to_load_from_cache(place, "config.json"), str)
    except HFValidationError:
        return False
