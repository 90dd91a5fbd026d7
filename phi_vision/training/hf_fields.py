"""Fields of TrainingArguments, LoraConfig and DPOConfig that a recipe does not declare itself.

They are checked against the class and passed on to it. Those that would break a promise (exact
resume, completion-only labels, adapters that fit the official weights) are refused by name.
"""

import dataclasses
import difflib
import enum
import types
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft import LoraConfig
from transformers import TrainingArguments


def check_further(further: Mapping[str, Any], *, method: str, objective: str) -> None:
    """Check names, types and effect of further fields.

    Raises:
        ValueError: A field is unknown, refused, has another type, or would have no effect.
    """
    for name, value in further.items():
        convert_further(name, value)
        owner = owner_of(name)
        if owner == "LoraConfig" and method != "lora":
            raise ValueError(f"{name} is {value}, but method {method} trains no adapters; use lora")
        if owner == "DPOConfig" and objective != "dpo":
            raise ValueError(f"{name} is {value}, but objective {objective} is not dpo; use dpo")


def convert_further(name: str, value: object, *, recipe_fields: Iterable[str] = ()) -> Any:
    """Convert a value to the type of a further field.

    Args:
        name: The field.
        value: As YAML has it.
        recipe_fields: Names to suggest beside those of the classes.

    Raises:
        ValueError: There is no such field, it is refused, or the value has another type.
    """
    fields = _field_types()
    if name not in fields:
        raise ValueError(f"no field {name!r}{suggest(name, [*recipe_fields, *fields])}")
    if name in REFUSED:
        raise ValueError(f"{name} cannot be set: {REFUSED[name]}")
    allowed = ALLOWED_VALUES.get(name)
    if allowed is not None and value not in allowed:
        listed = ", ".join(map(str, allowed))
        raise ValueError(
            f"{name} is {value!r}; choose one of {listed}: others change the weights below the "
            "adapters, which then fit no other copy of the checkpoint"
        )
    return convert(name, value, fields[name][1])


def has_field(name: str) -> bool:
    """Whether one of the classes has a field."""
    return name in _field_types()


def further_of(further: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Select the further fields of one class."""
    return {name: value for name, value in further.items() if owner_of(name) == owner}


def owner_of(name: str) -> str:
    """Return the class that has a field: TrainingArguments, LoraConfig or DPOConfig."""
    return _field_types()[name][0]


@cache
def _field_types() -> dict[str, tuple[str, Any]]:
    classes: list[Any] = [TrainingArguments, LoraConfig]
    if find_spec("trl") is not None:
        from trl import DPOConfig

        classes.append(DPOConfig)
    found: dict[str, tuple[str, Any]] = {}
    for each in classes:
        kinds = get_type_hints(each)
        for field in dataclasses.fields(each):
            found.setdefault(field.name, (each.__name__, kinds[field.name]))
    return found


def suggest(name: object, known: Iterable[str]) -> str:
    """Format a suggestion: "; did you mean 'learning_rate'?", or "" if no known name is near."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, n=1) or [
        each for each in names if str(name) in each
    ]
    return f"; did you mean {near[0]!r}?" if near else ""


def convert(name: str, value: object, kind: Any) -> Any:
    """Convert a YAML value to the type of its field, if that loses nothing.

    Input:  "learning_rate", "1e-4" (YAML 1.1 reads 1e-4 as text), float
    Output: 0.0001

    Raises:
        ValueError: The value has another type.
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for choice in choices:
        converted = _convert_to(choice, value)
        if converted is not _OTHER_TYPE:
            return converted
    wanted = " or ".join(dict.fromkeys(_describe(choice) for choice in choices))
    raise ValueError(f"field {name!r} is {value!r}; it takes {wanted}")


_OTHER_TYPE = object()


def _convert_to(choice: Any, value: object) -> Any:
    origin = get_origin(choice) or choice
    if choice is type(None) and value is None:
        return None
    if origin is Literal and value in get_args(choice):
        return value
    if origin is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if choice is Path and isinstance(value, str):
        return Path(value)
    if choice is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)
        except ValueError:
            return _OTHER_TYPE
    # bool is an int to Python, but `max_steps: true` is a mistake.
    if origin in (int, bool, str, list, dict) and type(value) is origin:
        return value
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return value if value in {each.value for each in origin} else _OTHER_TYPE
    return _OTHER_TYPE


def _describe(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(map(str, get_args(kind)))
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return " or ".join(str(each.value) for each in origin)
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
        types.NoneType: "null",
        tuple: "a list of names",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(origin, str(kind))


ALLOWED_VALUES: Mapping[str, tuple[object, ...]] = {
    "init_lora_weights": (True, "gaussian", "orthogonal")
}
"""Fields of which only some values keep the promises."""

_REASONS: Mapping[str, str] = {
    "use gradient_checkpointing": "activation_checkpointing activation_checkpointing_kwargs "
    "gradient_checkpointing_kwargs",
    "matrix products are computed in bfloat16 or float32; use bf16": "fp16 fp16_full_eval "
    "bf16_full_eval",
    "evaluations take twice per_device_train_batch_size rows": "per_device_eval_batch_size",
    "the run evaluates every eval_steps and at the end; use eval_steps": "eval_strategy eval_delay "
    "eval_on_start do_train do_eval do_predict",
    "the run keeps the best weights in model/ by metric_for_best_model": "load_best_model_at_end "
    "greater_is_better",
    "evaluations compute the loss here and generate predictions beside it": "prediction_loss_only "
    "include_for_metrics batch_eval_metrics eval_do_concat_batches eval_use_gather_object "
    "eval_accumulation_steps",
    "every step is logged to log.jsonl": "logging_strategy logging_steps logging_first_step "
    "logging_nan_inf_filter log_level log_level_replica log_on_each_node disable_tqdm debug "
    "skip_memory_metrics include_num_input_tokens_seen",
    "the tracker is chosen by report_to and named by its environment variables": "run_name project "
    "trackio_space_id trackio_bucket_id trackio_static_space_id",
    "checkpoints are written every save_steps and must resume exactly": "save_strategy "
    "save_only_model save_on_each_node enable_jit_checkpoint ignore_data_skip "
    "restore_callback_states_from_checkpoint resume_from_checkpoint",
    "runs are not uploaded; upload an exported folder": "push_to_hub hub_token hub_private_repo "
    "hub_model_id hub_strategy hub_always_push hub_revision",
    "the order of samples follows from seed, or an interrupted run would not resume exactly": (
        "data_seed train_sampling_strategy length_column_name dataloader_drop_last "
        "dataloader_in_order auto_find_batch_size accelerator_config"
    ),
    "batches come from our collator, with labels on the completion alone": "remove_unused_columns "
    "label_names label_smoothing_factor",
    "processes share what sharding says; start them with torchrun": "fsdp fsdp_config deepspeed "
    "parallelism_config ddp_find_unused_parameters ddp_backend ddp_timeout local_rank use_cpu "
    "average_tokens_across_devices",
    "the memory plan, exact resume and the checks are not verified with it": "torch_compile "
    "torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache "
    "optim_target_modules",
    "the model, the checkpoint and the trained parts decide it": "task_type peft_type auto_mapping "
    "peft_version base_model_name_or_path revision inference_mode fan_in_fan_out",
    "use train_language, train_projector and train_vision": "modules_to_save exclude_modules "
    "target_parameters trainable_token_indices",
    "merging and exporting such adapters is not verified": "bias lora_bias layer_replication "
    "megatron_config megatron_core loftq_config eva_config corda_config lora_ga_config "
    "velora_config alora_invocation_tokens use_qalora qalora_group_size monteclora_config "
    "runtime_config use_bdlora arrow_config kasa_config ensure_weight_tying",
    "pairs come from our collator, and the reference is the model at the start": (
        "model_init_kwargs trust_remote_code router_aux_loss_coef disable_dropout dataset_num_proc "
        "truncation_mode padding_free pad_to_multiple_of precompute_ref_log_probs pad_token "
        "precompute_ref_batch_size activation_offloading sync_ref_model ref_model_mixup_alpha "
        "ref_model_sync_steps"
    ),
}

REFUSED: Mapping[str, str] = {
    name: reason for reason, names in _REASONS.items() for name in names.split()
}
"""Field -> why it cannot be set."""
