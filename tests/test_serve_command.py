"""`phi-vision serve`: its words become settings; mistakes are told before anything is loaded."""

import socket
from dataclasses import fields
from pathlib import Path

import pytest

from phi_vision.cli.main import main
from phi_vision.cli.options import Parser
from phi_vision.cli.serve import KEY_VARIABLE, add_options, find_key, settings_from
from phi_vision.serving.settings import Settings


def settings_of(*words: str) -> Settings:
    parser = Parser(prog="phi-vision serve")
    add_options(parser)
    return settings_from(parser.read(["a/run", *words]))


def test_every_setting_but_the_key_is_an_option() -> None:
    parser = Parser(prog="phi-vision serve")
    add_options(parser)
    offered = {action.dest for action in parser._actions}
    assert {field.name for field in fields(Settings)} - offered == {"key"}


def test_options_become_settings() -> None:
    settings = settings_of("--port", "0", "--batch-size", "3", "--allow-hosts", "a.example", "b")
    assert settings == Settings(port=0, batch_size=3, allow_hosts=("a.example", "b"))


def test_the_key_is_the_first_line_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = tmp_path / "key"
    file.write_text("hunter2 \nanother line\n")
    assert settings_of("--key-file", str(file)).key == "hunter2"
    monkeypatch.setenv(KEY_VARIABLE, "hunter2")
    assert find_key(file) == find_key(None) == "hunter2"


def test_an_empty_key_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").touch()
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"there is no key in .*key, which is empty"):
        find_key(tmp_path / "key")
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(ValueError, match="there is no key in PHI_VISION_KEY"):
        find_key(None)


def test_two_keys_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("hunter2")
    monkeypatch.setenv(KEY_VARIABLE, "hunter3")
    with pytest.raises(ValueError, match="hold different keys") as refusal:
        find_key(tmp_path / "key")
    assert "hunter" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "a/run", "--port", "70000"], "--port is 70,000; set a number from 0 to 65,535"),
        (["serve", "a/run", "--key", "x"], "unknown option --key"),
        (["serve", "a/run", "--key-file", "no/such"], "'no/such'; check the path"),
    ],
)
def test_errors_are_printed_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_a_port_in_use_is_reported_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["serve", "no/such/model", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"phi-vision: error: cannot listen on port {port} of 127.0.0.1: Addr")
    assert error.count("\n") == 1
