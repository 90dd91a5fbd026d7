"""`phi-vision explain`: text, JSON and a drawing of one sample, and a line for each mistake."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_start import heavy_modules
from transformers import AutoTokenizer

from benchmarks.full_size import full_size_config
from phi_vision.cli.main import main
from phi_vision.data.dataset import load_samples
from phi_vision.data.template import PRODUCT, TEMPLATES, write_template
from phi_vision.model.checkpoint import SMALL, resolve
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.training.recipes import RECIPES, to_yaml

VALUES = ["title=Wool Coat", "category3_code=COATS", "full_price=390"]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.effect_noise((500, 333), 80).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Phi-3.5-Vision's config and processor, without weights."""
    folder = tmp_path_factory.mktemp("official")
    tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
    full_size_config(tokenizer).save_pretrained(folder)
    Phi3VProcessor(Phi3VImageProcessor(num_crops=4), tokenizer).save_pretrained(folder)
    return str(folder)


def values(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["explain", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_text_json_and_drawing_have_the_same_numbers(
    photo: str, official: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [photo, "--model", official, "--record", *VALUES]
    assert main(["explain", *words, "--out", str(tmp_path / "explain.png")]) == 0
    text = capsys.readouterr().out
    assert (
        "resized   672 × 447 pixels, padded with white to 672 × 672 (112 top and 113 bottom" in text
    )
    assert "757 = 576 crops + 36 row separators + 1 view separator + 144 global view" in text
    assert "Product: Wool Coat, Category: COATS, Full Price: 390.0<|end|>" in text
    with Image.open(tmp_path / "explain.png") as drawing:
        assert drawing.width == 1600
    found = values(capsys, *words)
    assert found["tokens"]["image"] == 757  # type: ignore[index]
    for name, count in found["tokens"].items():  # type: ignore[attr-defined]
        assert re.search(rf"\b{count}\b", text), name
    assert list(found) == [
        *("model", "template", "sample", "images", "tokens", "short_context", "context"),
        *("spans", "input_ids", "labels", "drawing"),
    ]


def test_fewer_crops_are_fewer_tokens(
    photo: str, official: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = values(capsys, photo, "--model", official, "--num-crops", "1")
    assert found["tokens"]["image"] == 313  # type: ignore[index]
    assert found["tokens"]["supervised"] == 0  # type: ignore[index]


def test_a_sample_of_the_data_is_shown_with_the_template_of_its_run(
    products: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(resolve(SMALL), run / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    write_template(TEMPLATES["walkthrough"], run / "template.yaml")
    recipe = RECIPES["lora"]()
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    wanted = load_samples(products)[3]
    found = values(capsys, "--data", str(products), "--sample", wanted.id, "--model", str(run))
    assert (found["sample"], found["template"]) == (wanted.id, "walkthrough")
    (completion,) = (span for span in found["spans"] if span["supervised"])  # type: ignore[attr-defined]
    assert completion["text"] == PRODUCT.render(wanted.record) + "<|end|>"


def test_a_recipe_names_model_data_and_limit(
    make_recipe: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe("lora", max_length=9)  # type: ignore[operator]
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert main(["explain", "--recipe", str(tmp_path / "recipe.yaml")]) == 2
    assert "more than max_length 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "found neither; give an IMAGE"),
        (["photo.png", "--data", "shop"], "found IMAGE and --data"),
        (["lost.png"], "lost.png"),
        (["text.png"], "text.png: not an image"),
        (["line.png"], "'line.png', image 1: The image is 5000 pixels long and 1 thick"),
        (["photo.png", "--model", "bare"], "no preprocessor_config.json"),
        (["photo.png", "--model", "no-such-model"], "'no-such-model'"),
        (["photo.png", "--record", "title=Coat"], "needs the field 'category3_code'"),
        (["photo.png", "--record", "colour=red"], "found 'colour=red'; the fields of the template"),
        (["photo.png", "--sample", "3"], "--sample has no effect with an IMAGE"),
        (["photo.png", "--out", "drawing.pdf"], "choose a name that ends with .png"),
        (["--data", "shop", "--sample", "lost"], "no sample 'lost' in shop: its 20 samples are"),
        (["--data", "shop", "--record", "title=Coat"], "--record has no effect with data"),
        (["--data", "shop", "--template", "own.yaml"], "needs the field 'weight'; the record has"),
        (["--recipe", "lora"], "recipe lora names no data"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    said: str,
    photo: str,
    products: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (1, 5000)).save("line.png")
    (tmp_path / "shop").symlink_to(products)
    (tmp_path / "bare").mkdir()
    shutil.copy(Path(resolve(SMALL)) / "config.json", tmp_path / "bare")
    (tmp_path / "own.yaml").write_text("question: What?\nanswer: 'Weight: {weight:number}'\n")
    assert main(["explain", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert said in line


def test_explaining_imports_no_heavy_library_and_loads_no_weights(
    photo: str, official: str
) -> None:
    words = ["explain", photo, "--model", official, "--out", str(Path(photo).with_name("e.png"))]
    code = f"from phi_vision.cli.main import main\nassert main({words}) == 0"
    assert heavy_modules(code) == set()
