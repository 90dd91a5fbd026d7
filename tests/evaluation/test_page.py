"""What the page of an evaluation tells, and in which words."""

import re
from dataclasses import replace

import pytest
from toy_findings import toy_findings
from toy_reports import HOSTILE

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Record
from phi_vision.data.template import Template
from phi_vision.evaluation.calibration_section import explain_threshold, explain_thresholds
from phi_vision.evaluation.data_section import report_slices
from phi_vision.evaluation.metadata import Findings
from phi_vision.evaluation.page import SECTIONS, as_page
from phi_vision.evaluation.prediction_cards import badness
from phi_vision.evaluation.results_section import report_baselines, report_headline
from phi_vision.metrics.bootstrap import Estimate
from phi_vision.metrics.calibration import SelectiveThreshold
from phi_vision.metrics.scores import score
from phi_vision.metrics.slices import Slice


@pytest.fixture(scope="module")
def findings() -> Findings:
    return toy_findings()


@pytest.fixture(scope="module")
def page(findings: Findings) -> str:
    return as_page(findings)


def section(page: str, anchor: str) -> str:
    return page[page.index(f'<section id="{anchor}"') :].split("</section>")[0]


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", html).split())


def test_the_page_needs_nothing_else_and_runs_nothing(page: str):
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;1&#x27;)" in page
    assert set(re.findall(r'src="(.{23})', page)) == {"data:image/jpeg;base64,"}


def test_every_section_stands_in_the_contents_in_the_same_order(page: str):
    contents = page.split("</nav>")[0]
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert re.findall(r'href="#([a-z]+)"', contents) == sections
    assert len(sections) == len(SECTIONS)


def test_the_first_section_gives_a_number_for_each_field_and_says_what_it_beats(page: str):
    told = words(section(page, "headline"))
    assert "title " in told
    assert re.search(r"\d+\.\d % \d+\.\d to \d+\.\d % of the answers name the right", told)
    assert "▲ better than the untuned model" in told
    assert "At 90 % precision, " in told
    assert "It looks at the images" in told


def test_a_rival_is_listed_with_its_margin_and_a_verdict_in_words(findings: Findings):
    told = words(report_baselines(findings).html)
    assert re.search(
        r"gradient boosting ▲ better \+0\.\d+ \+0\.\d+ to \+0\.\d+ 0\.\d+ 0\.\d+", told
    )
    assert "a twin without eyes is missing: no twin was given" in told


def test_what_is_worse_is_said_as_plainly(findings: Findings):
    differences = {
        "base": {"title_similarity": Estimate(0.2, 0.1, 0.3)},
        "nearest": {"title_similarity": Estimate(-0.2, -0.3, -0.1)},
        "boosting": {"title_similarity": Estimate(-0.2, -0.3, 0.1)},
    }
    scores = replace(findings.scores, differences=differences, uses_image=False)
    told = words(report_headline(replace(findings, scores=scores)).html)
    assert "title : ▲ better than the untuned model" in told
    assert "≈ not significant from gradient boosting; ▼ worse than the nearest image." in told
    assert "The images do not matter" in told


def test_all_who_answered_and_all_metrics_stand_in_one_table(page: str, findings: Findings):
    table = section(page, "estimates").split("</table>")[0]
    assert table.count('scope="col"') == 1 + len(findings.scores.estimates) + 1
    assert table.count('scope="row"') == len(findings.scores.metrics)
    assert "best possible" in table


def test_a_model_that_knew_its_faults_says_what_can_be_filled():
    estimates = {"coverage": Estimate(0.71, 0.65, 0.77), "precision": Estimate(0.961, 0.92, 0.984)}
    auto_accept = SelectiveThreshold(target=0.95, threshold=0.8312, **estimates)
    assert explain_threshold("category", auto_accept) == (
        "At 95 % precision, 71.0 % of category (65.0 to 77.0 %) can be filled automatically, from "
        "a recalibrated confidence of 0.83 on; 96.1 % of those were right (92.0 to 98.4 %)."
    )
    nothing = replace(auto_accept, threshold=None)
    assert explain_threshold("category", nothing) == (
        "At 95 % precision, nothing of category can be filled automatically."
    )


def test_leaks_are_counted_with_what_they_do(page: str):
    told = words(section(page, "leakage"))
    assert "2 of the 60 samples leak (3.3 %)." in told
    assert "the same title as t7" in told


def test_cases_show_images_truth_and_what_was_said(page: str):
    cases = section(page, "cases")
    assert cases.count("<img") == 24
    assert "really " in cases
    assert " % sure" in cases


def test_an_answer_that_cannot_be_read_is_shown_as_it_was_written(findings: Findings):
    first, *others = findings.scores.predictions
    unread = replace(first, prediction=Prediction(text="Lovely! " * 100 + "<b>", record=None))
    scores = replace(findings.scores, predictions=(unread, *others))
    cases = section(as_page(replace(findings, scores=scores)), "cases")
    assert "✗ Not readable:</b> Lovely! Lovely!" in cases
    assert "<b>…" not in cases


def test_badness_is_a_mean_over_fields(findings: Findings):
    template = Template(
        name="toy", question="?", answer="{kind:category}: {price:number}", layout="chat"
    )
    truth = {"kind": "A", "price": 100.0}

    def scored(record: Record | None) -> ScoredPrediction:
        prediction = Prediction(text="", record=record)
        return ScoredPrediction(id="1", group="1", truth=truth, prediction=prediction)

    assert badness(scored(truth), template) == 0.0
    assert badness(scored({"kind": "A", "price": 150.0}), template) == 0.25
    assert badness(scored({"kind": "B", "price": 900.0}), template) == 1.0
    assert badness(scored(None), template) == 1.0


def test_what_nobody_knows_has_no_section():
    page = as_page(toy_findings(least=True))
    sections = re.findall(r'<section id="([a-z]+)"', page)
    assert not {"constrained", "learning", "confidence"} & set(sections)
    assert "No rival was asked." in page
    assert "Nobody looked for leaks." in page


@pytest.mark.parametrize(
    "answer",
    [
        "{title}",
        "{kind:category}",
        "{low:number} to {high:number}",
        "{title}, {sort:category}, {kind:category}",
    ],
)
def test_any_template_has_a_page(answer: str, findings: Findings):
    template = Template(name="toy", question="<b>?</b>", answer=answer, layout="chat")
    kinds = {"text": HOSTILE, "category": "<i>A</i>", "number": None}
    record = {field: kinds[kind] for field, kind in template.kinds.items()}
    samples = [replace(sample, record=record) for sample in findings.samples[:9]]
    texts = [template.render(record)] * 8 + ["?"]
    predictions = {"model": [Prediction.parse(text, template) for text in texts]}
    scores = score(predictions, samples, template, training=samples)
    page = as_page(replace(findings, scores=scores, samples=samples))
    assert "nan" not in words(page.split("</style>")[1])
    assert "<i>A</i>" not in page
    assert "<b>?</b>" not in page
    assert ("numbers" in re.findall(r'<section id="([a-z]+)"', page)) == ("number" in answer)


def test_a_page_of_a_test_split_stays_small(page: str):
    assert len(page.encode()) < 1_000_000


def test_fields_of_which_nothing_can_be_filled_share_a_sentence(findings: Findings):
    judged = findings.scores.calibrations
    nothing = SelectiveThreshold(
        target=0.95,
        threshold=None,
        coverage=Estimate(0.0, 0.0, 0.0),
        precision=Estimate(*[float("nan")] * 3),
    )
    calibrations = {
        name: replace(each, auto_accept=each.auto_accept if name == "full_price" else nothing)
        for name, each in judged.items()
    }
    told = explain_thresholds(replace(findings.scores, calibrations=calibrations))
    assert [sentence[:19] for sentence in told] == ["At 90 % precision, ", "At 95 % precision, "]
    assert "nothing of title, category3 code and all fields at once can be filled" in told[1]


def test_a_part_is_marked_only_where_its_interval_leaves_out_all_samples(findings: Findings):
    name = "category3_code_accuracy"
    overall = findings.scores.estimates["model"][name].value
    estimates = {
        "far below": Estimate(overall - 0.3, overall - 0.4, overall - 0.2),
        "far above": Estimate(overall + 0.1, overall + 0.05, overall + 0.15),
        "about the same": Estimate(overall - 0.1, overall - 0.2, overall + 0.1),
        "a single one": Estimate(overall + 0.1, overall + 0.1, overall + 0.1),
    }
    slices = tuple(
        Slice(by="kind", name=part, samples=9, groups=9, estimates={name: estimate})
        for part, estimate in estimates.items()
    )
    report = report_slices(replace(findings, scores=replace(findings.scores, slices=slices)))
    assert report is not None
    rows = {words(row)[:12]: row for row in report.html.split("<tr>")}
    assert "worse than all" in rows["far below 9 "]
    assert "better than all" in rows["far above 9 "]
    assert "than all" not in rows["about the sa"] + rows["a single one"]
