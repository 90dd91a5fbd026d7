"""JobSpec: who is asked, in which wording, and what may be answered."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from phi_vision.data.template import Template, find_template
from phi_vision.inference.batch_executors import Open
from phi_vision.inference.model_fingerprint import identify
from phi_vision.inference.predictor import load_predictor, resolve_template
from phi_vision.io.hashing import digest
from phi_vision.model.checkpoint import SMALL


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What every row of a catalog is asked."""

    opening: Open
    """Opens whoever is asked, here or on another machine."""

    name: str
    """Who is asked, in words."""

    identity: Sequence[str]
    """Tells the model from another of that name."""

    template: Template
    """Words the question and reads the answer."""

    grammar: str | None = None
    """All that may be written; anything unless given."""

    def facts(self) -> dict[str, str]:
        """Say what decides the answers, each in words that change with it."""
        return {
            "model": f"{self.name} {digest(self.identity)[:16]}",
            "template": json.dumps(dataclasses.asdict(self.template), ensure_ascii=False),
            "grammar": digest([self.grammar])[:16] if self.grammar is not None else "none",
        }


def inquire_of(
    words: str, *, template: str | None = None, grammar: str | None = None, batch_size: int = 16
) -> JobSpec:
    """Prepare to ask whoever is meant; nothing is opened before there is something to ask.

    Args:
        words: As `load_predictor` takes them, but for a file of answers.
        template: As for `load_predictor`.
        grammar: All that may be written (`data.grammar.grammar_of`); anything unless given.
        batch_size: As for `load_predictor`.

    Raises:
        ValueError: A file of answers is meant, or there is no such template.
    """
    if Path(words).suffix == ".jsonl":
        raise ValueError(
            f"{words} is a file of answers that were given elsewhere, so there is nobody to ask; "
            "give a model or a server"
        )
    wording = _whole_path(resolve_template(words, template))
    return JobSpec(
        opening=partial(
            load_predictor, _whole_path(words), template=wording, batch_size=batch_size
        ),
        name=words,
        identity=identify(words),
        template=find_template(wording),
        grammar=grammar,
    )


def _whole_path(words: str) -> str:
    """Make a path whole: workers of a cluster have another working directory."""
    return str(Path(words).absolute()) if words != SMALL and Path(words).exists() else words
