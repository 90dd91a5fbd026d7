"""The model card: README.md with the metadata that hubs read, and everything known of the model.

The text is `templates/model_card.md.j2`; unknown facts are left out or called unknown.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from phi_vision.data.template import TEMPLATE_FILE, Template, write_template
from phi_vision.export.verify import Verification
from phi_vision.io.atomic import write_text
from phi_vision.model.checkpoint import adapter_base, resolve
from phi_vision.runs import DATA_FINGERPRINT, RunDir

CARD_FILE = "README.md"
NOTICES = "\n## Notices\n"  # heading of a card's section, as that of phi-vision-photo has it
TEXT = Path(__file__).parent / "templates" / "model_card.md.j2"
# Recipe fields with paths of the training machine.
PRIVATE_FIELDS = ("output_dir", "data", "model", "report_to")


def write_card(
    source: str,
    folder: Path,
    template: Template,
    prompt: str,
    verification: Verification,
    library: str,
    precision: str,
) -> None:
    """Write prompt template and card into an exported folder that predicts as its source does.

    The prompt is one about one image, in the model's chat format; the library, "transformers" or
    "onnxruntime-genai", loads the folder. A failed verification is a ValueError.
    """
    verification.check()
    write_template(template, folder / TEMPLATE_FILE)
    run, base = RunDir(source), find_base(source)
    report = run.report.summary_file
    card = ModelCard.from_template(
        ModelCardData(
            license=find_license(base or source),
            # Hubs accept a base only by its id.
            base_model=base if base and _is_hub_id(base) else None,
            pipeline_tag="image-text-to-text",
            library_name=library,
            tags=["phi3_v", "vision", "product-photos", "phi-vision"],
        ),
        template_path=str(TEXT),
        name=_short(source),
        base=_short(base) if base else None,
        notices=find_notices(base or source),
        fields=template.fields,
        template=template,
        library=library,
        precision=precision,
        prompt=json.dumps(prompt, ensure_ascii=False),
        # Without its title.
        evaluation=report.is_file() and report.read_text("utf-8").partition("\n")[2].strip(),
        verification=verification,
        **_describe_training(run),
    )
    write_text(folder / CARD_FILE, str(card).rstrip("\n") + "\n")


def find_base(source: str) -> str | None:
    """Return the base of a run or an adapter; None where it is unknown."""
    recipe = RunDir(source).recipe()
    return str(recipe["model"]) if recipe else adapter_base(resolve(source))


def find_license(source: str) -> str:
    """Return the license in the metadata of a checkpoint's own card, or "unknown"."""
    try:
        return str(yaml.safe_load(_own_card(source).split("---\n")[1])["license"])
    # No card, no metadata, or no license in it.
    except (ValueError, IndexError, KeyError, TypeError, yaml.YAMLError):
        return "unknown"  # as hubs call it


def find_notices(source: str) -> str:
    """Return the notices in a checkpoint's own card, which go with all that is built from it."""
    return _own_card(source).partition(NOTICES)[2].partition("\n## ")[0].strip()


def _own_card(source: str) -> str:
    try:
        return (Path(resolve(source)) / CARD_FILE).read_text(encoding="utf-8", errors="replace")
    except (ValueError, OSError):  # a base that is no longer there, or has no card
        return ""


def _describe_training(run: RunDir) -> dict[str, Any]:
    recipe, versions = run.recipe(), dict(run.versions())
    if not recipe:
        return {}
    shown = {name: value for name, value in recipe.items() if name not in PRIVATE_FIELDS}
    return {
        "recipe": recipe,
        "recipe_yaml": yaml.safe_dump(shown, sort_keys=False, allow_unicode=True),
        "data": Path(str(recipe["data"])).name,
        "data_sha256": versions.pop(DATA_FINGERPRINT, None),
        "versions": versions,
    }


def _short(place: str) -> str:
    """Shorten a path to its name, escaped as text: "/home/anna/phi" -> "phi", "owner/phi" stays."""
    is_path = Path(place).is_absolute() or Path(place).exists()
    name = " ".join((Path(place).name if is_path else place).split())
    return re.sub(r"([\\`*{}\[\]<>#|!])", r"\\\1", name)


def _is_hub_id(place: str) -> bool:
    """Whether a base came from the hub: `models/base` may also be a folder that is gone."""
    try:
        return isinstance(try_to_load_from_cache(place, "config.json"), str)
    except HFValidationError:
        return False
