"""The commands of docs/distributed.md for two machines, in two network namespaces."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi_vision.model.checkpoint import load_model

GUIDE = Path(__file__).parents[2] / "docs" / "distributed.md"
CABLE = (
    "ip link add {0} netns {0} type veth peer name {1} netns {1}",
    "ip -n {0} addr add 10.77.0.1/24 dev {0}",
    "ip -n {1} addr add 10.77.0.2/24 dev {1}",
    *(
        f"ip -n {{{host}}} link set {device} up"
        for host in (0, 1)
        for device in (f"{{{host}}}", "lo")
    ),
)

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""Where torchrun and phi-vision are found, also where the environment was not activated."""


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces that see nothing but each other; the cable's ends have their names."""
    names = (f"pvA{os.getpid() % 100000}", f"pvB{os.getpid() % 100000}")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip (iproute2)")
    try:
        for name in names:
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        for command in CABLE:
            subprocess.run(shlex.split(command.format(*names)), check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def commands_for_two_machines() -> list[list[str]]:
    """Take the two torchrun commands out of the guide, as words."""
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("torchrun --nnodes 2")]


def test_two_hosts_train_one_sharded_model(
    hosts: tuple[str, str], tmp_path: Path, products: Path, tiny_checkpoint: Path
) -> None:
    commands = commands_for_two_machines()
    assert [words[words.index("--node-rank") + 1] for words in commands] == ["0", "1"]
    small = shlex.split(
        f"--model {tiny_checkpoint} --validation-fraction 0 --max-steps 2 "
        "--per-device-train-batch-size 4 "
        "--no-bf16 --report-to none"
    )
    here = {"catalog": str(products), "runs/lora": str(tmp_path / "run")}
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *(here.get(word, word) for word in [*words, *small])],
            env={**os.environ, "PATH": PATH, "GLOO_SOCKET_IFNAME": host, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host, words in zip(hosts, commands, strict=True)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said[0][-2000:] + said[1][-2000:]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert "2 processes train together, sharding fsdp" in said[0]
    assert "processes train together" not in said[1], "only the first process speaks"
    load_model(tmp_path / "run")
