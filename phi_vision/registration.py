"""Makes the model known to transformers' Auto classes, once somebody imports them.

`import phi_vision` must be enough for `AutoModelForCausalLM.from_pretrained` to find the model,
and yet must not import torch and transformers, which the metrics and `phi-vision --help` do
without. So nothing is registered until an import hook sees the Auto classes come.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

WATCHED = ("transformers.", "phi_vision.model.")
AUTO_CLASSES = "transformers.models.auto.configuration_auto"


def register_lazily() -> None:
    """Register now if the Auto classes are imported already, else as soon as they are."""
    hook = _ImportHook()
    sys.meta_path.insert(0, hook)
    hook.register_when_whole()


class _ImportHook:
    """Registers when no import of transformers or of our model room is under way.

    Their modules import one another in circles, so that at the end of one of them others may still
    be half empty. At the end of the outermost import all of them are whole.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.registered = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python does, and count it as under way while it is executed."""
        if self.registered or not name.startswith(WATCHED):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            self.under_way += 1
            try:
                execute(module)
            finally:
                self.under_way -= 1
            self.register_when_whole()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    def register_when_whole(self) -> None:
        """Register, once, if the Auto classes are there and nothing is half imported."""
        if AUTO_CLASSES in sys.modules and not self.under_way and not self.registered:
            self.registered = True
            _register()


def _register() -> None:
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
