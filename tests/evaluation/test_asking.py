"""Asking: nothing twice, nothing lost, also where a run is killed."""

import json
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from phi_vision.data.prediction import Prediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import TEMPLATES
from phi_vision.evaluation.prediction_cache import ask, seconds_a_reply
from phi_vision.inference.predictions_file import FilePredictor

PORTION = 4


def sample(name: str, *images: bytes) -> Sample:
    return Sample(id=name, group=name, images=images, record={})


SAMPLES = [sample(f"s{number}", bytes([number])) for number in range(40)]


class Clerk:
    """Answers with what it is shown, the last first, and notes what it was asked about."""

    def __init__(self, notes: Path, *, seconds: float = 0.0, fails_after: int = 10**9) -> None:
        self.template = TEMPLATES["product"]
        self.name = "clerk"
        self.notes = notes
        self.seconds = seconds
        self.fails_after = fails_after
        self.grammars: list[str | None] = []

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        self.grammars.append(grammar)
        order = list(range(len(samples)))[::-1]
        for start in range(0, len(order), PORTION):
            if start >= self.fails_after:
                raise ValueError("sample 'torn': no image")
            places = order[start : start + PORTION]
            with self.notes.open("a") as notes:
                notes.writelines(f"{samples[place].id}\n" for place in places)
            time.sleep(self.seconds)
            for place in places:
                yield place, reply_to(samples[place])

    def asked(self) -> list[str]:
        return self.notes.read_text().split() if self.notes.exists() else []


def reply_to(each: Sample) -> Prediction:
    return Prediction.parse(f"é\n{each.images}", TEMPLATES["product"], confidence={"title": 1 / 3})


@pytest.fixture
def clerk(tmp_path: Path) -> Clerk:
    return Clerk(tmp_path / "notes")


def test_replies_come_in_the_order_of_the_samples_and_are_kept(
    clerk: Clerk, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "answers.jsonl"
    predictions = ask(clerk, SAMPLES, file, fingerprint="f", grammar="start: A")
    assert predictions == [reply_to(each) for each in SAMPLES]
    assert clerk.grammars == ["start: A"]
    assert ask(clerk, SAMPLES, file, fingerprint="f") == predictions
    assert clerk.grammars == ["start: A"]  # nothing was left to be asked


def test_progress_counts_what_is_already_there(clerk: Clerk, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    file = tmp_path / "answers.jsonl"
    broken = Clerk(tmp_path / "notes", fails_after=PORTION)
    with pytest.raises(ValueError, match="sample 'torn'"):
        ask(broken, SAMPLES[:6], file, fingerprint="f")
    ask(clerk, SAMPLES[:6], file, fingerprint="f", progress=lambda *step: steps.append(step))
    assert steps == [(4, 6), (5, 6), (6, 6)]


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    file, clerk = tmp_path / "answers.jsonl", Clerk(tmp_path / "notes")
    child = multiprocessing.get_context("fork").Process(
        target=ask,
        args=(Clerk(clerk.notes, seconds=0.05), SAMPLES, file),
        kwargs={"fingerprint": "f"},
    )
    child.start()
    while not file.exists() or file.read_bytes().count(b"\n") < 3 * PORTION:
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    before = len(clerk.asked())
    assert before < len(SAMPLES)

    predictions = ask(clerk, SAMPLES, file, fingerprint="f")
    assert predictions == ask(clerk, SAMPLES, tmp_path / "uninterrupted.jsonl", fingerprint="f")
    asked = clerk.asked()[: -len(SAMPLES)]
    assert set(asked) == {each.id for each in SAMPLES}
    assert len(asked) <= len(SAMPLES) + PORTION


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_was_cut_is_asked_again(clerk: Clerk, tmp_path: Path, cut: int) -> None:
    file = tmp_path / "answers.jsonl"
    predictions = ask(clerk, SAMPLES[:3], file, fingerprint="f")
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert ask(clerk, SAMPLES[:3], file, fingerprint="f") == predictions
    assert clerk.asked() == ["s2", "s1", "s0", "s0"]
    assert seconds_a_reply(file) > 0
    timed = rb'"seconds": [^}]*'
    assert re.sub(timed, b"", file.read_bytes()) == re.sub(timed, b"", whole)


def test_a_first_line_that_was_cut_is_written_again(clerk: Clerk, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(b'{"asked": "f')
    assert ask(clerk, SAMPLES[:1], file, fingerprint="f") == [reply_to(SAMPLES[0])]
    assert json.loads(file.read_text().splitlines()[0]) == {"asked": "f"}


def test_answers_of_another_evaluation_are_not_mixed_in(clerk: Clerk, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    ask(clerk, SAMPLES[:1], file, fingerprint="f")
    kept = file.read_bytes()
    with pytest.raises(ValueError, match=r"another evaluation .*--out, or delete the file"):
        ask(clerk, SAMPLES[:1], file, fingerprint="g")
    assert file.read_bytes() == kept


@pytest.mark.parametrize("line", ["[]", "{", '{"place": 9, "id": "s0"}', "\0\0"])
def test_a_damaged_line_is_named(clerk: Clerk, tmp_path: Path, line: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(f'{{"asked": "f"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"line 2 is no answer of this evaluation; delete"):
        ask(clerk, SAMPLES, file, fingerprint="f")


def test_an_answer_about_another_sample_is_no_answer(clerk: Clerk, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    ask(clerk, SAMPLES[:2], file, fingerprint="f")
    with pytest.raises(ValueError, match="line 2 is no answer of this evaluation"):
        ask(clerk, SAMPLES[:2][::-1], file, fingerprint="f")


def test_the_same_images_are_asked_about_once(clerk: Clerk, tmp_path: Path) -> None:
    white = [sample("a", b"w"), sample("b", b"w", b"w"), sample("c", b"w"), sample("d")]
    steps: list[tuple[int, int]] = []
    predictions = ask(
        clerk,
        [*white, sample("e")],
        tmp_path / "answers.jsonl",
        fingerprint="f",
        progress=lambda *step: steps.append(step),
    )
    assert clerk.asked() == ["d", "b", "a"]
    assert predictions == [reply_to(white[place]) for place in (0, 1, 0, 3, 3)]
    assert steps[-1] == (3, 3)


def test_a_file_of_answers_is_asked_about_every_sample(tmp_path: Path) -> None:
    file = tmp_path / "written.jsonl"
    file.write_text("".join(json.dumps({"id": n, "text": n}) + "\n" for n in ("a", "b")))
    predictions = ask(
        FilePredictor(file), [sample("a"), sample("b")], tmp_path / "answers.jsonl", fingerprint="f"
    )
    assert [reply.text for reply in predictions] == ["a", "b"]


def test_a_place_that_cannot_be_written_to_is_refused(clerk: Clerk, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot keep answers in .*give another folder"):
        ask(clerk, SAMPLES, tmp_path / "file" / "answers.jsonl", fingerprint="f")
    assert not clerk.asked()


def test_a_full_disk_is_told_and_what_was_written_stays(clerk: Clerk, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ValueError, match=r"cannot keep answers in .*: File too large"):
            ask(clerk, SAMPLES, file, fingerprint="f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    asked = len(clerk.asked())
    assert ask(clerk, SAMPLES, file, fingerprint="f") == [reply_to(each) for each in SAMPLES]
    assert len(clerk.asked()) <= len(SAMPLES) + PORTION < len(SAMPLES) + asked


def test_no_samples_need_no_answers(clerk: Clerk, tmp_path: Path) -> None:
    assert ask(clerk, [], tmp_path / "answers.jsonl", fingerprint="f") == []
