"""Reports: the files of the folder, and the content of the page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from toy_evaluation import toy_evaluation
from toy_reports import HOSTILE, PRODUCT

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Record
from phi_vision.data.template import Template, find_template
from phi_vision.evaluation.report import (
    Evaluation,
    explain,
    read_report,
    render,
    write_report,
)
from phi_vision.evaluation.sections import compare_to_overall, prediction_error, rank
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import SelectiveThreshold
from phi_vision.metrics.scores import SYSTEMS, score

SLICE = Estimate(0.2, 0.1, 0.3)

FILES = {"report.html", "report.md", "scores.json", "predictions.jsonl", "template.yaml"}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return toy_evaluation()


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return render("report.html.j2", evaluation=evaluation)


@pytest.fixture(scope="module")
def folder(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("new") / "folder" / "report"
    page = write_report(evaluation, out)
    assert page == out / "report.html"
    return out


def render_page(evaluation: Evaluation) -> str:
    return render("report.html.j2", evaluation=evaluation)


def section(page: str, anchor: str) -> str:
    return page[page.index(f'<section id="{anchor}"') :].split("</section>")[0]


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", html).split())


def test_the_folder_holds_a_page_a_summary_and_files_for_programs(folder: Path):
    assert {file.name for file in folder.iterdir()} == FILES


def test_scores_hold_everything_but_predictions_and_history(folder: Path, evaluation: Evaluation):
    found = json.loads((folder / "scores.json").read_text())
    scores = evaluation.scores
    estimate = scores.estimates["model"]["category3_code_accuracy"]
    assert found["estimates"]["model"]["category3_code_accuracy"] == estimate._asdict()
    assert list(found["estimates"]) == [system for system in SYSTEMS if system in scores.estimates]
    assert found["metrics"]["full_price_mae"]["better"] == "lower"
    assert found["template"]["answer"] == scores.template.answer
    assert found["leakage"]["leaked"]["p7"] == "the same title as t7"
    assert found["calibrations"]["whole record"]["bins"][0]["samples"] > 0
    assert found["calibrations"]["whole record"]["auto_accept"]["target"] == 0.9
    assert found["slices"][0]["estimates"]
    assert found["best_achievable"] == {"full_price_median_ape": 0.03}
    assert found["metadata"]["versions"]["torch"] == "2.13.0+cpu"
    assert found["metadata"]["left_out"] == {"twin": "no twin was given; --twin names one"}
    assert "predictions" not in found
    assert "history" not in found["metadata"]


def test_the_predictions_file_holds_text_record_truth_and_confidence(
    folder: Path, evaluation: Evaluation
):
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    predictions = evaluation.scores.predictions
    assert len(lines) == len(predictions)
    for line, scored in zip(map(json.loads, lines), predictions, strict=True):
        assert line == {
            "id": scored.id,
            "group": scored.group,
            "truth": scored.truth,
            "text": scored.prediction.text,
            "parsed": scored.prediction.record,
            "confidence": scored.prediction.confidence,
        }


def test_the_folder_can_be_read_back(folder: Path, evaluation: Evaluation):
    assert find_template(str(folder)) == evaluation.scores.template
    report = read_report(folder)
    assert report.system.predictions == evaluation.scores.predictions
    assert report.cost == evaluation.metadata.cost
    assert report.recipe["method"] == "lora"


def test_the_summary_has_one_table_and_states_whether_the_model_uses_the_image(
    folder: Path, evaluation: Evaluation
):
    text = (folder / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count(" | ") for row in rows if "---" not in row}) == 1
    assert "| **the model** | **0." in text
    assert "| base model | 0." in text
    assert f"- {evaluation.scores.shuffled_image_check}".split(":")[0] in text
    assert "- 2 samples (3.3\u00a0%) are leaked from training." in text
    assert "\n- At a target precision of 90 %, " in text
    assert "<script" not in text.replace("\\<", "")


def test_an_interrupted_write_leaves_the_old_report(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = write_report(evaluation, tmp_path)
    before = page.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_report(replace(evaluation, scores=replace(evaluation.scores, samples=1)), tmp_path)
    assert page.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == FILES


def test_values_that_json_lacks_become_null(evaluation: Evaluation, tmp_path: Path):
    first, *others = evaluation.scores.predictions
    truth = {**first.truth, "full_price": float("nan")}
    unknown = replace(first, truth=truth, prediction=replace(first.prediction, record=None))
    scores = replace(evaluation.scores, predictions=(unknown, *others))
    write_report(replace(evaluation, scores=scores), tmp_path)
    line = (tmp_path / "predictions.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["truth"]["full_price"] is None


def test_other_samples_and_a_file_in_place_of_the_folder_are_rejected(
    evaluation: Evaluation, tmp_path: Path
):
    with pytest.raises(ValueError, match="60 other samples than the 59 given"):
        write_report(replace(evaluation, samples=evaluation.samples[1:]), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; choose another place"):
        write_report(evaluation, tmp_path / "file")


def test_the_page_makes_no_requests_and_runs_no_scripts(page: str):
    assert "http" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;1&#39;)" in page
    assert set(re.findall(r'src="(.{23})', page)) == {"data:image/jpeg;base64,"}


def test_the_contents_list_every_section_in_order(page: str):
    contents = page.split("</nav>")[0]
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert re.findall(r'href="#([a-z]+)"', contents) == sections
    assert len(sections) == 13


def test_the_summary_has_an_estimate_for_each_field_and_the_baselines_that_it_beats(page: str):
    text = words(section(page, "summary"))
    assert "title: similarity " in text
    assert re.search(r"\d+\.\d % \d+\.\d to \d+\.\d % of the predictions have the correct", text)
    assert re.search("▲ better than .*base model", text)
    assert "At a target precision of 90 %, " in text
    assert "The model uses the image" in text


def test_a_baseline_is_listed_with_its_difference_and_a_result_in_words(page: str):
    text = words(section(page, "baselines"))
    assert re.search(
        r"gradient boosting ▲ better \+0\.\d+ \+0\.\d+ to \+0\.\d+ 0\.\d+ 0\.\d+", text
    )
    assert "text-only twin was not run: no twin was given" in text


def test_bad_results_are_stated_as_plainly(evaluation: Evaluation):
    found = {
        "base": Estimate(0.2, 0.1, 0.3),
        "nearest": Estimate(-0.2, -0.3, -0.1),
        "boosting": Estimate(-0.2, -0.3, 0.1),
    }
    differences = {
        system: {**evaluation.scores.differences[system], "title_similarity": difference}
        for system, difference in found.items()
    }
    estimates = {system: evaluation.scores.estimates[system] for system in ("model", *differences)}
    scores = replace(
        evaluation.scores, differences=differences, estimates=estimates, uses_image=False
    )
    worse = replace(evaluation, scores=scores)
    text = words(section(render_page(worse), "summary"))
    assert "title: similarity : ▲ better than base model" in text
    assert "≈ not significant against gradient boosting; ▼ worse than nearest neighbour." in text
    assert "No evidence that the model uses the image" in text
    assert "no field gets significantly worse" in text
    summary = render("report.md.j2", evaluation=worse)
    assert (
        "\n- **title: similarity**: ▲ better than base model; ≈ not significant against gradient "
        "boosting; ▼ worse than nearest neighbour.\n"
    ) in summary
    assert "\n- text-only twin was not run: no twin was given" in summary


def test_a_model_that_loses_to_its_own_tower_is_told_so(evaluation: Evaluation):
    differences = evaluation.scores.differences
    for low, high, is_told in ((-0.3, -0.1, True), (-0.3, 0.1, False), (0.1, 0.3, False)):
        changed = {"title_similarity": Estimate((low + high) / 2, low, high)}
        nearest = {"nearest": {**differences["nearest"], **changed}}
        scores = replace(evaluation.scores, differences=differences | nearest)
        found = replace(evaluation, scores=scores)
        sentence = (
            "title: similarity: the nearest neighbour on the vision tower of the model is "
            "significantly better, so the model has not learned to use what its tower sees."
        )
        assert (sentence in explain(scores, "tower")) == is_told
        if is_told:
            assert sentence in words(render_page(found))
            assert sentence in render("report.md.j2", evaluation=found)


def test_baselines_are_ranked_the_best_first(evaluation: Evaluation):
    scores = evaluation.scores
    metric = scores.metrics["title_similarity"]
    ranked = rank(scores, ("constant", "nearest", "twin", "boosting"), metric)
    values = [scores.estimates[s][metric.name].value for s in ranked[:3]]
    assert values == sorted(values, reverse=True)
    assert ranked[-1] == "twin"  # was not run


def test_page_and_summary_name_the_systems_whose_predictions_do_not_parse(evaluation: Evaluation):
    silent = Estimate(0.4, 0.3, 0.5)
    estimates = dict(evaluation.scores.estimates)
    for system in ("base", "withheld"):
        estimates[system] = {**estimates[system], "parse_rate": silent}
    found = replace(evaluation, scores=replace(evaluation.scores, estimates=estimates))
    sentence = "Fewer than half of the predictions parse: base model and no image. Differences from"
    for text in (words(render_page(found)), render("report.md.j2", evaluation=found)):
        assert sentence in text
    assert explain(evaluation.scores, "unparsed") == []


def test_without_a_prediction_that_parses_none_is_called_correct():
    samples = toy_evaluation(minimal=True).samples
    silent = {system: [Prediction.parse("?", PRODUCT)] * 60 for system in ("model", "shuffled")}
    evaluation = toy_evaluation(minimal=True)
    scores = score(silent, samples, PRODUCT, training=samples)
    page = words(render_page(replace(evaluation, scores=scores)))
    assert "No prediction parses." in page
    assert "Every prediction that parses" not in page
    assert "Not tested whether the images matter: 0 of 60 samples" in page
    summary = render("report.md.j2", evaluation=replace(evaluation, scores=scores))
    assert "- Not tested whether the images matter: 0 of 60 samples" in summary
    assert "- Leakage was not checked." in summary
    assert not re.search(r"\b(nan|inf)\b", page.split("@media")[-1] + summary)


def test_one_table_holds_all_metrics_of_all_systems(page: str, evaluation: Evaluation):
    table = section(page, "metrics").split("</table>")[0]
    assert table.count('scope="col"') == 1 + len(evaluation.scores.estimates) + 1
    assert table.count('scope="row"') == len(evaluation.scores.metrics)
    assert "best achievable" in table
    assert table.count("approximate interval") == 2, "macro F1 and rank correlation"


def test_a_threshold_is_explained_with_its_coverage_and_precision(evaluation: Evaluation):
    estimates = {"coverage": Estimate(0.71, 0.65, 0.77), "precision": Estimate(0.961, 0.92, 0.984)}
    auto_accept = SelectiveThreshold(target=0.95, threshold=0.8312, **estimates)
    scores = evaluation.scores

    def explained(auto_accept: SelectiveThreshold) -> list[str]:
        calibration = replace(scores.calibrations["title"], auto_accept=auto_accept)
        return explain(replace(scores, calibrations={"category": calibration}), "thresholds")

    assert explained(auto_accept) == [
        "At a target precision of 95 %, category can be accepted automatically for 71.0 % of the "
        "samples (65.0 to 77.0 %), from a recalibrated confidence of 0.83; the measured precision "
        "is 96.1 % (92.0 to 98.4 %)."
    ]
    assert explained(replace(auto_accept, threshold=None)) == [
        "At a target precision of 95 %, category cannot be accepted automatically."
    ]


def test_leaked_samples_are_counted_with_their_effect(page: str):
    text = words(section(page, "leakage"))
    assert "2 of the 60 samples are leaked (3.3 %)." in text
    assert "the same title as t7" in text


def test_cards_show_image_truth_prediction_and_confidence(page: str):
    cards = section(page, "predictions")
    assert cards.count("<img") == 24
    assert "true: " in cards
    assert re.search(r" · confidence \d+\s%", cards)


def test_a_prediction_that_does_not_parse_is_shown_verbatim(evaluation: Evaluation):
    first, *others = evaluation.scores.predictions
    unparsed = replace(first, prediction=Prediction(text="Lovely! " * 100 + "<b>", record=None))
    scores = replace(evaluation.scores, predictions=(unparsed, *others))
    cards = section(render_page(replace(evaluation, scores=scores)), "predictions")
    assert "✗ Does not parse:</b> Lovely! Lovely!" in cards
    assert "<b>…" not in cards


def test_the_error_of_a_prediction_is_a_mean_over_fields():
    template = Template(
        name="toy", question="?", answer="{kind:category}: {price:number}", layout="chat"
    )
    truth = {"kind": "A", "price": 100.0}

    def error(record: Record | None) -> float:
        prediction = Prediction(text="", record=record)
        scored = ScoredPrediction(id="1", group="1", truth=truth, prediction=prediction)
        return prediction_error(scored, template)

    assert error(truth) == 0.0
    assert error({"kind": "A", "price": 150.0}) == 0.25
    assert error({"kind": "B", "price": 900.0}) == 1.0
    assert error(None) == 1.0


def test_a_section_without_content_is_left_out():
    page = render_page(toy_evaluation(minimal=True))
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert not {"constrained", "learning", "calibration"} & set(sections)
    assert "No baseline was run." in page
    assert "Leakage was not checked." in page


@pytest.mark.parametrize(
    "answer",
    [
        "{title}",
        "{kind:category}",
        "{low:number} to {high:number}",
        "{title}, {sort:category}, {kind:category}",
    ],
)
def test_any_template_has_a_page(answer: str, evaluation: Evaluation):
    template = Template(name="toy", question="<b>?</b>", answer=answer, layout="chat")
    kinds = {"text": HOSTILE, "category": "<i>A</i>", "number": None}
    record = {field: kinds[kind] for field, kind in template.kinds.items()}
    samples = [replace(sample, record=record) for sample in evaluation.samples[:9]]
    texts = [template.render(record)] * 8 + ["?"]
    predictions = {"model": [Prediction.parse(text, template) for text in texts]}
    scores = score(predictions, samples, template, training=samples)
    page = render_page(replace(evaluation, scores=scores, samples=samples))
    assert not re.search(r"\bnan\b", words(page.split("</style>")[1]))
    assert "<i>A</i>" not in page
    assert "<b>?</b>" not in page
    assert ("numbers" in re.findall(r'<section id="([a-z]+)"', page)) == ("number" in answer)


def test_the_page_stays_small(page: str):
    assert len(page.encode()) < 1_000_000


def test_fields_without_a_threshold_share_a_sentence(evaluation: Evaluation):
    without = SelectiveThreshold(
        target=0.95,
        threshold=None,
        coverage=Estimate(0.0, 0.0, 0.0),
        precision=Estimate(*[float("nan")] * 3),
    )
    found = replace(
        without, target=0.9, threshold=0.8, coverage=Estimate(0.5, 0.4, 0.6),
        precision=Estimate(0.95, 0.9, 1.0),
    )  # fmt: skip
    calibrations = {
        name: replace(each, auto_accept=found if name == "full_price" else without)
        for name, each in evaluation.scores.calibrations.items()
    }
    sentences = explain(replace(evaluation.scores, calibrations=calibrations), "thresholds")
    assert [sentence[:32] for sentence in sentences] == [
        "At a target precision of 90 %, f",
        "At a target precision of 95 %, t",
    ]
    assert "title, category3 code and all fields at once cannot be accepted" in sentences[1]


@pytest.mark.parametrize(
    ("estimate", "result"),
    [
        (Estimate(0.5, 0.4, 0.6), "worse"),
        (Estimate(0.9, 0.85, 0.95), "better"),
        (Estimate(0.7, 0.6, 0.9), ""),
        (Estimate(0.9, float("-inf"), float("inf")), ""),
        (Estimate(0.9, float("nan"), float("nan")), ""),
    ],
)
def test_a_slice_is_marked_where_its_interval_excludes_the_value_of_all_samples(
    estimate: Estimate, result: str, evaluation: Evaluation
):
    metric = evaluation.scores.metrics["category3_code_accuracy"]
    assert compare_to_overall(estimate, 0.8, metric) == result


def test_of_an_error_lower_is_better_and_of_a_bias_closer_to_zero(evaluation: Evaluation):
    metrics = evaluation.scores.metrics
    assert compare_to_overall(Estimate(2.0, 1.0, 3.0), 5.0, metrics["full_price_mae"]) == "better"
    assert (
        compare_to_overall(Estimate(-0.3, -0.4, -0.2), 0.1, metrics["full_price_bias"]) == "worse"
    )


def test_marked_slices_are_described_in_words(evaluation: Evaluation):
    first = replace(evaluation.scores.slices[0], estimates={"title_similarity": SLICE})
    scores = replace(evaluation.scores, slices=(first,))
    page = render_page(replace(evaluation, scores=scores))
    assert re.search(r'aria-label="(better|worse) than all samples"', section(page, "slices"))
