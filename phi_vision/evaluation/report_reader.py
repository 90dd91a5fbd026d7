"""read_report: what an evaluation wrote down, read back for a comparison."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Value
from phi_vision.data.template import Template, find_template
from phi_vision.metrics.comparison import EvaluatedSystem
from phi_vision.runs import History, ReportDir, RunDir


@dataclass(frozen=True, kw_only=True)
class Report:
    """An evaluation as its folder tells it, and the run it belongs to."""

    system: EvaluatedSystem
    """Name, template and answers: what is compared."""

    folder: Path
    """Of the report: next to what it tells lies its page."""

    recipe: Mapping[str, object]
    """Field -> value; {} where it is not known how the answerer was trained."""

    versions: Mapping[str, str]
    """Library -> version, and the fingerprint of the training data; {} where not known."""

    cost: Mapping[str, str]
    """What -> how much, in words; {} where not known."""

    log: History | None
    """The run's, for learning curves."""


def read_report(folder: Path) -> Report:
    """Read the report in a folder, or in the `report` folder of a run.

    Input:  runs/lora, with report/predictions.jsonl, recipe.yaml and log.jsonl
    Output: the answers under the name "runs/lora", the recipe's fields, the run's log

    Raises:
        ValueError: There is no report, or it is damaged; says how to write one.
    """
    report = _find_report(folder)
    metadata = report.scores().get("metadata", {})
    # A report that lies in its run is told more about it than the report itself holds.
    run = RunDir(report.path.parent if RunDir.is_run(report.path.parent) else report.path)
    template = find_template(str(report.template_file))
    return Report(
        system=EvaluatedSystem(
            name=str(folder),
            template=template,
            predictions=read_predictions(report, template=template),
        ),
        folder=report.path,
        recipe=run.recipe(metadata.get("recipe", "")),
        versions=run.versions() or metadata.get("versions", {}),
        cost=metadata.get("cost", {}),
        log=run.history(),
    )


def read_predictions(report: ReportDir, *, template: Template) -> tuple[ScoredPrediction, ...]:
    """Read what was said about each sample; the texts are parsed anew.

    Raises:
        ValueError: A line is not what an evaluation writes.
    """
    file = report.predictions_file
    predictions = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            predictions.append(_answer(json.loads(line), template))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file}, line {number} is no prediction: {error!r}; found {line:.80}; "
                "evaluate again"
            ) from error
    if not predictions:
        raise ValueError(f"{file} holds no predictions; evaluate again")
    return tuple(predictions)


def _answer(line: Mapping[str, Any], template: Template) -> ScoredPrediction:
    truth: dict[str, Value] = template.select(line["truth"])
    return ScoredPrediction(
        id=str(line["id"]),
        group=str(line["group"]),
        truth=truth,
        # The text and not the kept record: JSON has no NaN and no infinity, a text has.
        prediction=Prediction.parse(
            str(line["text"]),
            template,
            confidence=line.get("confidence"),
            source=str(line["id"]),
        ),
    )


def _find_report(folder: Path) -> ReportDir:
    """Find the folder that holds the predictions: this one, or `report` in it.

    Raises:
        ValueError: Neither does, or a file beside them is missing.
    """
    places = (RunDir(folder).report, ReportDir(folder))
    report = next((place for place in places if place.predictions_file.is_file()), None)
    if report is None:
        found = "there is no such folder"
        if folder.is_dir():
            found = f"it holds {', '.join(sorted(file.name for file in folder.iterdir())) or '-'}"
        elif folder.exists():
            found = "it is a file"
        raise ValueError(
            f"no report in {folder}: {found}; write one with `phi-vision evaluate {folder} "
            f"--data DATA --out {RunDir(folder).report.path}`"
        )
    missing = [file for file in (report.template_file, report.scores_file) if not file.is_file()]
    if missing:
        raise ValueError(
            f"the report in {report.path} lacks {missing[0].name}: an older version "
            "wrote it; evaluate again"
        )
    return report
