"""What README.md and demo.sh tell a reader to type is understood, and the files they name exist."""

import itertools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from phi_vision.cli.main import command_parser, front_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A path of the repository: something with a slash or an ending, in backticks or as a link's target.
NAMED = re.compile(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|md|toml|sh|txt|yaml))`|\]\(([^)#:\s]+)\)")
MADE_BY_THE_READER = ("runs/", "~", "/", "template.yaml")


def commands(script: str) -> list[list[str]]:
    """Take the `phi-vision` commands out of a shell script, as words.

    Input:  "$ phi-vision train lora \\\\\n    --data x | tee log   # comment"
    Output: [["train", "lora", "--data", "x"]]

    Variables in front are left out, and `torchrun` with its own options, too.
    """
    found = []
    for line in joined(script):
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        words = [*itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words)]
        if words[:1] == ["torchrun"] and "phi-vision" in words:
            words = words[words.index("phi-vision") :]
        if words[:1] == ["phi-vision"]:
            ends = [words.index(word) for word in ("|", ">", "&&", "&", ";") if word in words]
            found.append(words[1 : min(ends, default=None)])
    return found


def joined(script: str) -> list[str]:
    """Give a script's lines, those that end in a backslash joined to the next."""
    return script.replace("\\\n", " ").splitlines()


def documented() -> list[tuple[str, list[str]]]:
    shown = [
        (document.name, words)
        for document in DOCUMENTS
        for script in FENCED.findall(document.read_text(encoding="utf-8"))
        for words in commands(script)
    ]
    demo = [
        line.strip()
        for line in joined((ROOT / "demo.sh").read_text(encoding="utf-8"))
        if re.match(r"\s*(phi-vision |\w+=1 torchrun )", line)
    ]
    return shown + [("demo.sh", words) for words in commands("\n".join(demo))]


@pytest.mark.parametrize(("document", "words"), documented())
def test_a_documented_command_is_understood(document: str, words: list[str]) -> None:
    if words[:1] in (["--help"], ["--version"]) or "--help" in words:
        return
    front_parser().read(words[:1])
    command_parser(words[0]).read(words[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_files_a_document_names_exist(document: Path) -> None:
    for match in NAMED.finditer(document.read_text(encoding="utf-8")):
        name = match[1] or match[2]
        if name.startswith(MADE_BY_THE_READER):
            continue
        places = [ROOT / name, document.parent / name, ROOT / "phi_vision" / name]
        assert any(place.exists() for place in places), f"{document.name} names {name}"


def test_the_readme_is_short_and_shows_photographs_first_from_where_they_are() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 90
    images = re.findall(r'<img src="(\S+)"|!\[[^]]+\]\((\S+)\)', readme)
    # Their licence is not that of this project, so none of them is a file here.
    source = (
        r"https://raw\.githubusercontent\.com/magento/magento2-sample-data/[0-9a-f]{40}/\S+\.jpg"
    )
    assert [bool(re.fullmatch(source, address)) for address, _ in images] == [True] * 3 + [False]
    assert images[-1][1] == "docs/example.png"
    assert "OSL-3.0" in readme


def test_a_command_is_found_in_its_script() -> None:
    script = "$ phi-vision train lora \\\n    --data x | tee log   # comment\nls\n"
    assert commands(script) == [["train", "lora", "--data", "x"]]
    started = "N=1 torchrun --nproc-per-node 2 --no-python -- phi-vision predict run a.jpg"
    assert commands(started) == [["predict", "run", "a.jpg"]]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("data", [[], ["DATA=no/such/folder"]])
def test_the_demo_on_photographs_says_which_folder_it_needs(data: list[str]) -> None:
    command = ["make", "--no-print-directory", "demo-photos", *data]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("make demo-photos: there is no DATA '")
    assert "make demo-photos DATA=FOLDER" in done.stderr.splitlines()[0]


@pytest.mark.parametrize("file", [ROOT / "demo.sh", *DOCUMENTS], ids=lambda file: file.name)
def test_torchrun_leaves_the_options_of_phi_vision_alone(file: Path) -> None:
    for line in joined(file.read_text(encoding="utf-8")):
        # Without `--` it takes `--r` for an abbreviation of several options of its own.
        assert not re.search(r"torchrun .*--no-python +phi-vision", line), line
