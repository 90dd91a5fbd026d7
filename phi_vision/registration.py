"""Registration of the model with the Auto classes of transformers.

`import phi_vision` must suffice for `AutoModelForCausalLM.from_pretrained`, and yet must not import
torch and transformers, which takes seconds. Auto classes accept only imported classes, so an import
hook waits for them.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

WATCHED = ("transformers.", "phi_vision.model.")
AUTO_CLASSES = "transformers.models.auto.configuration_auto"


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


def register_on_import() -> None:
    """Register now if the Auto classes are imported, else at the end of their import."""
    hook = _ImportHook()
    sys.meta_path.insert(0, hook)
    hook.register_if_ready()


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
        if self.is_registered or not name.startswith(WATCHED):
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
        if AUTO_CLASSES in sys.modules and not self.depth and not self.is_registered:
            self.is_registered = True
            register()
