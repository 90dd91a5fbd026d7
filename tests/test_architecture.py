"""The house rules as tests: who may import whom, and how long a function may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "phi_vision"
MAY_IMPORT = {
    "io": set(),
    "model": set(),
    "generation": {"model"},
    "data": {"io", "model"},
    "runs": {"io", "data"},
    "metrics": {"io", "data"},
    "synthetic": {"io", "data"},
    "prepare": {"io", "data"},
    "inference": {"io", "model", "data", "generation", "prepare", "runs"},
    "training": {"io", "model", "data", "generation", "metrics", "runs"},
    "evaluation": {"io", "model", "data", "metrics", "inference", "runs", "prepare", "training"},
    "export": {"io", "model", "data", "generation", "inference", "runs"},
    "serving": {"io", "data", "generation", "metrics", "inference", "runs"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# A saved checkpoint carries the model files to machines that have transformers and no phi_vision;
# huggingface_hub comes with transformers.
TRAVELS_WITH = {
    "torch",
    "transformers",
    "huggingface_hub",
    "numpy",
    "PIL",
} | sys.stdlib_module_names
LONGEST_FUNCTION = 70

ROOM_FILES = [
    file for room in MAY_IMPORT if room != "runs" for file in sorted((PACKAGE / room).rglob("*.py"))
]
TRAVELLING_FILES = sorted((PACKAGE / "model").glob("*_phi3_v.py"))
OUR_FILES = sorted(
    file
    for folder in ("phi_vision", "pretraining", "benchmarks", "tests")
    for file in (ROOT / folder).rglob("*.py")
)


def imports_of(file: Path) -> Iterator[str]:
    """Yield every imported name, dots of a relative import kept, also those inside functions.

    Input:  `import numpy as np` and `from .siblings import a, b`
    Output: `numpy`, `.siblings.a`, `.siblings.b`
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            separator = "" if module.endswith(".") else "."
            yield from (f"{module}{separator}{alias.name}" for alias in node.names)


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", ROOM_FILES, ids=relative)
def test_a_room_imports_only_the_rooms_it_may(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0]
    allowed = MAY_IMPORT[room] | {room, "__version__"}
    for name in imports_of(file):
        if name.split(".")[0] == "phi_vision":
            assert [*name.split("."), ""][1] in allowed, f"{relative(file)} imports {name}"
        if name.startswith("."):
            own = room == "model" and not name.startswith("..")
            assert own, f"{relative(file)} imports {name}: write the whole path phi_vision.…"


@pytest.mark.parametrize("file", TRAVELLING_FILES, ids=relative)
def test_the_model_files_can_leave_the_house(file: Path) -> None:
    for name in imports_of(file):
        if name.startswith("."):
            sibling = name.lstrip(".").split(".")[0]
            assert not name.startswith(".."), f"{relative(file)} imports {name}"
            assert sibling.endswith("_phi3_v"), f"{relative(file)} imports {name}"
        else:
            assert name.split(".")[0] in TRAVELS_WITH, f"{relative(file)} imports {name}"


@pytest.mark.parametrize("file", [f for f in OUR_FILES if f.parts[-2] != "tests"], ids=relative)
def test_nobody_but_the_tests_imports_the_command_line(file: Path) -> None:
    inside = file.parent.name == "cli"
    assert inside or not [n for n in imports_of(file) if n.startswith("phi_vision.cli")]


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if room != "runs"])
def test_the_init_of_a_room_is_only_a_docstring(room: str) -> None:
    (statement,) = ast.parse((PACKAGE / room / "__init__.py").read_text()).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    assert isinstance(statement.value.value, str)


def run_without(forbidden: list[str], code: str) -> None:
    """Run code in a fresh interpreter in which the forbidden packages cannot be imported."""
    block = f"""
import sys

class Closed:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {forbidden} or name in {forbidden}:
            raise ImportError(f"{{name}} is forbidden here")

sys.meta_path.insert(0, Closed())
"""
    result = subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr


def test_samples_their_making_and_their_judging_do_without_torch() -> None:
    modules = [
        *(f"phi_vision.data.{name}" for name in ("samples", "template", "dataset")),
        *(
            ".".join(f.relative_to(ROOT).with_suffix("").parts)
            for room in ("io", "metrics", "prepare", "synthetic")
            for f in sorted((PACKAGE / room).rglob("[a-z]*.py"))
        ),
    ]
    run_without(["torch", "transformers"], f"import {', '.join(modules)}")


def test_training_does_without_deployment_and_deployment_without_training() -> None:
    run_without(["phi_vision.inference"], "import phi_vision.training.trainer")
    run_without(["phi_vision.training", "trl"], "import phi_vision.inference.local")


def test_the_help_of_every_command_opens_without_torch() -> None:
    code = "from phi_vision.cli.main import COMMANDS, command_parser, front_parser\n"
    code += "[parser.format_help() for parser in [front_parser(), *map(command_parser, COMMANDS)]]"
    run_without(["torch", "transformers"], code)


@pytest.mark.parametrize("file", OUR_FILES, ids=relative)
def test_no_function_is_too_long_to_read_at_a_glance(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{relative(file)}: {node.name} has {lines} lines"


OWNERS = {
    "io/atomic.py": {"tempfile", "fcntl", "filecmp"},
    "io/hashing.py": {"hashlib", "imagehash"},
}
"""Module -> what no other module of the package imports."""


def renames(node: ast.AST) -> bool:
    """Whether a call renames a file or folder: `a.rename(b)`, `a.replace(b)`, `shutil.move(a, b)`.

    `text.replace(old, new)` has two arguments.
    """
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    alone = len(node.args) == 1 and not node.keywords
    of_a_module = isinstance(node.func.value, ast.Name) and node.func.value.id in ("os", "shutil")
    moves = of_a_module and node.func.attr in ("rename", "replace", "move")
    return moves or (alone and node.func.attr in ("rename", "replace"))


@pytest.mark.parametrize("file", ROOM_FILES, ids=relative)
def test_files_are_renamed_and_content_is_hashed_in_one_module(file: Path) -> None:
    place = str(file.relative_to(PACKAGE))
    imported = {name.split(".")[0] for name in imports_of(file)}
    for owner, modules in OWNERS.items():
        assert place == owner or not imported & modules, f"use phi_vision/{owner}"
    found = [node.lineno for node in ast.walk(ast.parse(file.read_text())) if renames(node)]  # type: ignore[attr-defined]
    assert place == "io/atomic.py" or not found, f"lines {found}: use phi_vision/io/atomic.py"
