"""The wheel holds what it needs, the sdist builds the same, and every extra can be missing."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.installed import ROOT, WITHOUT, build, copy_source, pin
from phi_vision.cli.main import main
from phi_vision.inference.onnx_predictor import OnnxModel

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
MAX_WHEEL = 25_000_000  # bytes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_source(tmp_path_factory.mktemp("source") / "phi-vision")


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return build("wheel", source, source.parent, Path(sys.executable))


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    return build("sdist", source, source.parent, Path(sys.executable))


def contents(wheel: Path) -> dict[str, int]:
    """Map the files of a wheel to their checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist()}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in contents(wheel) if ".dist-info/" not in name}
    files = (file for file in (ROOT / "phi_vision").rglob("*") if file.is_file())
    assert packed == {
        file.relative_to(ROOT).as_posix() for file in files if "__pycache__" not in file.parts
    }
    assert "phi_vision/model/phi-vision-small/model.safetensors" in packed


def test_the_wheel_has_at_most_25_megabytes(wheel: Path) -> None:
    assert wheel.stat().st_size <= MAX_WHEEL


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = build("wheel", unpacked, tmp_path, Path(sys.executable))
    assert contents(again) == contents(wheel)
    held = {file.relative_to(unpacked).parts[0] for file in unpacked.rglob("*")}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "pyproject.toml"} <= held
    assert not held & {"tests", "shared", "runs"}


def test_torch_is_pinned_alike_everywhere() -> None:
    assert f"TORCH := {pin('torch')}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"pip install {pin('torch')}" in page


def test_the_page_lists_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert EXTRAS.keys() <= listed


# Extras


def brought_by(requirements: Iterable[str]) -> set[str]:
    """List the distributions that requirements bring, themselves included."""
    found, waiting = set[tuple[str, str]](), [Requirement(each) for each in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                for each in map(Requirement, distribution(name).requires or ()):
                    if each.marker is None or each.marker.evaluate({"extra": extra}):
                        waiting.append(each)
    return {name for name, _ in found}


def modules_of(requirements: Iterable[str]) -> list[str]:
    """List the modules of some distributions, without those that these bring."""
    names = {canonicalize_name(Requirement(each).name) for each in requirements}
    owners = packages_distributions().items()
    return [module for module, owner in owners if names & {*map(canonicalize_name, owner)}]


BARE = """
import sys
for name in {missing}:
    sys.modules[name] = None
import phi_vision
from phi_vision.cli.main import COMMANDS, command_parser, front_parser, main

phi_vision.Phi3VConfig, phi_vision.Predictor
for parser in (front_parser(), *map(command_parser, COMMANDS)):
    assert parser.format_help()
for words in {commands}:
    assert main(words.split()) == 0, words
"""
COMMANDS = (
    "sample --rows 20 --out catalog",
    "train lora --model phi-vision-small --data catalog --output-dir run --max-steps 1 "
    "--report-to none --eval-samples 2",
    "predict run catalog --split test --out predictions.parquet",
    "evaluate run --data catalog --limit 2 --skip base withheld",
    "export run --out whole",
    "check whole",
)


def test_all_but_the_extras_works_with_nothing_but_the_dependencies(tmp_path: Path) -> None:
    there = brought_by(PROJECT["dependencies"]) | {"phi-vision"}
    missing = [
        module
        for module, owners in packages_distributions().items()
        if not there & {*map(canonicalize_name, owners)}
    ]
    optional = [each for extra in WITHOUT for each in EXTRAS[extra]]
    assert {*modules_of(optional)} <= {*missing}
    code = BARE.format(missing=missing, commands=COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("without") / "catalog"
    assert main(["sample", "--rows", "20", "--out", str(folder)]) == 0
    return folder


def test_every_extra_has_a_command_that_needs_it() -> None:
    assert WITHOUT.keys() == EXTRAS.keys() - {"docs", "dev", "notebook"}


OPTIMIZER = "train full --optim paged_adamw_8bit --model phi-vision-small --data catalog"


@pytest.mark.parametrize(
    ("extra", "words"), [*WITHOUT.items(), ("quant", [*OPTIMIZER.split(), "--output-dir", "other"])]
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    extra: str,
    words: list[str],
    catalog: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in modules_of(EXTRAS[extra]):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(catalog.parent)
    assert main(words) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("phi-vision: error: ")
    assert f" is not installed; pip install 'phi-vision[{extra}]'" in line
    assert [each.name for each in catalog.parent.iterdir()] == ["catalog"]


def test_an_onnx_folder_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    with pytest.raises(ValueError, match=r"^an ONNX folder needs .*'phi-vision\[onnx\]'"):
        OnnxModel(tmp_path)
