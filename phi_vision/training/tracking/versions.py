"""What a run depends on besides its recipe: versions.json."""

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version

from phi_vision.data.samples import Sample

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
    digest = hashlib.sha256()
    for sample in samples:
        words = json.dumps([sample.id, sample.group, dict(sample.record)], ensure_ascii=True)
        images = [hashlib.sha256(image).hexdigest() for image in sample.images]
        digest.update(json.dumps([words, images]).encode())
    return digest.hexdigest()
