"""Install the wheel into an empty environment, and use it there as a new user would.

    python3.13 -m benchmarks.installed                              # newest dependencies
    python3.13 -m benchmarks.installed --pins                       # those of constraints.txt
    python3.13 -m benchmarks.installed --with transformers==5.23.0  # one end of a range
    python3.13 -m benchmarks.installed --tests tests/model/test_parity.py

The Python that runs this makes the environment, and needs no package itself. torch comes first, as
constraints.txt pins it; the wheel is built from the sdist; no command runs in the checkout. Prints
one line of JSON, or what the first failing command printed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
NOT_SOURCE = (
    *(".git", ".venv", "__pycache__", ".*_cache", "runs", "wandb", "site", "build", "dist"),
    "*.egg-info",
)
HOOK = (
    "import sys; from setuptools import build_meta; "
    "print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"
)
TRAINING = ("--model", "phi-vision-small", "--data", "catalog", "--max-steps", "2")
WITHOUT: Mapping[str, Sequence[str]] = {
    "ray": ("prepare", "catalog", "--engine", "ray", "--workers", "1", "--out", "prepared"),
    "quant": ("train", "qlora", *TRAINING, "--output-dir", "other"),
    "dpo": ("train", "dpo", *TRAINING, "--output-dir", "other"),
    "tensorboard": ("train", "lora", *TRAINING, *("--report-to", "tensorboard"), "--output-dir=o"),
    "onnx": ("export", "phi-vision-small", "--format", "onnx", "--out", "graphs"),
    "photo": ("base", "photo", "--out", "base"),
    "serve": ("serve", "phi-vision-small"),
}
"""Extra -> a command that needs it, and without it says in one line what to install."""
SAVE_IMAGE = (
    "from pathlib import Path; from phi_vision.data.dataset import load_samples; "
    "Path('image').write_bytes(load_samples('catalog')[0].images[0])"
)
DESCRIBE = (
    "import json, platform, torch, transformers; from importlib.metadata import distributions; "
    "print(json.dumps({'python': platform.python_version(), 'torch': torch.__version__, "
    "'transformers': transformers.__version__, 'packages': len([*distributions()])}))"
)


def copy_source(out: Path) -> Path:
    """Copy the checkout without what builds and runs have left in it."""
    return Path(shutil.copytree(ROOT, out, ignore=shutil.ignore_patterns(*NOT_SOURCE)))


def build(kind: Literal["sdist", "wheel"], source: Path, out: Path, python: Path) -> Path:
    """Build a distribution of a source folder with the setuptools of a Python."""
    return out / run([python, "-c", HOOK, kind, out], source).splitlines()[-1]


def run(
    command: Sequence[str | Path],
    folder: Path,
    *,
    expected: int = 0,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run a command in a folder, and return what it printed; any other exit code ends the check."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words, environment = [str(word) for word in command], environment | dict(variables or {})
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != expected:
        sys.exit(f"{done.stdout}\n$ {' '.join(words)}\nended with {done.returncode}")
    return done.stdout


def make_environment(folder: Path) -> Path:
    """Make an empty environment with pip, and return its Python."""
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


def pin(package: str) -> str:
    """Find a package's line in constraints.txt: torch -> torch==2.13.0."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{package}==\S+", pins, re.MULTILINE)
    assert found is not None, package
    return found[0]


def install(python: Path, wheel: Path, options: argparse.Namespace) -> None:
    """Install torch and then the wheel with what is asked for beside it."""
    pip: list[str | Path] = [python, "-m", "pip", "--quiet", "install"]
    run([*pip, pin("torch")], wheel.parent)
    pins: list[str | Path] = ["-c", ROOT / "constraints.txt"] if options.pins else []
    run([*pip, *pins, pin("torch"), wheel, *options.beside], wheel.parent)
    run([python, "-m", "pip", "check"], wheel.parent)


def use(python: Path, folder: Path) -> None:
    """Run the commands of a first hour in an empty folder, and those that lack an extra."""
    command: list[str | Path] = [python.with_name("phi-vision")]
    given = {"HF_HUB_OFFLINE": "1", "PHI_VISION_CACHE": str(folder / "cache")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = run([*command, "--version"], folder, variables=given).strip()
    assert version == f"phi-vision {project['version']}", version
    run([*command, "sample", "--rows", "20", "--out", "catalog"], folder, variables=given)
    trained = ("--report-to", "none", "--eval-samples", "2", "--output-dir", "run")
    run([*command, "train", "lora", *TRAINING, *trained], folder, variables=given)
    run([python, "-c", SAVE_IMAGE], folder, variables=given)
    predicted = run(
        [*command, "predict", "run", "image", "--constrained", "--json"], folder, variables=given
    )
    assert json.loads(predicted.splitlines()[-1])["record"]["title"], predicted
    for extra, words in WITHOUT.items():
        printed = run([*command, *words], folder, expected=2, variables=given)
        assert f"pip install 'phi-vision[{extra}]'" in printed.splitlines()[-1], printed
    run([python, "-m", "pip", "--quiet", "install", "phi-vision[serve]"], folder)
    run([python, "-c", "import phi_vision.serving.server"], folder)


def main() -> None:
    """Build, install and use; print versions, sizes and seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pins", action="store_true", help="install as constraints.txt pins")
    parser.add_argument("--with", dest="beside", nargs="*", default=[], metavar="REQUIREMENT")
    parser.add_argument("--tests", nargs="*", default=[], help="files of tests to run there, too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder that stays")
    options = parser.parse_args()
    begin = time.monotonic()
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).absolute()
        folder.mkdir(exist_ok=True)
        source, builder = copy_source(folder / "source"), make_environment(folder / "builder")
        run([builder, "-m", "pip", "--quiet", "install", "setuptools>=77"], folder)
        sdist = build("sdist", source, folder, builder)
        shutil.unpack_archive(sdist, folder / "unpacked", filter="data")
        (unpacked,) = (folder / "unpacked").iterdir()
        wheel = build("wheel", unpacked, folder, builder)
        python = make_environment(folder / "environment")
        install(python, wheel, options)
        installed = time.monotonic()
        (folder / "empty").mkdir()
        use(python, folder / "empty")
        found = json.loads(run([python, "-c", DESCRIBE], folder / "empty"))
        found |= {"wheel_mb": wheel.stat().st_size / 1e6, "sdist_mb": sdist.stat().st_size / 1e6}
        used = time.monotonic()
        found |= {"install_seconds": installed - begin, "use_seconds": used - installed}
        if options.tests:
            run([python, "-m", "pip", "--quiet", "install", "pytest", "hypothesis"], folder)
            output = run([python, "-m", "pytest", *options.tests], source)
            found["tests"] = output.strip().splitlines()[-1]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
