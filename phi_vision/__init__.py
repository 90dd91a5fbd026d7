"""Phi-3-Vision, native on transformers 5: importing this registers it with the Auto classes.

What needs neither torch nor transformers (the metrics, `phi-vision --help`) starts without them:
both the registration and the names below wait until they are needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

from phi_vision.registration import register_lazily

if TYPE_CHECKING:
    from phi_vision.data.samples import Sample as Sample
    from phi_vision.inference.local import LocalPredictor as LocalPredictor
    from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM as Phi3VForCausalLM
    from phi_vision.model.processing_phi3_v import Phi3VProcessor as Phi3VProcessor

__version__ = "0.1.0"

_SHOP_WINDOW = {
    "Phi3VConfig": "phi_vision.model.configuration_phi3_v",
    "Phi3VForCausalLM": "phi_vision.model.modeling_phi3_v",
    "Phi3VImageProcessor": "phi_vision.model.image_processing_phi3_v",
    "Phi3VProcessor": "phi_vision.model.processing_phi3_v",
    "LocalPredictor": "phi_vision.inference.local",
    "Sample": "phi_vision.data.samples",
}


def __getattr__(name: str) -> Any:
    """Open the room a public name lives in, on first use."""
    if name not in _SHOP_WINDOW:
        raise AttributeError(f"module 'phi_vision' has no attribute {name!r}")
    return getattr(importlib.import_module(_SHOP_WINDOW[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *_SHOP_WINDOW])


register_lazily()
