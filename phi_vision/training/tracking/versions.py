"""What a run depends on besides its recipe: versions.json."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version

from phi_vision.data.samples import Sample
from phi_vision.io.hashing import sha256, sha256_of_all

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "phi-vision")


def versions(samples: Sequence[Sample]) -> dict[str, str]:
    """Name what a run depends on besides its recipe: Python, libraries, and the data's content."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "data_sha256": fingerprint(samples),
    }


def fingerprint(samples: Sequence[Sample]) -> str:
    """Hash ids, records and images of samples, in order."""
    return sha256_of_all(map(_describe, samples))


def _describe(sample: Sample) -> str:
    record = json.dumps([sample.id, sample.group, dict(sample.record)], ensure_ascii=True)
    return json.dumps([record, [sha256(image) for image in sample.images]])
