"""export_hf: a run becomes a folder in the official layout, for transformers, vLLM and others.

    model-0000k-of-0000n.safetensors  whole weights under their official names, adapter merged
    config.json                       the official fields; readers of transformers 4 and 5 find all
    generation_config.json            what ends an answer: the official file leaves `<|end|>` out
    tokenizer.json, ...               the base's own, byte for byte
    chat_template.jinja               the official wording, for images too
    preprocessor_config.json          the crops it was trained with
    *_phi3_v.py                       the code, for machines without phi-vision
    template.yaml, README.md          how it is asked, and what is known of it

What was written is loaded again and asked about real samples before the folder bears its name.
"""

import gc
import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from peft import PeftModel
from transformers import AutoTokenizer, GenerationConfig

from phi_vision.data.template import TEMPLATE_FILE, write_template
from phi_vision.export.merge import base_weights, merged_weights, open_source
from phi_vision.export.model_card import Form, name_base, write_card
from phi_vision.export.verify import Proof, compare, observe, proof_samples
from phi_vision.export.weight_shards import plan_shards, write_shards
from phi_vision.io.atomic import atomic_folder, check_folder_is_free
from phi_vision.model.checkpoint import SMALL, load_model, resolve
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.model.tiny import STOP_TOKENS

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)
"""What a tokenizer is read from; not every base has all of them."""

CODE = Path(resolve(SMALL)).parent
"""Where the files lie that travel with the weights."""

AUTO_MAP = {
    "AutoConfig": "configuration_phi3_v.Phi3VConfig",
    "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
    "AutoModelForImageTextToText": "modeling_phi3_v.Phi3VForCausalLM",
}
"""Where readers find the code: a base from the hub would point back to the hub."""


def export_hf(
    source: str,
    out: Path,
    *,
    data: Path | None = None,
    samples: int = 4,
    max_shard_size: str = "5GB",
) -> Proof:
    """Write a run, an adapter or a checkpoint as one folder of whole weights, and prove it.

    Takes about as much memory as the weights have bytes: a model is mapped from its files, and one
    at a time.

    Args:
        source: Run, adapter or checkpoint folder, or hub id.
        out: The folder to be written; must not exist, or be empty.
        data: Samples to prove it with; those of the run's recipe unless given.
        samples: How many of them; 0 leaves the proof out.
        max_shard_size: Longest file of weights, such as 5GB.

    Returns:
        What was compared, and how near it came.

    Raises:
        ValueError: There is nothing whole to export, an adapter does not fit its base, there are
            no samples, or what was written does not answer as the model does.
        OSError: The disk has no room.
    """
    check_folder_is_free(out)
    asked, template = proof_samples(source, data, samples)
    before = observe(*open_source(source), asked, template)
    # One model in memory at a time, and each opened anew: the pages of its files that answering
    # read count as long as it is held, and merging needs some memory besides.
    gc.collect()
    model, processor = open_source(source)
    shapes = base_weights(model)
    dtype = next(iter(shapes.values())).dtype
    plan = plan_shards(shapes, max_shard_size)
    with atomic_folder(
        out, needed_bytes=sum(weight.nbytes for weight in shapes.values())
    ) as folder:
        write_shards(merged_weights(model), shapes, plan, folder)
        write_description(source, model, processor, folder, dtype=dtype)
        del model, shapes
        gc.collect()
        after = observe(*load_model(folder), asked, template)
        proof = compare(before, after, dtype=dtype)
        proof.refuse()
        write_template(template, folder / TEMPLATE_FILE)
        form = describe(dtype, template.prompt(processor))
        write_card(source, folder, template=template, proof=proof, form=form)
    return proof


def write_description(
    source: str,
    model: Phi3VForCausalLM | PeftModel,
    processor: Phi3VProcessor,
    folder: Path,
    *,
    dtype: torch.dtype,
) -> None:
    """Write what a model is opened with, beside its weights: configs, tokenizer, code."""
    _write_config(model, folder / "config.json", dtype)
    stops = processor.tokenizer.convert_tokens_to_ids(list(STOP_TOKENS))
    GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=stops,
        pad_token_id=model.config.pad_token_id,
    ).save_pretrained(folder)
    # Engines that lay images out themselves expect the official form; our model takes both.
    processor.image_processor.pad_crops = True
    processor.save_pretrained(folder)
    _copy_tokenizer(source, processor, folder)
    for file in CODE.glob("*_phi3_v.py"):
        shutil.copyfile(file, folder / file.name)


def describe(dtype: torch.dtype, prompt: str) -> Form:
    """Say in the card what was written and how it is asked.

    Args:
        dtype: Numbers of the weights.
        prompt: The question about one image, as the model reads it.
    """
    kind = str(dtype).removeprefix("torch.")
    return Form(
        library="transformers",
        holds=f"Whole weights in {kind} under the official names of Phi-3-Vision, with its code.",
        use=USE.replace("PROMPT", json.dumps(prompt, ensure_ascii=False)),
    )


def _write_config(model: Phi3VForCausalLM | PeftModel, file: Path, dtype: torch.dtype) -> None:
    """Write the official fields, those of whoever reads them under an older name too."""
    model.config.save_pretrained(file.parent)
    fields = json.loads(file.read_text(encoding="utf-8"))
    kind = str(dtype).removeprefix("torch.")
    fields |= {
        "architectures": [Phi3VForCausalLM.__name__],
        "auto_map": AUTO_MAP,
        # transformers 5 reads `dtype`, what came before and engines like MLX `torch_dtype`.
        "dtype": kind,
        "torch_dtype": kind,
    }
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_tokenizer(source: str, processor: Phi3VProcessor, folder: Path) -> None:
    """Put the base's own tokenizer files in the place of those that were written.

    Written anew they name a tokenizer class that only transformers 5 knows.
    """
    origin = _tokenizer_of(source, processor)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)


def _tokenizer_of(source: str, processor: Phi3VProcessor) -> Path:
    """Find where the tokenizer came from: the first of a chain of bases that has the same words.

    A base that is gone, or whose words are others, leaves what lies beside the weights.
    """
    origin, seen = source, {source}
    vocabulary = processor.tokenizer.get_vocab()
    # A run moved to where its base was would be named as its own base, for ever.
    while (base := name_base(origin)) is not None and base not in seen:
        seen.add(base)
        try:
            found = AutoTokenizer.from_pretrained(_tokenizer_files(base))
        except (ValueError, OSError):
            break
        if found.get_vocab() != vocabulary:
            break
        origin = base
    return _tokenizer_files(origin)


def _tokenizer_files(source: str) -> Path:
    """Give the folder with a checkpoint's tokenizer, fetched where it lies on the hub.

    Raises:
        ValueError: It is neither here nor there.
    """
    place = resolve(source)
    if Path(place).is_dir():
        return Path(place)
    try:
        return Path(snapshot_download(place, allow_patterns=list(TOKENIZER_FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError) as problem:
        raise ValueError(f"the tokenizer of {place} cannot be fetched: {problem}") from problem


USE = """
```python
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

folder = "."
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
prompt = PROMPT
inputs = processor(text=prompt, images=Image.open("photo.jpg"), return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=96)
answer = processor.decode(ids[0, inputs["input_ids"].shape[1] :])
print(answer.split("<|")[0].strip())  # what stands before the token that ends it
```

With phi-vision, `phi-vision predict FOLDER photo.jpg` does the same, reads the answer back into
fields and says how sure it is of each.
"""
"""How the folder is asked; runs as it stands where transformers is installed."""
