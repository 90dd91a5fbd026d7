"""Phi-3-Vision, native on transformers 5: importing this registers it with the Auto classes.

Neither torch nor transformers is imported before it is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

from phi_vision.registration import register, register_on_import

if TYPE_CHECKING:
    from phi_vision.data.samples import Sample
    from phi_vision.inference.local import LocalPredictor as Predictor
    from phi_vision.model.configuration_phi3_v import Phi3VConfig
    from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
    from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
    from phi_vision.model.processing_phi3_v import Phi3VProcessor

__version__ = "0.1.0"

__all__ = [
    "Phi3VConfig",
    "Phi3VForCausalLM",
    "Phi3VImageProcessor",
    "Phi3VProcessor",
    "Predictor",
    "Sample",
    "register",
]

_MODULES = {
    "Phi3VConfig": "model.configuration_phi3_v",
    "Phi3VForCausalLM": "model.modeling_phi3_v",
    "Phi3VImageProcessor": "model.image_processing_phi3_v",
    "Phi3VProcessor": "model.processing_phi3_v",
    "Predictor": "inference.local",
    "Sample": "data.samples",
}
"""Public name -> module, imported on first use."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'phi_vision' has no attribute {name!r}")
    module = importlib.import_module(f"phi_vision.{_MODULES[name]}")
    return getattr(module, "LocalPredictor" if name == "Predictor" else name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


register_on_import()
