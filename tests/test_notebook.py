"""examples/first_run.ipynb runs from top to bottom and shows images; its outputs are not committed.

`python -m tests.test_notebook` runs it as a reader does, prints the time, and draws the images of
docs/first-run.md.
"""

import base64
import importlib.util
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "first_run.ipynb"
DOCS = ROOT / "docs"
PAGE = (DOCS / "first-run.md").read_text(encoding="utf-8")

QUICK = {"ROWS": "60", "EPOCHS": "1"}
MAX_SECONDS = 6 * 60  # of the notebook as it is, on two quiet cores
BUSY_SECONDS = 3600  # of a cell, on busy ones
IMAGES = {"samples": 1, "curves": 2, "evaluation": 1, "confusion": 1, "worst": 1, "photo": 1}
"""Cell -> images that it shows; no cell shows anything else."""

ON_THE_PAGE = ("samples", "evaluation", "worst")
MAX_BYTES, WIDTH = 150_000, 760  # of these images together; of each


def read_notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(folder: Path, settings: dict[str, str]) -> NotebookNode:
    """Run the notebook in a folder, by a kernel of this Python that imports this checkout."""
    places = {"IPYTHONDIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}
    environment = {**os.environ, **places, **settings, "PYTHONPATH": str(ROOT)}
    environment.pop("WANDB_MODE", None)  # of which transformers prints that it is set
    notebook, where = read_notebook(), {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=BUSY_SECONDS, resources=where).execute(env=environment)
    return notebook


def outputs_of(notebook: NotebookNode) -> dict[str, list[NotebookNode]]:
    """List what each cell of code shows, by the id of the cell."""
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def is_image(output: NotebookNode) -> bool:
    return "image/png" in output.get("data", {})


def test_the_notebook_shows_images_and_no_log(tmp_path: Path) -> None:
    shown = outputs_of(execute(tmp_path, QUICK))
    others = [each for outputs in shown.values() for each in outputs if not is_image(each)]
    assert others == []  # neither what is printed nor warnings
    assert {name: len(outputs) for name, outputs in shown.items() if outputs} == IMAGES
    assert (tmp_path / "runs" / "notebook" / "run" / "report" / "report.html").is_file()


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = read_notebook()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []
    assert {cell.id for cell in code} >= IMAGES.keys()


def test_its_links_lead_to_files() -> None:
    text = "".join(cell.source for cell in read_notebook().cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []


@pytest.mark.parametrize("package", ["phi_vision", "matplotlib"])
def test_a_missing_package_is_named_with_what_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(cell.source for cell in read_notebook().cells if cell.cell_type == "code")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(ModuleNotFoundError) as raised:
        exec(first, {})
    assert f"has no {package}: pip install 'phi-vision[notebook]'" in str(raised.value)


def default_settings() -> dict[str, str]:
    first = next(cell.source for cell in read_notebook().cells if cell.cell_type == "code")
    return dict(re.findall(r'environ\.get\("(\w+)", "(\d+)"\)', first))


def test_the_time_of_the_notebook_is_in_the_log_and_within_its_limit() -> None:
    log = " ".join((DOCS / "log.md").read_text(encoding="utf-8").split())
    settings = default_settings()
    assert settings.keys() == QUICK.keys()
    named = f"{settings['ROWS']} products, {settings['EPOCHS']} epochs: "
    times = re.findall(re.escape(named) + r"(\d+) min (\d+) s", log)
    assert times, f"docs/log.md lacks the time of '{named}'"
    minutes, seconds = map(int, times[-1])
    assert 60 * minutes + seconds <= MAX_SECONDS


def image_file(name: str) -> Path:
    return DOCS / "assets" / f"first-run-{name}.png"


def test_the_page_shows_small_images_of_the_notebook() -> None:
    assert all(f"(assets/{image_file(name).name})" in PAGE for name in ON_THE_PAGE)
    assert sum(image_file(name).stat().st_size for name in ON_THE_PAGE) <= MAX_BYTES
    assert "../examples/first_run.ipynb" in PAGE


def write_images(notebook: NotebookNode) -> None:
    """Draw the images of the page, smaller and with 256 colours."""
    for name in ON_THE_PAGE:
        (data,) = [each.data["image/png"] for each in outputs_of(notebook)[name]]
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        height = round(image.height * WIDTH / image.width)
        small = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
        few = small.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(image_file(name), optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        executed = execute(Path(place), default_settings())
        whole, rest = divmod(round(time.monotonic() - start), 60)
    write_images(executed)
    given = default_settings()
    print(
        f"{given['ROWS']} products, {given['EPOCHS']} epochs: {whole} min {rest} s", file=sys.stdout
    )
