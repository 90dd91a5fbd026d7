"""export_hf: a run as a folder in the official layout, for transformers, vLLM and others.

    model-0000k-of-0000n.safetensors  full weights under their official names, adapter merged
    config.json                       the official fields, readable by transformers 4 and 5
    generation_config.json            the stop tokens; the official file leaves `<|end|>` out
    tokenizer.json, ...               the base's own, byte for byte
    chat_template.jinja               the official chat format, for images too
    preprocessor_config.json          the image settings of the training
    *_phi3_v.py                       the code, for machines without phi-vision
    template.yaml, README.md          prompt template and model card

The folder is loaded again, verified on real samples, and published only if its outputs match.
"""

import gc
import json
import shutil
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoTokenizer, GenerationConfig

from phi_vision.export import merge, verify
from phi_vision.export.model_card import find_base, write_card
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.model.checkpoint import SMALL, load_model, resolve
from phi_vision.model.processing_phi3_v import STOP_TOKENS, Phi3VProcessor

# Files of a tokenizer; not every base has all of them.
TOKENIZER_FILES = [
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model"),
]
CODE = Path(resolve(SMALL)).parent  # folder of the code that ships with the weights
# Auto class -> code in the folder; the config of a base from the hub would point to the hub.
AUTO_MAP = {
    "AutoConfig": "configuration_phi3_v.Phi3VConfig",
    "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
    "AutoModelForImageTextToText": "modeling_phi3_v.Phi3VForCausalLM",
}


def export_hf(
    source: str,
    out: Path,
    *,
    data: Path | None = None,
    samples: int = 4,
    max_shard_size: str = "5GB",
) -> verify.Verification:
    """Export a run, an adapter or a checkpoint as a folder of merged weights, and verify it.

    Peak memory is about the size of the weights: they are memory-mapped, one model at a time.

    Args:
        source: Run, adapter or checkpoint folder, or hub id.
        out: The folder to write; must not exist, or be empty.
        data: Samples to verify with; those of the run's recipe by default.
        samples: Number of samples; 0 skips the verification.
        max_shard_size: Largest weight file, such as 5GB.

    Where there are no full weights or no samples, an adapter does not fit its base, or outputs of
    the exported model do not match, a ValueError; where the disk is full, an OSError.
    """
    check_folder_is_free(out)
    chosen, template = verify.verification_samples(source, data, samples)
    expected = verify.collect_outputs(*merge.open_source(source), chosen, template)
    # One model at a time, each opened anew: the file pages that inference touched stay in memory
    # as long as the model does, and merging needs some, too.
    gc.collect()
    model, processor = merge.open_source(source)
    shapes = merge.base_weights(model)
    dtype = next(iter(shapes.values())).dtype
    plan = merge.plan_shards(shapes, max_shard_size)
    needed = sum(weight.nbytes for weight in shapes.values())
    with atomic_folder(out, needed_bytes=needed) as folder:
        merge.write_shards(merge.merged_weights(model), shapes, plan, folder)
        precision = str(dtype).removeprefix("torch.")
        _write_config(model, processor, folder, precision)
        _write_tokenizer_and_code(source, processor, folder)
        del model, shapes
        gc.collect()
        found = verify.collect_outputs(*load_model(folder), chosen, template)
        verification = verify.compare_outputs(expected, found, dtype=dtype)
        prompt = template.prompt(processor)
        write_card(source, folder, template, prompt, verification, "transformers", precision)
    return verification


def _write_config(
    model: merge.Model, processor: Phi3VProcessor, folder: Path, precision: str
) -> None:
    """Write config, stop tokens and image settings."""
    model.config.save_pretrained(folder)
    file = folder / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    # transformers 5 reads `dtype`; transformers 4 and engines like MLX read `torch_dtype`.
    fields |= {"auto_map": AUTO_MAP, "dtype": precision, "torch_dtype": precision}
    fields["architectures"] = ["Phi3VForCausalLM"]
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=processor.tokenizer.convert_tokens_to_ids(list(STOP_TOKENS)),
        pad_token_id=model.config.pad_token_id,
    ).save_pretrained(folder)
    # Engines that lay out images themselves expect the official form; our model takes both.
    processor.image_processor.pad_crops = True
    processor.save_pretrained(folder)


def _write_tokenizer_and_code(source: str, processor: Phi3VProcessor, folder: Path) -> None:
    """Replace the saved tokenizer by the original files, and copy the model's code.

    A tokenizer saved by transformers 5 names a class that only transformers 5 knows.
    """
    place = _find_tokenizer(source, processor.tokenizer.get_vocab())
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
        if (place / name).is_file():
            shutil.copyfile(place / name, folder / name)
    for file in CODE.glob("*_phi3_v.py"):
        shutil.copyfile(file, folder / file.name)


def _find_tokenizer(source: str, vocabulary: dict[str, int]) -> Path:
    """Return the folder of the original tokenizer: the first base with the same vocabulary.

    Where a base is gone or has another vocabulary, the files beside the weights are used.
    """
    origin, seen = source, {source}
    # `seen` ends the search for a run that was moved to the place of its base.
    while (base := find_base(origin)) is not None and base not in seen:
        seen.add(base)
        try:
            if AutoTokenizer.from_pretrained(_fetch_tokenizer(base)).get_vocab() != vocabulary:
                break
        except (ValueError, OSError):
            break
        origin = base
    return _fetch_tokenizer(origin)


def _fetch_tokenizer(source: str) -> Path:
    """Return the folder with a checkpoint's tokenizer, downloaded for a hub id."""
    place = resolve(source)
    if Path(place).is_dir():
        return Path(place)
    try:
        return Path(snapshot_download(place, allow_patterns=TOKENIZER_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError) as problem:
        raise ValueError(f"the tokenizer of {place} cannot be downloaded: {problem}") from problem
