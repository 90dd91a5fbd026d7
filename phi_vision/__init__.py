"""Phi-3-Vision, native on transformers 5: importing this registers it with the Auto classes.

What needs neither torch nor transformers (the metrics, `phi-vision --help`) starts without them:
both the registration and the names below wait until they are needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

from phi_vision.registration import register_lazily

if TYPE_CHECKING:
    from phi_vision.data.samples import Sample as Sample
    from phi_vision.inference.local import LocalPredictor as Predictor
    from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM as Phi3VForCausalLM
    from phi_vision.model.processing_phi3_v import Phi3VProcessor as Phi3VProcessor

__version__ = "0.1.0"

_PUBLIC = {
    "Phi3VConfig": "model.configuration_phi3_v:Phi3VConfig",
    "Phi3VForCausalLM": "model.modeling_phi3_v:Phi3VForCausalLM",
    "Phi3VImageProcessor": "model.image_processing_phi3_v:Phi3VImageProcessor",
    "Phi3VProcessor": "model.processing_phi3_v:Phi3VProcessor",
    "Predictor": "inference.local:LocalPredictor",
    "Sample": "data.samples:Sample",
}
"""Public name -> module:class, imported on first use."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'phi_vision' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(f"phi_vision.{module}"), attribute)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *_PUBLIC])


register_lazily()
