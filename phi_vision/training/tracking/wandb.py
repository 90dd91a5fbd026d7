"""A run in Weights & Biases: curves, a table of predictions, artifacts.

Online when logged in, else offline: `wandb sync OUT/wandb/offline-run-*` sends it later, from this
machine. All files stay inside the run folder. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME
and W&B's other variables take effect.
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
from phi_vision.training.tracking.shown_predictions import ShownPrediction

logger = logging.getLogger(__name__)

TABLE_KEY = "validation/answers"
"""The same at every evaluation, so that W&B compares the steps."""

MAX_IMAGES = 8
"""Predictions logged as images too: an offline folder shows these without a server."""

MAX_UPLOAD = 256 * 2**20
"""Artifacts of up to this many bytes are uploaded; larger ones refer to their files."""

INIT_TIMEOUT = 30
"""Seconds to wait for W&B before a run is recorded offline."""

FINISH_TIMEOUT = 1800
"""Seconds to wait for the upload at the end of a run; `wandb sync` uploads the rest."""


class WandbRun:
    """One run in W&B; a resumed run folder continues it."""

    def __init__(self, folder: RunDir, *, data: str, recipe: str) -> None:
        self.folder = folder
        self.data = Path(data).resolve()
        # Plain values, numbers as numbers, so that W&B can sort and filter.
        self.config: dict[str, object] = yaml.safe_load(recipe)
        self._stack = ExitStack()
        self._stack.enter_context(_environment(_folders(folder.path)))
        try:
            self.run = _start(folder.path, self.config)
        except BaseException:
            self._stack.close()
            raise
        self.run.define_metric("validation/loss", summary="min,last")
        try:
            self._log_data()
        # The server, or a file of the data that cannot be read: the curves are worth having anyway.
        except Exception as problem:
            logger.warning("the data of this run is not logged to W&B: %s", problem)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics."""
        self.run.log(dict(metrics), step=step)

    def show(self, step: int, predictions: Sequence[ShownPrediction]) -> None:
        """Log predictions as a table with one right/wrong column per field."""
        fields = list(predictions[0].is_correct) if predictions else []
        columns = ["Image", "Ground truth", "Predicted", *(f"{field} right" for field in fields)]
        table = wandb.Table(columns=[*columns, "Sample", "Step"])
        for each in predictions:
            right = (each.is_correct[field] for field in fields)
            texts = (each.ground_truth, each.scored.prediction.text)
            table.add_data(_image(each), *texts, *right, each.scored.id, step)
        plain = [_image(each) for each in predictions[:MAX_IMAGES] if each.image is not None]
        self.run.log({TABLE_KEY: table, "validation/images": plain}, step=step)

    def finish(self, model: Path, best: Mapping[str, object]) -> None:
        """Log the best weights and their metrics as an artifact with alias `best`."""
        self.run.summary.update({f"best/{name}": value for name, value in best.items()})
        metadata = {**best, "recipe": self.config}
        artifact = wandb.Artifact(f"model-{self.run.id}", type="model", metadata=metadata)
        add_files(artifact, [path for path in sorted(model.rglob("*")) if path.is_file()], model)
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, *, failed: bool) -> None:
        """End the run and wait for the upload; W&B shows a failed one as such."""
        with self._stack:
            self.run.finish(exit_code=int(failed))

    def _log_data(self) -> None:
        """Log the training data: its files if they are small, and its fingerprint."""
        data, found = self.data, self.folder.versions()
        artifact = wandb.Artifact(
            re.sub(r"[^\w.-]", "-", data.stem) or "data",
            type="dataset",
            metadata={"path": str(data), DATA_FINGERPRINT: found.get(DATA_FINGERPRINT)},
        )
        files = [data] if data.is_file() else sorted(p for p in data.rglob("*") if p.is_file())
        own = self.folder.path.resolve()
        files = [path for path in files if not path.is_relative_to(own)]
        add_files(artifact, files, data.parent if data.is_file() else data)
        with artifact.new_file("fingerprint.json") as file:
            # So that other content is another version, also if files are only referred to.
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
    is_small = sum(path.stat().st_size for path in files) <= MAX_UPLOAD
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


def _start(folder: Path, config: Mapping[str, object]) -> Any:
    """Start the run, offline if W&B does not respond."""
    mode = os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
    try:
        return _init(folder, config, mode)
    except wandb.Error as problem:
        if mode != "online":
            raise
        logger.warning("W&B did not respond (%s); this run is recorded offline", problem)
        # W&B's own process still holds the id of the run that could not start.
        wandb.teardown()
        return _init(folder, config, "offline")


def _init(folder: Path, config: Mapping[str, object], mode: Any) -> Any:
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "phi-vision"),
        name=os.environ.get("WANDB_NAME", folder.name),
        job_type=os.environ.get("WANDB_JOB_TYPE", "train"),
        # The same folder is the same run, also after it was resumed.
        id=_id(folder),
        resume="allow" if mode == "online" else None,
        dir=folder.resolve(),
        config=dict(config),
        mode=mode,
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT,
            finish_timeout=FINISH_TIMEOUT,
            disable_git=True,
        ),
    )


def _id(folder: Path) -> str:
    """Read the run's W&B id, or create and store one."""
    file = folder / "wandb" / "id"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _image(shown: ShownPrediction) -> Any:
    """Wrap an image anew for each use, since W&B moves its file."""
    if shown.image is None:
        return None
    caption = f"{shown.scored.prediction.text} (true: {shown.ground_truth})"
    return wandb.Image(shown.image, caption=caption, file_type="jpg")


def _folders(folder: Path) -> dict[str, str]:
    """Return W&B's folders as environment variables, all inside the run folder."""
    place = folder.resolve() / "wandb"
    return {
        "WANDB_DIR": str(folder.resolve()),
        "WANDB_DATA_DIR": str(place / "data"),
        "WANDB_CACHE_DIR": str(place / "cache"),
        "WANDB_ARTIFACT_DIR": str(place / "artifacts"),
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
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
