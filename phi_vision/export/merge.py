"""A run, an adapter or a checkpoint -> whole weights, tensor by tensor, in the base's own numbers.

One changed tensor is in memory at a time; those that stay are read from the base's files.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from torch import nn

from phi_vision.inference.onnx_predictor import GENAI_FILE
from phi_vision.model.checkpoint import (
    ADAPTER_CONFIG,
    adapter_base,
    first_line,
    load_config,
    load_model,
    resolve,
)
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.runs import RunDir

ADAPTER_FILE = "adapter_model.safetensors"

Weights = dict[str, torch.Tensor]


def open_source(
    source: str | Path, *, dtype: torch.dtype | None = None
) -> tuple[Phi3VForCausalLM | PeftModel, Phi3VProcessor]:
    """Load what is to be exported, with its adapter attached.

    In the numbers they are stored in, weights are mapped, not read: a tensor costs memory once it
    is used.

    Args:
        source: Run, adapter or checkpoint folder, or hub id.
        dtype: Kind of number the weights are held in; as stored unless given.

    Raises:
        ValueError: There is nothing whole: graphs, a run without weights, quantised weights, an
            adapter that does not fit its base, shards that are missing or cut.
    """
    place = find_weights(source)
    base = adapter_base(place)
    config = load_config(base or place)
    if config.to_dict().get("quantization_config"):
        raise ValueError(
            f"the weights in {base or place} are quantised, so what was rounded away is lost; "
            "export from the checkpoint they were made from: name it as base_model_name_or_path "
            "in adapter_config.json, or give it"
        )
    if base is not None:
        with torch.device("meta"):
            refuse_misfit(Phi3VForCausalLM(config), Path(place), base)
    model, processor = load_model(place, dtype=dtype)
    refuse_few_bits(model)
    return model, processor


def find_weights(source: str | Path) -> str:
    """Say where the weights or the adapter lie, refusing what has none.

    Raises:
        ValueError: It is a folder of graphs, a run that saved nothing, an adapter without base.
    """
    folder = Path(source)
    if (folder / GENAI_FILE).is_file():
        raise ValueError(
            f"{folder} holds graphs for ONNX Runtime, from which no weights can be taken; give the "
            "run or checkpoint they were made from"
        )
    if RunDir.is_run(folder) and not RunDir(folder).model_dir.is_dir():
        raise ValueError(
            f"the run in {folder} has no weights: it was stopped before the first were saved in "
            f"{RunDir(folder).model_dir}; go on with `phi-vision train` and --resume"
        )
    place = resolve(source)
    if (Path(place) / ADAPTER_CONFIG).is_file():
        _refuse_unnamed_base(Path(place) / ADAPTER_CONFIG)
    return place


def refuse_misfit(network: Phi3VForCausalLM, adapter: Path, base: str) -> None:
    """Refuse an adapter that has not exactly the tensors its base asks for.

    peft takes an adapter that lacks some, warns, and leaves those untrained.

    Args:
        network: The base, on the meta device: only its shapes count.
        adapter: Folder of the adapter.
        base: What the base is called.

    Raises:
        ValueError: Tensors are missing, left over or of another shape, or the file is cut.
    """
    try:
        config = PeftConfig.from_pretrained(adapter)
        if not isinstance(config, LoraConfig):
            raise ValueError(
                f"its kind is {config.peft_type}; only LoRA in its forms can be merged"
            )
        found = _shapes_in(adapter / ADAPTER_FILE)
        wanted = _shapes_of(PeftModel(network, config))
    except (OSError, TypeError, ValueError, SafetensorError) as problem:
        raise ValueError(
            f"the adapter in {adapter} cannot be merged into {base}: {first_line(problem)} "
            "Is it whole, and made for this base?"
        ) from problem
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            has, asks = (_shape(shapes.get(name)) for shapes in (found, wanted))
            raise ValueError(
                f"the adapter in {adapter} does not fit {base}: of {name} it has {has} where the "
                f"base asks for {asks}; was it made for another base, or cut short? Copy it "
                "again, or name its base as base_model_name_or_path in adapter_config.json"
            )


def refuse_few_bits(model: nn.Module) -> None:
    """Refuse weights that are held in fewer bits than a number has.

    Raises:
        ValueError: Some are; names the first.
    """
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or weight.itemsize < 2:
            raise ValueError(
                f"the model is held in fewer bits ({name} is {weight.dtype}), from which no whole "
                "weights can be written; load it without quantization"
            )


def base_weights(model: Phi3VForCausalLM | PeftModel) -> Weights:
    """Give the weights as they are without the adapter, under their official names."""
    return dict(_walk(model, _before))


def merged_weights(model: Phi3VForCausalLM | PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights with the adapter merged in, one by one, in the order of `base_weights`.

    Each that changes is computed in float32 and rounded once, to the number its base is stored in.
    The model stays as it is.

    Raises:
        ValueError: A merged weight is not finite.
    """
    return _walk(model, _after)


def _walk(
    model: Phi3VForCausalLM | PeftModel, take: Callable[[nn.Module], Mapping[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Go through all weights; `take` is asked for those of a module that an adapter changes."""
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    changed = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, LoraLayer | ModulesToSaveWrapper)
    }
    weights = network.state_dict()
    for owner, names in itertools.groupby(weights, key=lambda name: _owner(name, changed)):
        if owner is None:
            yield from ((name, weights[name]) for name in names)
        else:
            yield from ((f"{owner}.{name}", each) for name, each in take(changed[owner]).items())


def _owner(name: str, changed: Mapping[str, nn.Module]) -> str | None:
    """Find the outermost of the changed modules that a weight belongs to."""
    beginnings = itertools.accumulate(name.split("."), "{}.{}".format)
    return next((beginning for beginning in beginnings if beginning in changed), None)


def _before(module: nn.Module) -> Weights:
    if isinstance(module, LoraLayer):
        return dict(module.get_base_layer().state_dict())
    assert isinstance(module, ModulesToSaveWrapper)
    return dict(module.original_module.state_dict())


@torch.no_grad()
def _after(module: nn.Module) -> Weights:
    before = _before(module)
    if isinstance(module, LoraLayer):
        # A copy of this one layer, so that the model can still answer unmerged, and memory holds.
        alone = copy.deepcopy(module).float()
        alone.merge()
        after = alone.get_base_layer().state_dict()
    else:
        assert isinstance(module, ModulesToSaveWrapper)
        after = module.modules_to_save[module.active_adapters[0]].state_dict()
    rounded = {name: after[name].to(each.dtype) for name, each in before.items()}
    for name, weight in rounded.items():
        if not torch.isfinite(weight).all():
            raise ValueError(
                f"merged, {name} of a {type(module).__name__} layer is not finite: the adapter is "
                "broken, or its changes are too large for "
                f"{weight.dtype}; export an earlier checkpoint"
            )
    return rounded


def _refuse_unnamed_base(file: Path) -> None:
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as problem:
        raise ValueError(f"{file} is not what peft writes: {problem}; copy it again") from problem
    if not base:
        raise ValueError(
            f"{file} does not say which base the adapter belongs to; write the base's folder or "
            "hub id there as base_model_name_or_path"
        )


def _shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    if not file.is_file():
        raise ValueError(f"there is no {file.name}")
    with safe_open(file, framework="pt") as held:
        return {name: tuple(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118


def _shapes_of(model: PeftModel) -> dict[str, tuple[int, ...]]:
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else " x ".join(map(str, shape))
