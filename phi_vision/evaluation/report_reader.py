"""read_report: what an evaluation wrote down, read back for a comparison."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from phi_vision.data.prediction import Prediction, ScoredPrediction
from phi_vision.data.samples import Value
from phi_vision.data.template import TEMPLATE_FILE, Template, find_template
from phi_vision.evaluation.report import PREDICTIONS_FILE, SCORES_FILE
from phi_vision.metrics.comparison import Entry
from phi_vision.training.tracking.curves import Log, read_log

REPORT_FOLDER = "report"
"""Where a run folder holds its report."""

RECIPE_FILE, LOG_FILE, VERSIONS_FILE = "recipe.yaml", "log.jsonl", "versions.json"


@dataclass(frozen=True, kw_only=True)
class Report:
    """An evaluation as its folder tells it, and the run it belongs to."""

    entry: Entry
    """Name, template and answers: what is compared."""

    folder: Path
    """Of the report: next to what it tells lies its page."""

    recipe: Mapping[str, object]
    """Field -> value; {} where it is not known how the answerer was trained."""

    versions: Mapping[str, str]
    """Library -> version, and the fingerprint of the training data; {} where not known."""

    cost: Mapping[str, str]
    """What -> how much, in words; {} where not known."""

    log: Log | None
    """The run's, for learning curves."""


def read_report(folder: Path) -> Report:
    """Read the report in a folder, or in the `report` folder of a run.

    Input:  runs/lora, with report/predictions.jsonl, recipe.yaml and log.jsonl
    Output: the answers under the name "runs/lora", the recipe's fields, the run's log

    Raises:
        ValueError: There is no report, or it is damaged; says how to write one.
    """
    report = _find_report(folder)
    facts = _read_json(report / SCORES_FILE).get("facts", {})
    # A report that lies in its run is told more about it than the report itself holds.
    run = report.parent if (report.parent / RECIPE_FILE).is_file() else report
    log, versions = run / LOG_FILE, run / VERSIONS_FILE
    template = find_template(str(report / TEMPLATE_FILE))
    return Report(
        entry=Entry(
            name=str(folder), template=template, answers=read_answers(report, template=template)
        ),
        folder=report,
        recipe=read_recipe(run, facts.get("recipe", "")),
        versions=_read_json(versions) if versions.is_file() else facts.get("versions", {}),
        cost=facts.get("cost", {}),
        log=read_log(log) if log.is_file() else None,
    )


def read_answers(report: Path, *, template: Template) -> tuple[ScoredPrediction, ...]:
    """Read what was said about each sample; the texts are parsed anew.

    Raises:
        ValueError: A line is not what an evaluation writes.
    """
    file = report / PREDICTIONS_FILE
    answers = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            answers.append(_answer(json.loads(line), template))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file}, line {number} is no prediction: {error!r}; found {line:.80}; "
                "evaluate again"
            ) from error
    if not answers:
        raise ValueError(f"{file} holds no predictions; evaluate again")
    return tuple(answers)


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


def _find_report(folder: Path) -> Path:
    """Find the folder that holds the predictions: this one, or `report` in it.

    Raises:
        ValueError: Neither does, or a file beside them is missing.
    """
    places = (folder / REPORT_FOLDER, folder)
    report = next((place for place in places if (place / PREDICTIONS_FILE).is_file()), None)
    if report is None:
        found = "there is no such folder"
        if folder.is_dir():
            found = f"it holds {', '.join(sorted(file.name for file in folder.iterdir())) or '-'}"
        elif folder.exists():
            found = "it is a file"
        raise ValueError(
            f"no report in {folder}: {found}; write one with `phi-vision evaluate {folder} "
            f"--data DATA --out {folder / REPORT_FOLDER}`"
        )
    missing = [name for name in (TEMPLATE_FILE, SCORES_FILE) if not (report / name).is_file()]
    if missing:
        raise ValueError(
            f"the report in {report} lacks {missing[0]}: an older version wrote it; evaluate again"
        )
    return report


def _read_json(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}; evaluate again") from error
    if not isinstance(held, dict):
        raise ValueError(f"{file} holds a {type(held).__name__}, not fields; evaluate again")
    return held


def read_recipe(run: str | Path, told: str = "") -> Mapping[str, Any]:
    """Read how a run was trained.

    Args:
        run: Its folder.
        told: The recipe as YAML from elsewhere, where the folder has none.

    Returns:
        Field -> value; {} where nothing tells.

    Raises:
        ValueError: The file is no YAML.
    """
    file = Path(run) / RECIPE_FILE
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8") if file.is_file() else told)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    return recipe if isinstance(recipe, dict) else {}
