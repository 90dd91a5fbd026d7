"""The folder of an evaluation: a page and a summary to read, files for programs.

report.html        every result with charts and images, in one page
report.md          one table and a few sentences
scores.json        every estimate with its confidence interval
predictions.jsonl  text, record, truth and confidence of each sample
template.yaml      the template that parses the texts
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from phi_vision.data.prediction import ScoredPrediction
from phi_vision.data.samples import Sample
from phi_vision.data.template import find_template, write_template
from phi_vision.evaluation import figures, labels, sections
from phi_vision.evaluation.config import failure
from phi_vision.io import formatting
from phi_vision.io.atomic import check_kind, write_text
from phi_vision.io.formatting import as_plain, suggestion
from phi_vision.metrics import comparison, field_metrics, scores
from phi_vision.metrics.comparison import Comparison, EvaluatedSystem
from phi_vision.metrics.field_metrics import Metric
from phi_vision.metrics.scores import Scores
from phi_vision.runs import History, ReportDir, RunDir

USED_BY_TEMPLATES = (figures, comparison, field_metrics, scores, labels, sections)


@dataclass(frozen=True, kw_only=True)
class EvaluationMetadata:
    """Model, data, training and cost of an evaluation."""

    model: str
    data: str
    split: str
    data_card: Mapping[str, str]  # part of the data -> its size, in words
    recipe: str  # as YAML; "" where it is unknown
    versions: Mapping[str, str]
    history: History | None
    cost: Mapping[str, str]  # training, prediction or machine -> a few words
    left_out: Mapping[str, str] = field(default_factory=dict)  # system not run -> reason


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report shows; the samples are those of the scores, in the same order."""

    scores: Scores
    samples: Sequence[Sample]
    metadata: EvaluationMetadata


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report read back, with the run it belongs to; what is unknown is empty."""

    system: EvaluatedSystem
    folder: Path
    recipe: Mapping[str, object]
    versions: Mapping[str, str]
    cost: Mapping[str, str]
    history: History | None
    image_check: str = ""  # why there is no evidence that it uses the images; "" where there is


def write_report(evaluation: Evaluation, out: Path) -> Path:
    """Write a report into a folder, each file atomically; return the path of its page."""
    scores = evaluation.scores
    if [each.id for each in evaluation.samples] != [each.id for each in scores.predictions]:
        counts = {"scored": len(scores.predictions), "given": len(evaluation.samples)}
        raise failure("other_samples", **counts)
    check_kind(out, is_folder=True)
    report, content = ReportDir(out), as_plain(scores, OMITTED)
    content["unseen"] = {field: [*counts] for field, counts in scores.unseen.items()}
    content["metadata"] = as_plain(evaluation.metadata, OMITTED)
    dumped = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    files = {
        report.scores_file: dumped + "\n",
        report.predictions_file: "".join(map(_line, scores.predictions)),
        report.summary_file: render("report.md.j2", evaluation=evaluation),
        report.page_file: render("report.html.j2", evaluation=evaluation),
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_text(file, text)
    write_template(scores.template, report.template_file)
    return report.page_file


def write_comparison(comparison: Comparison, reports: Sequence[Report], out: Path) -> Path:
    """Write the page of a comparison of reports atomically; return its path."""
    if out.is_dir():
        raise failure("page_is_folder", out=out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render_comparison(comparison, reports))
    return out


def render_comparison(comparison: Comparison, reports: Sequence[Report]) -> str:
    """Render the page of a comparison; text only, as the images are in the reports."""
    named = {report.system.name: report for report in reports}
    short = sections.short_labels(comparison.names)
    recipes = sections.differing({name: each.recipe for name, each in named.items()})
    recipes.pop("output_dir", None)  # it differs between any two runs
    return render(
        "comparison.html.j2",
        comparison=comparison,
        labels=short,
        recipes=recipes,
        versions=sections.differing({name: each.versions for name, each in named.items()}),
        unknown=[short[name] for name, each in named.items() if not each.recipe],
        costs=sections.by_field({name: each.cost for name, each in named.items()}),
        cautions=cautions(comparison, reports, short),
        histories={name: each.history for name, each in named.items()},
    )


def cautions(
    comparison: Comparison, reports: Sequence[Report], names: Mapping[str, str]
) -> list[str]:
    """Explain which predictions are no evidence about the fields, and which none about the images;
    the systems are called by their `names`."""
    checks = {names[each.system.name]: each.image_check for each in reports if each.image_check}
    unparsed = explain(comparison, "unparsed", names)
    return unparsed + [f"{name}: {check}" for name, check in checks.items()]


def explain(
    scores: Scores | Comparison, topic: str, names: Mapping[str, str] | None = None
) -> list[str]:
    """Explain what can be accepted automatically ("thresholds"), which systems' predictions are no
    evidence ("unparsed"), whether the model knows where an optional field has no value ("missing"),
    or how many predictions are of unknown categories ("unseen").

    Returns [] where no target precision was given, or nothing is concerned."""
    return render(f"{topic}.txt.j2", scores=scores, names=names or {}).splitlines()


def read_report(folder: Path) -> Report:
    """Read the report in a folder, or in the report folder of a run.

    Input:  runs/lora, with report/predictions.jsonl, recipe.yaml and log.jsonl
    Output: the predictions under the name "runs/lora", the recipe's fields, the run's history
    """
    report = _find_report(folder)
    scores = report.scores()
    metadata = scores.get("metadata", {})
    # The run that a report lies in holds more about it than the report itself.
    run = RunDir(report.path.parent if RunDir.is_run(report.path.parent) else report.path)
    template = find_template(str(report.template_file))
    return Report(
        system=EvaluatedSystem(str(folder), template, report.predictions(template)),
        folder=report.path,
        recipe=run.recipe(metadata.get("recipe", "")),
        versions=run.versions() or metadata.get("versions", {}),
        cost=metadata.get("cost", {}),
        history=run.history(),
        image_check="" if scores.get("uses_image") else scores.get("shuffled_image_check", ""),
    )


def _find_report(folder: Path) -> ReportDir:
    """Find the folder with the predictions: this one, or the report in it."""
    candidates = (RunDir(folder).report, ReportDir(folder))
    report = next((each for each in candidates if each.predictions_file.is_file()), None)
    if report is None:
        if not folder.is_dir():
            absent = "there is no such folder" + suggestion(folder)
            found = "it is a file" if folder.exists() else absent
            raise failure("no_folder", folder=folder, found=found)
        found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise failure("no_report", folder=folder, found=found, out=candidates[0].path)
    for file in (report.template_file, report.scores_file):
        if not file.is_file():
            raise failure("old_report", path=report.path, name=file.name)
    return report


def _line(scored: ScoredPrediction) -> str:
    found = scored.prediction
    row: dict[str, Any] = {"id": scored.id, "group": scored.group, "truth": scored.truth}
    row |= {"text": found.text, "parsed": found.record, "confidence": found.confidence}
    # In ASCII no character of a text can end the line.
    return json.dumps(as_plain(row), ensure_ascii=True, allow_nan=False) + "\n"


def render(template: str, **context: object) -> str:
    """Render a file of `templates/`; pages are one file of HTML without scripts or requests."""
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    """Build the Jinja environment: HTML is escaped, an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("phi_vision.evaluation"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"explain": explain}
    for module in USED_BY_TEMPLATES:
        environment.globals |= vars(module)
    formats = vars(formatting) | vars(labels) | vars(figures)
    environment.filters |= {name: each for name, each in formats.items() if callable(each)}
    environment.filters |= {"is_finite": math.isfinite, "is_nan": math.isnan}
    return environment


OMITTED: dict[type, tuple[str, ...]] = {
    Scores: ("predictions",),
    EvaluationMetadata: ("history",),
    Metric: ("per_sample", "aggregate", "limits", "hierarchy", "needs_hierarchy"),
}
"""Fields that scores.json leaves to predictions.jsonl, to the run's log.jsonl and to the code."""
