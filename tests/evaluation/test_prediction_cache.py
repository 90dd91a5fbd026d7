"""Prediction cache: no sample twice, no prediction lost, also where an evaluation is killed."""

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
from phi_vision.evaluation.prediction_cache import predict_cached
from phi_vision.inference.predictor import FilePredictor

BATCH = 4


def sample(name: str, *images: bytes) -> Sample:
    return Sample(id=name, group=name, images=images, record={})


SAMPLES = [sample(f"s{number}", bytes([number])) for number in range(40)]


class CountingPredictor:
    """Predicts the images it gets, the last first, and logs the samples."""

    def __init__(self, notes: Path, *, seconds: float = 0.0, fails_after: int = 10**9) -> None:
        self.template = TEMPLATES["product"]
        self.name = "predictor"
        self.notes = notes
        self.seconds = seconds
        self.fails_after = fails_after
        self.grammars: list[str | None] = []

    def predict_samples(
        self, samples: Sequence[Sample], *, grammar: str | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        self.grammars.append(grammar)
        order = list(range(len(samples)))[::-1]
        for start in range(0, len(order), BATCH):
            if start >= self.fails_after:
                raise ValueError("sample 'torn': no image")
            places = order[start : start + BATCH]
            with self.notes.open("a") as notes:
                notes.writelines(f"{samples[place].id}\n" for place in places)
            time.sleep(self.seconds)
            for place in places:
                yield place, prediction_of(samples[place])

    def asked(self) -> list[str]:
        return self.notes.read_text().split() if self.notes.exists() else []


def prediction_of(each: Sample) -> Prediction:
    return Prediction.parse(f"é\n{each.images}", TEMPLATES["product"], confidence={"title": 1 / 3})


@pytest.fixture
def predictor(tmp_path: Path) -> CountingPredictor:
    return CountingPredictor(tmp_path / "notes")


def test_predictions_are_in_the_order_of_the_samples_and_cached(
    predictor: CountingPredictor, tmp_path: Path
) -> None:
    file = tmp_path / "deep" / "answers.jsonl"
    predictions = predict_cached(predictor, SAMPLES, file, "start: A", key="f")
    assert predictions == [prediction_of(each) for each in SAMPLES]
    assert predictor.grammars == ["start: A"]
    assert predict_cached(predictor, SAMPLES, file, key="f") == predictions
    assert predictor.grammars == ["start: A"]  # nothing was left to be asked


def test_inputs_of_an_earlier_system_are_not_predicted_again(
    predictor: CountingPredictor, tmp_path: Path
) -> None:
    known: dict[object, Prediction] = {}
    steps: list[tuple[int, int]] = []
    predict_cached(predictor, SAMPLES, tmp_path / "model.jsonl", key="f", known=known)
    shuffled = [
        sample(each.id, *other.images)
        for each, other in zip(SAMPLES[:3], [*SAMPLES[1:3], sample("new", b"new")], strict=True)
    ]
    found = predict_cached(
        predictor,
        shuffled,
        tmp_path / "shuffled.jsonl",
        key="g",
        known=known,
        progress=lambda *step: steps.append(step),
    )
    assert found == [prediction_of(each) for each in shuffled]
    assert predictor.asked()[len(SAMPLES) :] == ["s2"]
    assert steps == [(2, 3), (3, 3)]
    # Under a grammar the same inputs have other predictions.
    predict_cached(predictor, SAMPLES[:3], tmp_path / "c.jsonl", "start: A", key="h", known=known)
    assert predictor.grammars == [None, None, "start: A"]


def test_progress_counts_existing_rows(predictor: CountingPredictor, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    file = tmp_path / "answers.jsonl"
    broken = CountingPredictor(tmp_path / "notes", fails_after=BATCH)
    with pytest.raises(ValueError, match="sample 'torn'"):
        predict_cached(broken, SAMPLES[:6], file, key="f")
    predict_cached(
        predictor,
        SAMPLES[:6],
        file,
        key="f",
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(4, 6), (5, 6), (6, 6)]


def test_a_killed_evaluation_resumes(tmp_path: Path) -> None:
    file, predictor = tmp_path / "answers.jsonl", CountingPredictor(tmp_path / "notes")
    child = multiprocessing.get_context("fork").Process(
        target=predict_cached,
        args=(CountingPredictor(predictor.notes, seconds=0.05), SAMPLES, file),
        kwargs={"key": "f"},
    )
    child.start()
    while not file.exists() or file.read_bytes().count(b"\n") < 3 * BATCH:
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    before = len(predictor.asked())
    assert before < len(SAMPLES)

    predictions = predict_cached(predictor, SAMPLES, file, key="f")
    assert predictions == predict_cached(
        predictor, SAMPLES, tmp_path / "uninterrupted.jsonl", key="f"
    )
    asked = predictor.asked()[: -len(SAMPLES)]
    assert set(asked) == {each.id for each in SAMPLES}
    assert len(asked) <= len(SAMPLES) + BATCH


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_truncated_line_is_predicted_again(
    predictor: CountingPredictor, tmp_path: Path, cut: int
) -> None:
    file = tmp_path / "answers.jsonl"
    predictions = predict_cached(predictor, SAMPLES[:3], file, key="f")
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert predict_cached(predictor, SAMPLES[:3], file, key="f") == predictions
    assert predictor.asked() == ["s2", "s1", "s0", "s0"]
    assert sum(each.seconds or 0 for each in predictions) > 0
    timed = rb'"seconds": [^}]*'
    assert re.sub(timed, b"", file.read_bytes()) == re.sub(timed, b"", whole)


def test_a_truncated_first_line_is_written_again(
    predictor: CountingPredictor, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_bytes(b'{"asked": "f')
    assert predict_cached(predictor, SAMPLES[:1], file, key="f") == [prediction_of(SAMPLES[0])]
    assert json.loads(file.read_text().splitlines()[0]) == {"asked": "f"}


def test_predictions_of_another_evaluation_are_rejected(
    predictor: CountingPredictor, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    predict_cached(predictor, SAMPLES[:1], file, key="f")
    kept = file.read_bytes()
    with pytest.raises(ValueError, match=r"another evaluation .*--out, or delete the file"):
        predict_cached(predictor, SAMPLES[:1], file, key="g")
    assert file.read_bytes() == kept


@pytest.mark.parametrize("line", ["[]", "{", '{"place": 9, "id": "s0"}', "\0\0"])
def test_a_damaged_line_is_named(predictor: CountingPredictor, tmp_path: Path, line: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(f'{{"asked": "f"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"line 2 is no prediction of this evaluation; delete"):
        predict_cached(predictor, SAMPLES, file, key="f")


def test_a_prediction_of_another_sample_is_rejected(
    predictor: CountingPredictor, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    predict_cached(predictor, SAMPLES[:2], file, key="f")
    with pytest.raises(ValueError, match="line 2 is no prediction of this evaluation"):
        predict_cached(predictor, SAMPLES[:2][::-1], file, key="f")


def test_equal_images_are_predicted_once(predictor: CountingPredictor, tmp_path: Path) -> None:
    white = [sample("a", b"w"), sample("b", b"w", b"w"), sample("c", b"w"), sample("d")]
    steps: list[tuple[int, int]] = []
    predictions = predict_cached(
        predictor,
        [*white, sample("e")],
        tmp_path / "answers.jsonl",
        key="f",
        progress=lambda *step: steps.append(step),
    )
    assert predictor.asked() == ["d", "b", "a"]
    assert predictions == [prediction_of(white[place]) for place in (0, 1, 0, 3, 3)]
    assert steps[-1] == (3, 3)


def test_a_file_predicts_every_sample(tmp_path: Path) -> None:
    file = tmp_path / "written.jsonl"
    file.write_text("".join(json.dumps({"id": n, "text": n}) + "\n" for n in ("a", "b")))
    predictions = predict_cached(
        FilePredictor(file),
        [sample("a"), sample("b")],
        tmp_path / "answers.jsonl",
        key="f",
    )
    assert [each.text for each in predictions] == ["a", "b"]


def test_an_unwritable_folder_is_rejected(predictor: CountingPredictor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot store predictions in .*choose another folder"):
        predict_cached(predictor, SAMPLES, tmp_path / "file" / "answers.jsonl", key="f")
    assert not predictor.asked()


def test_a_full_disk_is_reported_and_written_predictions_stay(
    predictor: CountingPredictor, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ValueError, match=r"cannot store predictions in .*: File too large"):
            predict_cached(predictor, SAMPLES, file, key="f")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    asked = len(predictor.asked())
    assert predict_cached(predictor, SAMPLES, file, key="f") == [
        prediction_of(each) for each in SAMPLES
    ]
    assert len(predictor.asked()) <= len(SAMPLES) + BATCH < len(SAMPLES) + asked


def test_where_nothing_is_predicted_nothing_is_left(tmp_path: Path) -> None:
    failing = CountingPredictor(tmp_path / "notes", fails_after=0)
    with pytest.raises(ValueError, match="torn"):
        predict_cached(failing, SAMPLES, tmp_path / "report" / "model.jsonl", key="k")
    assert list(tmp_path.iterdir()) == []


def test_no_samples_need_no_predictions(predictor: CountingPredictor, tmp_path: Path) -> None:
    assert predict_cached(predictor, [], tmp_path / "answers.jsonl", key="f") == []
