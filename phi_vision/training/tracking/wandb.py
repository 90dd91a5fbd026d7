"""A run in Weights & Biases, as its users expect it: curves, a table of answers, artifacts.

Online when logged in, else offline: `wandb sync OUT/wandb/offline-run-*` sends it later, from this
machine. All files stay inside the run folder. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME
and the other variables that W&B reads are heeded.
"""

import json
import logging
import netrc
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
import yaml

from phi_vision.runs import DATA_FINGERPRINT, RunDir
from phi_vision.training.tracking.prediction_table import ShownPrediction
from phi_vision.training.tracking.run_metadata import RunFacts

logger = logging.getLogger(__name__)

ANSWERS = "validation/answers"
"""The one key of the table, at every evaluation, so that W&B lays the steps side by side."""

PLAIN_IMAGES = 8
"""Answers sent as plain images too: an offline folder shows these without a server."""

MOST_SENT = 256 * 2**20
"""Artifacts of up to this many bytes are sent with their files; larger ones refer to them."""

START_SECONDS = 30
"""How long W&B is waited for before a run is recorded offline."""

FINISH_SECONDS = 1800
"""How long sending is waited for at the end of a run; `wandb sync` sends what is left."""


class WandbRun:
    """One run in W&B; a resumed run folder goes on in the same one."""

    def __init__(self, facts: RunFacts) -> None:
        self.facts = facts
        self._stack = ExitStack()
        self._stack.enter_context(_environment(_places(facts.folder)))
        try:
            self.run = _start(facts)
        except BaseException:
            self._stack.close()
            raise
        self.run.define_metric("validation/loss", summary="min,last")
        try:
            self._log_data()
        # The server, or a file of the data that cannot be read: the curves are worth having anyway.
        except Exception as problem:
            logger.warning("W&B does not know the data of this run: %s", problem)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures to the curves."""
        self.run.log(dict(figures), step=step)

    def show(self, step: int, answers: Sequence[ShownPrediction]) -> None:
        """Send answers as a table with one right/wrong column for each field."""
        fields = list(answers[0].is_correct) if answers else []
        columns = ["Image", "Ground truth", "Predicted", *(f"{field} right" for field in fields)]
        table = wandb.Table(columns=[*columns, "Sample", "Step"])
        for answer in answers:
            right = (answer.is_correct[field] for field in fields)
            words = (answer.ground_truth, answer.scored.prediction.text)
            table.add_data(_image(answer), *words, *right, answer.scored.id, step)
        plain = [_image(each) for each in answers[:PLAIN_IMAGES] if each.image is not None]
        self.run.log({ANSWERS: table, "validation/images": plain}, step=step)

    def finish(self, model: Path, best: Mapping[str, object]) -> None:
        """Send the best weights, and what is known of them, as an artifact with alias `best`."""
        self.run.summary.update({f"best/{name}": value for name, value in best.items()})
        artifact = wandb.Artifact(
            f"model-{self.run.id}", type="model", metadata={**best, "recipe": _config(self.facts)}
        )
        add_files(artifact, [path for path in sorted(model.rglob("*")) if path.is_file()], model)
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, *, failed: bool) -> None:
        """End the run and wait until it is sent; W&B shows a failed one as such."""
        with self._stack:
            self.run.finish(exit_code=int(failed))

    def _log_data(self) -> None:
        """Say what the run learns from: the files where they are small, their content's hash."""
        data = Path(self.facts.data).resolve()
        found = RunDir(self.facts.folder).versions()
        artifact = wandb.Artifact(
            re.sub(r"[^\w.-]", "-", data.stem) or "data",
            type="dataset",
            metadata={"path": str(data), DATA_FINGERPRINT: found.get(DATA_FINGERPRINT)},
        )
        files = [data] if data.is_file() else sorted(p for p in data.rglob("*") if p.is_file())
        own = self.facts.folder.resolve()
        files = [path for path in files if not path.is_relative_to(own)]
        add_files(artifact, files, data.parent if data.is_file() else data)
        with artifact.new_file("fingerprint.json") as file:
            # So that other content is another version, also where files are only referred to.
            json.dump(artifact.metadata, file)
        if self.run.settings.mode == "online":
            self.run.use_artifact(artifact)
        else:
            # Offline, W&B cannot note what a run used, only what it logged.
            self.run.log_artifact(artifact)


def add_files(artifact: Any, files: Sequence[Path], below: Path) -> None:
    """Add files to an artifact under their paths below a folder: whole, or as references.

    They are not copied first, since nothing rewrites them.
    """
    is_small = sum(path.stat().st_size for path in files) <= MOST_SENT
    for path in files:
        name = path.relative_to(below).as_posix()
        if is_small:
            artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
        else:
            artifact.add_reference(path.resolve().as_uri(), name=name, checksum=False)


def is_logged_in() -> bool:
    """Whether W&B would find a key: in the environment, or in netrc as `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return bool(host and path.is_file() and netrc.netrc(path).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def _start(facts: RunFacts) -> Any:
    """Start the run where it was wished, or offline if W&B does not answer."""
    wished = os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
    try:
        return _init(facts, wished)
    except wandb.Error as problem:
        if wished != "online":
            raise
        logger.warning("W&B did not answer (%s); this run is recorded offline", problem)
        # W&B's own process still holds the id of the run that could not start.
        wandb.teardown()
        return _init(facts, "offline")


def _init(facts: RunFacts, mode: Any) -> Any:
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "phi-vision"),
        name=os.environ.get("WANDB_NAME", facts.folder.name),
        job_type=os.environ.get("WANDB_JOB_TYPE", "train"),
        # The same folder is the same run, also after it was resumed.
        id=_id(facts.folder),
        resume="allow" if mode == "online" else None,
        dir=facts.folder.resolve(),
        config=_config(facts),
        mode=mode,
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=START_SECONDS,
            finish_timeout=FINISH_SECONDS,
            disable_git=True,
        ),
    )


def _config(facts: RunFacts) -> dict[str, object]:
    """Give the recipe as plain values, numbers as numbers, so that W&B can sort and filter."""
    plain: dict[str, object] = yaml.safe_load(facts.recipe)
    return plain


def _id(out: Path) -> str:
    """Read the run's W&B id, or choose one and keep it."""
    file = out / "wandb" / "id"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _image(answer: ShownPrediction) -> Any:
    """Wrap an image anew for each use, since W&B moves the file of one that it was given."""
    if answer.image is None:
        return None
    caption = f"{answer.scored.prediction.text} (true: {answer.ground_truth})"
    return wandb.Image(answer.image, caption=caption, file_type="jpg")


def _places(out: Path) -> dict[str, str]:
    """Name W&B's folders, all inside the run folder."""
    place = out.resolve() / "wandb"
    return {
        "WANDB_DIR": str(out.resolve()),
        "WANDB_DATA_DIR": str(place / "data"),
        "WANDB_CACHE_DIR": str(place / "cache"),
        "WANDB_ARTIFACT_DIR": str(place / "artifacts"),
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
