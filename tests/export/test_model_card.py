"""The model card lists what is known and calls the rest unknown."""

import shutil
from pathlib import Path

import pytest
import yaml

from phi_vision.data.template import PRODUCT
from phi_vision.export.model_card import find_license, write_card
from phi_vision.export.verify import Verification

VERIFIED = Verification(samples=4, identical=4, tokens=96, max_difference=2e-5, tolerance=1e-3)


def card_of(source: Path | str, folder: Path, verification: Verification = VERIFIED) -> str:
    folder.mkdir(exist_ok=True)
    write_card(
        str(source),
        folder,
        PRODUCT,
        "<|user|> the prompt",
        verification,
        library="transformers",
        precision="bfloat16",
    )
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "coats"
    (folder / "report").mkdir(parents=True)
    recipe = {"method": "qlora", "model": "phi-vision-small", "data": "/home/anna/catalogs/coats"}
    recipe |= {"output_dir": "/home/anna/runs/coats", "quantization": "nf4", "r": 16}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "versions.json").write_text('{"torch": "2.13.0", "data_sha256": "9671"}')
    (folder / "report" / "report.md").write_text("# Evaluation of it\n\n| the model | 0.845 |\n")
    return folder


def test_a_card_contains_the_scores_the_data_and_the_recipe(run: Path, tmp_path: Path) -> None:
    card = card_of(run, tmp_path)
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "mit"
    assert header["pipeline_tag"] == "image-text-to-text"
    assert header["library_name"] == "transformers"
    assert "base_model" not in header, "phi-vision-small is on no hub"
    for words in (
        "# coats\n",
        "Fine-tuned from phi-vision-small with phi-vision (qlora).",
        "Merged weights in bfloat16 under the official names",
        'prompt = "<|user|> the prompt"\n',
        PRODUCT.question,
        "| `full_price` | number |",
        "Of the run, before the export.\n\n| the model | 0.845 |",
        "- Data: `coats` (sha256 of its samples `9671`).\n- Versions: torch 2.13.0.\n",
        "trained on weights quantized to nf4 and merged into full-precision",
        "\nr: 16",
        "4 of 4 predictions identical",
        "The base, phi-vision-small, is under the license `mit`.",
    ):
        assert words in card, words
    assert "anna" not in card, "folders of the machine it was trained on"


def test_a_checkpoint_keeps_its_own_licence(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = card_of("phi-vision-small", tmp_path)
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    assert "Exported from a checkpoint under the license `mit`." in card
    # A card that happens to lie where the command is typed.
    monkeypatch.chdir(tmp_path)
    assert find_license(str(tiny_checkpoint)) == "unknown"
    assert "`mit`" not in card_of(tiny_checkpoint, tmp_path / "coats")


def test_notices_of_a_base_go_with_every_export(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "base")
    notices = "- Tower: Copyright Meta.\n- Decoder: of Hugging Face."
    text = f"---\nlicense: mit\n---\n\n# Base\n\n## Notices\n\n{notices}\n"
    (tmp_path / "base" / "README.md").write_text(text)
    for source, name in (("base", "first"), ("first", "second")):
        shutil.copytree(tmp_path / "base", tmp_path / name)
        card = card_of(tmp_path / source, tmp_path / name)
        assert card.endswith(f"under the license `mit`.\n\n## Notices\n\n{notices}\n")


def test_unknown_values_are_shown_as_unknown(tiny_checkpoint: Path, tmp_path: Path) -> None:
    nothing = Verification()
    card = card_of(tiny_checkpoint, tmp_path, nothing)
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "unknown"
    for words in (
        "Not evaluated: its accuracy is unknown.",
        "## Training\n\nUnknown: there is no recipe beside the weights.",
        "This folder was not verified: no samples were compared.",
        "No license is stated beside the weights.",
    ):
        assert words in card, words


def test_the_name_of_a_run_is_text_in_its_card(run: Path, tmp_path: Path) -> None:
    odd = run.rename(run.with_name("<b>a*b*\n# c"))
    assert "\n# \\<b\\>a\\*b\\* \\# c\n" in card_of(odd, tmp_path)
