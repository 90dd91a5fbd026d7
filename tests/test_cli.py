"""The command line: what it prints, and one line for every mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers.utils import logging

from phi_vision.cli import main as cli
from phi_vision.cli import main as cli_main
from phi_vision.cli.main import COMMANDS, main
from phi_vision.cli.predict import find_images, load_predictor
from phi_vision.data.template import TEMPLATES, write_template
from phi_vision.evaluation.evaluator import best_achievable
from phi_vision.generation.request import GenerationRequest
from phi_vision.inference import local as predict
from phi_vision.training import trainer  # its libraries greet on stdout when imported
from phi_vision.training.recipes import Recipe

Mistake = Callable[..., str]


@pytest.fixture
def mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Mistake:
    """Run a command that must fail: exit code 2, one line, nothing printed, nothing written."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(words) == 2
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert printed.out == ""
        assert line.startswith("phi-vision: error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return line.removeprefix("phi-vision: error: ")

    return run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder of samples: four coats to learn from, two to judge on."""
    write_split(tmp_path / "shop", "train", 4)
    write_split(tmp_path / "shop", "test", 2)
    return tmp_path / "shop"


def write_split(folder: Path, split: str, rows: int) -> None:
    columns = {
        "image": pa.array(
            [{"bytes": encoded(shade=40 * row), "path": f"{row}.png"} for row in range(rows)],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "title": pa.array([f"Coat {split} {row}" for row in range(rows)], pa.string()),
        "category3_code": pa.array(["COATS"] * rows, pa.string()),
        "full_price": pa.array([100.0 + row for row in range(rows)], pa.float64()),
    }
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")


def encoded(*, shade: int = 128, size: tuple[int, int] = (40, 60)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model of random weights say little: it never stops by itself."""
    monkeypatch.setattr(predict, "GenerationRequest", partial(GenerationRequest, max_new_tokens=4))


# Mistakes in the words themselves; those of a newcomer are in cli/test_newcomer_errors.py.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: COMMAND; see `phi-vision --help`"),
        (["--verbose"], "unknown option --verbose"),
        (["train", "lora", "--epochs", "3"], "--epochs (did you mean --num-train-epochs?)"),
        (["train", "lora", "--lerning-rate=1"], "(did you mean --learning-rate?)"),
        (["train", "lora", "--max_steps", "1.5"], "--max-steps: '1.5' is not a whole number"),
        (["train", "lora", "--optim", "adamw_9bit"], "'adamw_9bit' is unknown (did you mean"),
        (["train", "lora", "--adam-beta2", "x"], "field 'adam_beta2' is 'x'; it takes a number"),
        (["sample"], "the following arguments are required: --out"),
        (["sample", "--rows", "-3", "--out", "x"], "-3 is too small, it must be at least 1"),
    ],
)
def test_a_wrong_word_is_named(mistake: Mistake, words: list[str], said: str) -> None:
    assert said in mistake(*words)


# Mistakes in what the words name.


def test_an_unreadable_image_is_named_before_the_model_is_loaded(
    mistake: Mistake, tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(encoded()[:60])
    assert "cut.png" in mistake("predict", "no-such-model", "cut.png")


def test_a_missing_model_is_named(mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "coat.png").write_bytes(encoded())
    assert "'no-such-model'" in mistake("predict", "no-such-model", "coat.png")


def test_a_folder_that_is_no_checkpoint_is_reported_with_its_content(
    mistake: Mistake, tmp_path: Path
) -> None:
    (tmp_path / "coat.png").write_bytes(encoded())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("a")
    said = mistake("predict", "photos", "coat.png")
    assert "config.json" in said
    assert "a.txt" in said


def test_a_checkpoint_of_another_model_is_recognized_by_its_type(
    mistake: Mistake, shop: Path
) -> None:
    (shop.parent / "llama").mkdir()
    (shop.parent / "llama" / "config.json").write_text('{"model_type": "llama"}')
    assert "'llama'" in mistake("train", "lora", "--model", "llama", "--data", "shop")
    assert "'llama'" in mistake("evaluate", "llama", "--data", "shop", "--out", "report")


def test_an_unknown_column_is_named_beside_those_that_exist(mistake: Mistake, shop: Path) -> None:
    said = mistake("train", "lora", "--data", "shop", "--group-column", "style")
    assert "no column 'style'" in said
    assert "title, category3_code, full_price" in said


def test_an_unknown_split_is_named_beside_those_that_exist(mistake: Mistake, shop: Path) -> None:
    said = mistake("evaluate", "m", "--data", "shop", "--split", "exam", "--out", "report")
    assert "no split 'exam' in shop; it has train, test" in said


def test_data_without_a_field_of_the_template_is_rejected(
    mistake: Mistake, tiny_checkpoint: Path, shop: Path
) -> None:
    logging.disable_progress_bar()  # Of loading weights: transformers was imported before `main`.
    for file in shop.glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["full_price"]), file)
    words = ["--model", str(tiny_checkpoint), "--data", "shop", "--report-to", "none"]
    assert "'full_price'" in mistake("train", "lora", *words, "--output-dir", "run")


def test_empty_data_is_rejected(mistake: Mistake, tmp_path: Path) -> None:
    write_split(tmp_path / "empty", "train", 0)
    write_split(tmp_path / "empty", "test", 0)
    assert "no samples" in mistake("train", "lora", "--data", "empty", "--output-dir", "run")
    assert "no samples" in mistake("evaluate", "m", "--data", "empty", "--out", "report")


def test_a_used_folder_is_not_trained_over(mistake: Mistake, shop: Path) -> None:
    assert "shop is not empty" in mistake("train", "lora", "--data", "shop", "--output-dir", "shop")


def test_a_used_folder_is_not_drawn_over(mistake: Mistake, shop: Path) -> None:
    assert "shop" in mistake("sample", "--rows", "200", "--out", "shop")


def test_an_image_that_is_a_line_fails_with_one_line_in_a_real_process(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "line.png").write_bytes(encoded(size=(1, 5000)))
    code = "from phi_vision.cli.main import main; raise SystemExit(main())"
    words = ["predict", str(tiny_checkpoint), "line.png"]
    result = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("phi-vision: error: line.png: ")
    assert "5000" in line


def test_ctrl_c_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["sample"], "run", interrupted)
    assert main(["sample", "--out", "x"]) == 130
    assert capsys.readouterr().err == "phi-vision: interrupted: the same command starts again\n"


def test_ctrl_c_in_a_run_names_the_command_that_resumes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(recipe: Recipe, *, resume: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupted)
    monkeypatch.chdir(tmp_path)
    words = ["train", "lora", "--data", "shop", "--output-dir", "coats"]
    assert main(words) == 130
    assert capsys.readouterr().err == "phi-vision: interrupted: the same command starts again\n"
    (tmp_path / "coats").mkdir()
    (tmp_path / "coats" / "recipe.yaml").write_text("method: lora\n")
    assert main(words) == 130
    assert capsys.readouterr().err == (
        "phi-vision: interrupted: `phi-vision train coats/recipe.yaml --resume` resumes from the "
        "last checkpoint\n"
    )


def test_ctrl_c_in_an_evaluation_says_that_it_resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("phi_vision.evaluation.evaluator.run_evaluation", interrupted)
    assert main(["evaluate", "m", "--data", "shop"]) == 130
    assert capsys.readouterr().err == (
        "phi-vision: interrupted: predictions so far are kept; the same command resumes\n"
    )


def in_shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which $PROGRAM is phi-vision, with Python's usual buffering."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PROGRAM": f"{sys.executable} -m phi_vision", **variables}
    environment["PYTHONPATH"] = str(Path(cli.__file__).parents[2])
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize("words", ["--version", "explain coat.png", "check ."])
def test_a_reader_that_wants_no_more_ends_a_command_quietly(tmp_path: Path, words: str) -> None:
    (tmp_path / "coat.png").write_bytes(encoded())
    found = in_shell(f"$PROGRAM {words} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (found.stdout, found.stderr) == ("141\n", "")


def test_a_console_of_few_characters_shows_the_others_as_in_json(tmp_path: Path) -> None:
    (tmp_path / "mäntel €.png").write_bytes(encoded())
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    found = in_shell("$PROGRAM explain 'mäntel €.png'", tmp_path, **ascii_only)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("m\\u00e4ntel \\u20ac.png \\u00b7 model phi-vision-small")
    found = in_shell("$PROGRAM explain 'mäntel €.png' --json", tmp_path, **ascii_only)
    assert json.loads(found.stdout)["sample"] == "mäntel €.png"


def test_an_incomplete_installation_says_how_to_complete_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def incomplete(options: object) -> None:
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    monkeypatch.setattr(COMMANDS["sample"], "run", incomplete)
    assert main(["sample", "--out", "x"]) == 2
    assert capsys.readouterr().err == (
        "phi-vision: error: No module named 'peft'; complete the installation with "
        "`pip install phi-vision`\n"
    )


def test_a_traceback_is_shown_on_request() -> None:
    with pytest.raises(ValueError, match="no image at coat"):
        main(["--traceback", "predict", "model", "coat.jpg"])


# Commands that work.


def recipe_lines(printed: str) -> list[str]:
    """Leave out what a dry run says about the recipe, which stands in comments."""
    return [line for line in printed.splitlines() if not line.startswith("#")]


def test_a_dry_run_writes_nothing_and_prints_a_recipe_that_runs_again(
    shop: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(shop.parent)
    words = ["--data", "shop", "--model", str(tiny_checkpoint), "--learning-rate", "1e-3"]
    assert main(["train", "lora", "--dry-run", *words, "--target-modules", "o_proj"]) == 0
    printed = capsys.readouterr().out
    assert "learning_rate: 0.001\n" in printed
    assert [path.name for path in shop.parent.iterdir()] == ["shop"]
    Path("recipe.yaml").write_text(printed)
    assert main(["train", "recipe.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == printed
    further = ["--adam-beta2", "0.95", "--lr_scheduler_kwargs", "{num_cycles: 0.4}"]
    assert main(["train", "recipe.yaml", "--dry-run", *further]) == 0
    assert "adam_beta2: 0.95\nlr_scheduler_kwargs:\n  num_cycles: 0.4\n" in capsys.readouterr().out
    assert main(["train", "recipe.yaml", "--dry-run", "--r", "2"]) == 0
    replaced = printed.replace("\nr: 16", "\nr: 2")
    assert recipe_lines(capsys.readouterr().out) == recipe_lines(replaced)


@pytest.mark.usefixtures("brief")
def test_predict_prints_one_line_of_json_for_each_image(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.png", "a.png", "c.txt"):
        (tmp_path / name).write_bytes(encoded())
    assert main(["predict", str(tiny_checkpoint), str(tmp_path), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert {tuple(line) for line in lines} == {("image", "record", "confidence", "text")}


def test_a_run_is_prompted_with_its_training_template(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    def wording(*words: str) -> str:
        options = cli.command_parser("predict").read([str(tmp_path), "coat.jpg", *words])
        return load_predictor(options).template.name

    (tmp_path / "model").symlink_to(tiny_checkpoint)
    (tmp_path / "recipe.yaml").write_text("method: lora\n")
    write_template(TEMPLATES["walkthrough"], tmp_path / "template.yaml")
    assert wording() == "walkthrough"
    assert wording("--template", "product") == "product"


@pytest.mark.usefixtures("brief")
def test_evaluate_prints_a_table_and_writes_a_report(
    shop: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shop.parent / "report"
    words = [str(tiny_checkpoint), "--data", str(shop), "--out", str(out), "--skip", "boosting"]
    assert main(["evaluate", *words, "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert "parse rate" in printed
    assert f"The report is {out / 'report.html'}" in printed
    assert {path.name for path in out.iterdir()} >= {"report.html", "scores.json"}


def test_images_are_found_as_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", "[1].png"):
        (tmp_path / name).touch()

    def found(name: str) -> list[str]:
        return [path.name for path in find_images(str(tmp_path / name))]

    assert found("") == ["[1].png", "a.png", "b.JPG"]
    assert found("c.txt") == ["c.txt"]
    assert found("?.png") == ["a.png"]
    assert found("[1].png") == ["[1].png"]


def test_the_best_achievable_of_a_sample_catalog_is_read(tmp_path: Path) -> None:
    from phi_vision.synthetic.catalog import write_catalog

    facts = write_catalog(tmp_path / "catalog", rows=60, seed=0)
    assert best_achievable(tmp_path / "catalog", "test") == {
        "category3_code_accuracy": facts["category_ceiling"],
        "full_price_median_ape": facts["splits"]["test"]["floor_median_ape"],
        "full_price_mae": facts["splits"]["test"]["floor_mae"],
    }
    assert best_achievable(tmp_path, "test") == {}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "the disk is full: free some space"),
        (UnicodeEncodeError("utf-8", "\udcc3", 0, 1, "surrogates not allowed"), "rename it"),
        (RuntimeError("Symlink loop from '/a/b'"), "the link points to itself: remove it"),
    ],
)
def test_an_error_of_the_machine_says_what_to_do(
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(words: object) -> None:
        raise error

    monkeypatch.setattr(cli_main, "run", fail)
    assert cli_main.main([]) == 2
    assert told in capsys.readouterr().err


def test_paths_of_any_name_are_read_and_written_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "größe").mkdir()
    Image.effect_noise((40, 40), 80).save(tmp_path / "größe" / "ü.png")
    (tmp_path / "größe" / "tee.csv").write_text("title,photo\nTee ü,ü.png\n", encoding="utf-8")
    code = "from phi_vision.cli.main import main; raise SystemExit(main())"
    paths = ["prepare", str(tmp_path / "größe" / "tee.csv"), "--out", str(tmp_path / "äus")]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-c", code, *paths, "--workers", "0"]
    assert subprocess.run(words, check=False, env={**os.environ, **plain}).returncode == 0
    assert (tmp_path / "äus" / "prepared.json").is_file()
