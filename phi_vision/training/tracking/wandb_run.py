"""A run in Weights & Biases; imported only for such a run, as the library takes long to import.

W&B is online when logged in, else offline: `wandb sync OUT/wandb/offline-run-*` sends it later,
from this machine. Its variables (WANDB_MODE, WANDB_PROJECT, WANDB_TAGS, …) come before what is set
here; without WANDB_DIR and the like, all its files are in the run folder.
"""

import json
import logging
import netrc
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
import yaml
from accelerate.utils import patch_environment
from pydantic import ValidationError

from phi_vision.runs import DATA_FINGERPRINT, RunDir
from phi_vision.training.tracking.plots import ShownPrediction

logger = logging.getLogger(__name__)

FOLDERS = {
    **{"WANDB_DIR": "", "WANDB_DATA_DIR": "wandb/data"},
    **{"WANDB_CACHE_DIR": "wandb/cache", "WANDB_ARTIFACT_DIR": "wandb/artifacts"},
}
"""Variable of W&B -> the folder for it below the run, where it is not set."""

MAX_IMAGES = 8  # predictions logged as images too, which an offline folder shows without a server
MAX_UPLOAD = 256 * 2**20  # bytes up to which an artifact is uploaded: larger ones refer to files

TRUE, FALSE = ("true", "1", "yes", "on", "y", "t"), ("", "false", "0", "no", "off", "n", "f")
"""Values of WANDB_DISABLED, in any case."""

WITHOUT_EFFECT = {
    "WANDB_LOG_MODEL": "the best weights are logged at the end of every run",
    "WANDB_WATCH": "gradients are not logged, only their norm",
}
"""Variables that the callback of transformers reads -> why this one does not."""

SETTINGS = {
    **{"silent": True, "console": "off", "disable_git": True},
    # Seconds until a run is recorded offline, and for the upload at its end; `wandb sync` uploads
    # the rest.
    **{"init_timeout": 30, "finish_timeout": 1800},
}
"""Settings of W&B where its variables (WANDB_SILENT and so on) are not set."""


class WandbRun:
    """One run in W&B; a resumed run folder continues it."""

    def __init__(self, folder: RunDir, recipe: str) -> None:
        self.folder = folder
        # Plain values, numbers as numbers, so that W&B can sort and filter.
        self.config: dict[str, Any] = yaml.safe_load(recipe)
        for name in [name for name, value in os.environ.items() if not value]:
            if name.startswith("WANDB_"):
                del os.environ[name]  # an empty variable is none, but W&B fails on it
        folders = {name: folder.path.resolve() / below for name, below in FOLDERS.items()}
        # A setting alone does not silence what W&B prints before it has read the settings.
        defaults = {**folders, "WANDB_SILENT": "true"}
        unset = {name: value for name, value in defaults.items() if name not in os.environ}
        with ExitStack() as stack:
            stack.enter_context(patch_environment(**unset))
            self.run = _start(folder.path, self.config)
            self._environment = stack.pop_all()
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
        right = [f"{field} right" for each in predictions[:1] for field in each.is_correct]
        columns = ["Image", "Ground truth", "Predicted", *right, "Sample", "Step"]
        table = wandb.Table(columns=columns)
        for each in predictions:
            texts = (each.ground_truth, each.scored.prediction.text)
            table.add_data(_image(each), *texts, *each.is_correct.values(), each.scored.id, step)
        plain = [_image(each) for each in predictions[:MAX_IMAGES] if each.image is not None]
        # The same keys at every evaluation, so that W&B compares the steps.
        self.run.log({"validation/answers": table, "validation/images": plain}, step=step)

    def finish(self, model: Path, best: Mapping[str, object]) -> None:
        """Log the best weights and their metrics as an artifact with alias `best`."""
        self.run.summary.update({f"best/{name}": value for name, value in best.items()})
        metadata = {**best, "recipe": self.config}
        artifact = wandb.Artifact(f"model-{self.run.id}", type="model", metadata=metadata)
        _add_files(artifact, model.rglob("*"), model)
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, *, failed: bool) -> None:
        """End the run and wait for the upload; W&B shows a failed one as such."""
        with self._environment:
            self.run.finish(exit_code=int(failed))

    def _log_data(self) -> None:
        """Log the training data: its files if they are small, and its fingerprint."""
        data, own = Path(self.config["data"]).resolve(), self.folder.path.resolve()
        fingerprint = self.folder.versions().get(DATA_FINGERPRINT)
        metadata = {"path": str(data), DATA_FINGERPRINT: fingerprint}
        name = re.sub(r"[^\w.-]", "-", data.stem) or "data"
        artifact = wandb.Artifact(name, type="dataset", metadata=metadata)
        files, below = ([data], data.parent) if data.is_file() else (data.rglob("*"), data)
        _add_files(artifact, (path for path in files if not path.is_relative_to(own)), below)
        with artifact.new_file("fingerprint.json") as file:
            # So that other content is another version, also if files are only referred to.
            json.dump(artifact.metadata, file)
        if self.run.settings.mode == "online":
            self.run.use_artifact(artifact)
        else:
            # Offline, W&B cannot note what a run used, only what it logged.
            self.run.log_artifact(artifact)


def is_logged_in() -> bool:
    """Whether W&B would find a key: in the environment, or in netrc as `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    given = os.environ.get("WANDB_BASE_URL")
    # Its own server has had another name in earlier releases, whose logins it still accepts.
    servers = [given] if given else [wandb.Settings().base_url, "https://api.wandb.ai"]
    try:
        known = netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser()).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any(urlparse(server).netloc in known for server in servers)


def _add_files(artifact: Any, paths: Iterable[Path], below: Path) -> None:
    """Add files to an artifact under their paths below a folder: whole (not copied first, since
    nothing rewrites them), or as references."""
    files = [path for path in sorted(paths) if path.is_file()]
    is_small = sum(path.stat().st_size for path in files) <= MAX_UPLOAD
    for path in files:
        name = path.relative_to(below).as_posix()
        if is_small:
            artifact.add_file(str(path), name=name, policy="immutable", skip_cache=True)
        else:
            artifact.add_reference(path.resolve().as_uri(), name=name, checksum=False)


def _start(folder: Path, config: Mapping[str, object]) -> Any:
    """Start the run, offline if W&B does not respond. The same folder is the same run."""
    id_file, given = folder / "wandb" / "id", os.environ.get("WANDB_RUN_ID")
    if not id_file.is_file():
        id_file.parent.mkdir(exist_ok=True)
        id_file.write_text((given or secrets.token_hex(4)) + "\n", encoding="utf-8")
    run_id = given or id_file.read_text(encoding="utf-8").strip()
    resume: Any = os.environ.get("WANDB_RESUME") or "allow"

    def start(mode: Any) -> Any:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "phi-vision",
            name=os.environ.get("WANDB_NAME") or folder.name,
            job_type=os.environ.get("WANDB_JOB_TYPE") or "train",
            id=run_id,
            resume=resume if mode == "online" else None,
            dir=os.environ.get("WANDB_DIR") or folder.resolve(),
            config=dict(config),
            mode=mode,
            reinit="create_new",
            settings={k: v for k, v in SETTINGS.items() if f"WANDB_{k.upper()}" not in os.environ},
        )

    mode = os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
    if os.environ.get("WANDB_DISABLED", "").lower() in TRUE:
        mode = "disabled"
    elif mode == "offline" and not os.environ.get("WANDB_MODE"):
        logger.info("no W&B login; `wandb sync %s` uploads the run", folder / "wandb/offline-run-*")
    try:
        return start(mode)
    except wandb.Error as problem:
        if mode != "online":
            raise
        logger.warning("W&B did not respond (%s); this run is recorded offline", problem)
        # W&B's own process still holds the id of the run that could not start.
        wandb.teardown()
        return start("offline")


def check_variables() -> None:
    """Check the variables of W&B before a run begins: later, a failing tracker only warns."""
    if (disabled := os.environ.get("WANDB_DISABLED", "")).lower() not in (*TRUE, *FALSE):
        raise ValueError(f"WANDB_DISABLED is {disabled!r}; choose one of 'true' and 'false'")
    for name, reason in WITHOUT_EFFECT.items():
        if os.environ.get(name):
            logger.warning("%s has no effect: %s", name, reason)
    for name, value in os.environ.items():
        if not name.startswith("WANDB_") or not value:
            continue
        try:
            wandb.Settings().update_from_env_vars({name: value})
        except ValidationError as error:
            first = error.errors()[0]
            expected = first.get("ctx", {}).get("expected")
            problem = f"choose one of {expected}" if expected else f"{first['msg']}; or unset it"
            raise ValueError(f"{name} is {value!r}; {problem}; or use --report-to none") from error
        except wandb.Error as error:
            raise ValueError(f"{name} is {value!r}: {error}; change or unset it") from error


def _image(shown: ShownPrediction) -> Any:
    """Wrap an image anew for each use, since W&B moves its file."""
    if shown.image is None:
        return None
    caption = f"{shown.scored.prediction.text} (true: {shown.ground_truth})"
    return wandb.Image(shown.image, caption=caption, file_type="jpg")
