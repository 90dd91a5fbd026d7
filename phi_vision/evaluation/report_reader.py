"""Read the report of an evaluation back from its folder, for a comparison."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.template import Template, find_template
from phi_vision.metrics.comparison import EvaluatedSystem
from phi_vision.runs import History, ReportDir, RunDir


@dataclass(frozen=True, kw_only=True)
class Report:
    """An evaluation read back, with the run it belongs to."""

    system: EvaluatedSystem
    folder: Path

    recipe: Mapping[str, object]
    """Field -> value; {} where it is unknown."""

    versions: Mapping[str, str]
    """Library -> version, and the fingerprint of the training data; {} where unknown."""

    cost: Mapping[str, str]
    """Item -> cost in words; {} where unknown."""

    history: History | None
    """The run's, for learning curves."""


def read_report(folder: Path) -> Report:
    """Read the report in a folder, or in the report folder of a run.

    Input:  runs/lora, with report/predictions.jsonl, recipe.yaml and log.jsonl
    Output: the predictions under the name "runs/lora", the recipe's fields, the run's history

    Raises:
        ValueError: There is no report, or it is damaged.
    """
    report = _find_report(folder)
    metadata = report.scores().get("metadata", {})
    # The run that a report lies in holds more about it than the report itself.
    run = RunDir(report.path.parent if RunDir.is_run(report.path.parent) else report.path)
    template = find_template(str(report.template_file))
    return Report(
        system=EvaluatedSystem(
            name=str(folder), template=template, predictions=read_predictions(report, template)
        ),
        folder=report.path,
        recipe=run.recipe(metadata.get("recipe", "")),
        versions=run.versions() or metadata.get("versions", {}),
        cost=metadata.get("cost", {}),
        history=run.history(),
    )


def read_predictions(report: ReportDir, template: Template) -> tuple[ScoredPrediction, ...]:
    """Read the prediction of each sample; the texts are parsed again.

    Raises:
        ValueError: A line is not a prediction.
    """
    file = report.predictions_file
    predictions = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            predictions.append(_prediction(json.loads(line), template))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file}, line {number} is not a prediction: {error!r}; found {line:.80}; "
                "evaluate again"
            ) from error
    if not predictions:
        raise ValueError(f"{file} holds no predictions; evaluate again")
    return tuple(predictions)


def _prediction(line: Mapping[str, Any], template: Template) -> ScoredPrediction:
    id, text, confidence = str(line["id"]), str(line["text"]), line.get("confidence")
    return ScoredPrediction(
        id=id,
        group=str(line["group"]),
        truth=template.select(line["truth"]),
        # The text and not the kept record: JSON has neither NaN nor infinity.
        prediction=Prediction.parse(text, template, confidence=confidence, source=id),
    )


def _find_report(folder: Path) -> ReportDir:
    """Find the folder with the predictions: this one, or the report in it."""
    candidates = (RunDir(folder).report, ReportDir(folder))
    report = next((each for each in candidates if each.predictions_file.is_file()), None)
    if report is None:
        found = "there is no such folder"
        if folder.is_dir():
            found = f"it holds {', '.join(sorted(file.name for file in folder.iterdir())) or '-'}"
        elif folder.exists():
            found = "it is a file"
        raise ValueError(
            f"no report in {folder}: {found}; write one with `phi-vision evaluate {folder} "
            f"--data DATA --out {candidates[0].path}`"
        )
    for file in (report.template_file, report.scores_file):
        if not file.is_file():
            raise ValueError(
                f"the report in {report.path} lacks {file.name}: an older version wrote it; "
                "evaluate again"
            )
    return report
