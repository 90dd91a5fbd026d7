"""Phi-3-Vision, native on transformers 5: importing this registers it with the Auto classes.

Neither torch nor transformers, whose import takes seconds, is imported before it is needed. Auto
classes accept only imported classes, so an import hook waits for them.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

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

_MODULES = {  # public name -> module, imported on first use
    "Phi3VConfig": "model.configuration_phi3_v",
    "Phi3VForCausalLM": "model.modeling_phi3_v",
    "Phi3VImageProcessor": "model.image_processing_phi3_v",
    "Phi3VProcessor": "model.processing_phi3_v",
    "Predictor": "inference.local",
    "Sample": "data.samples",
}
_WATCHED = ("transformers.", "phi_vision.model.")
_AUTO_CLASSES = "transformers.models.auto.configuration_auto"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'phi_vision' has no attribute {name!r}")
    module = importlib.import_module(f"phi_vision.{_MODULES[name]}")
    return getattr(module, "LocalPredictor" if name == "Predictor" else name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


def register() -> None:
    """Register config, models and processors with the Auto classes; repeatable."""
    import transformers

    from phi_vision.model.configuration_phi3_v import Phi3VConfig
    from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor
    from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM, Phi3VModel
    from phi_vision.model.processing_phi3_v import Phi3VProcessor

    transformers.AutoConfig.register("phi3_v", Phi3VConfig, exist_ok=True)
    transformers.AutoModel.register(Phi3VConfig, Phi3VModel, exist_ok=True)
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText):
        auto.register(Phi3VConfig, Phi3VForCausalLM, exist_ok=True)
    transformers.AutoProcessor.register(Phi3VConfig, Phi3VProcessor, exist_ok=True)
    transformers.AutoImageProcessor.register(
        Phi3VConfig, image_processor_classes={"pil": Phi3VImageProcessor}, exist_ok=True
    )


class _ImportHook:
    """Registers at the end of the outermost import of transformers or of our model.

    Their modules import one another in circles: at the end of an inner import others may still be
    incomplete.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.is_registered = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python does, and count the depth of its execution."""
        if self.is_registered or not name.startswith(_WATCHED):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            self.depth += 1
            try:
                execute(module)
            finally:
                self.depth -= 1
            self.register_if_ready()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    def register_if_ready(self) -> None:
        if _AUTO_CLASSES in sys.modules and not self.depth and not self.is_registered:
            self.is_registered = True
            register()


_HOOK = _ImportHook()
sys.meta_path.insert(0, _HOOK)
_HOOK.register_if_ready()  # now if the Auto classes are imported, else at the end of their import
