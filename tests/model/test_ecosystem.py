"""What the ecosystem finds: Auto classes in any order of import, pipelines, TRL, PEFT."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image as PILImage
from toy_rows import Inputs
from transformers import pipeline
from trl import SFTConfig, SFTTrainer

from phi_vision import Phi3VForCausalLM, Phi3VProcessor
from phi_vision.model.checkpoint import load_model

LANGUAGE_LAYERS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]

# Whoever is imported first, the Auto classes know ours in the end.
ORDERS = {
    "ours first": "import phi_vision; from transformers import AutoConfig",
    "theirs first": "from transformers import AutoConfig, AutoModel; import phi_vision",
    "our config first": "from phi_vision import Phi3VConfig",
}
CHECK = """
import sys, transformers
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
for auto in ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText"):
    assert type(config) in getattr(transformers, auto)._model_mapping, auto
assert type(config).__module__ == "phi_vision.model.configuration_phi3_v"
"""


@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_know_the_model_in_any_order_of_import(
    order: str, tiny_checkpoint: Path
) -> None:
    code = f"{ORDERS[order]}\n{CHECK}"
    subprocess.run([sys.executable, "-c", code, str(tiny_checkpoint)], check=True)


# pipeline("image-text-to-text")


@pytest.fixture(scope="module")
def ask(tiny_checkpoint: Path) -> Any:
    return pipeline("image-text-to-text", model=str(tiny_checkpoint))


def chat(image: Any) -> list[dict[str, Any]]:
    kind = "image" if isinstance(image, PILImage.Image) else "path"
    content = [{"type": "image", kind: image}, {"type": "text", "text": "What is it?"}]
    return [{"role": "user", "content": content}]


def answer_to(found: Any) -> str:
    return str(found["generated_text"][-1]["content"])


def test_a_pipeline_answers_a_chat_about_an_image_or_its_path(
    ask: Any, images: list[PILImage.Image], tmp_path: Path
) -> None:
    images[0].save(tmp_path / "photo.png")
    options = {"max_new_tokens": 6, "do_sample": False}
    from_image = ask(text=chat(images[0]), generate_kwargs=options)[0]
    from_path = ask(text=chat(str(tmp_path / "photo.png")), generate_kwargs=options)[0]
    assert answer_to(from_image) == answer_to(from_path)
    assert from_image["generated_text"][-1]["role"] == "assistant"


def test_a_pipeline_gives_the_same_answers_in_batches(
    ask: Any, images: list[PILImage.Image]
) -> None:
    chats = [chat(image) for image in images]
    chats[1][0]["content"][1]["text"] = "And this, which needs a somewhat longer question?"
    options = {"max_new_tokens": 6, "do_sample": False}
    alone = [answer_to(ask(text=one, generate_kwargs=options)[0]) for one in chats]
    together = ask(text=chats, generate_kwargs=options, batch_size=2)
    assert [answer_to(found[0]) for found in together] == alone


# TRL


def examples(form: str, images: list[PILImage.Image]) -> Dataset:
    """Make a two-row dataset, as `messages` or as `prompt` and `completion`."""
    asked = {"role": "user", "content": "What is it?"}
    said = {"role": "assistant", "content": "A coat, 390.0"}
    words = (
        {"messages": [asked, said]}
        if form == "messages"
        else {"prompt": [asked], "completion": [said]}
    )
    rows = [{"images": [image], **words} for image in images[:2]]
    turns = List({"role": Value("string"), "content": Value("string")})
    features = Features({"images": List(Image())} | dict.fromkeys(words, turns))
    return Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("form", ["messages", "prompt and completion"])
def test_trl_takes_a_training_step_on_images(
    model: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    images: list[PILImage.Image],
    tmp_path: Path,
    form: str,
) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    settings = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        max_length=None,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=examples(form, images),
        processing_class=processor,
    )
    result = trainer.train()
    assert 0 < result.training_loss < 100
    moved = {
        name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])
    }
    for part in ("lm_head.weight", "model.vision_embed_tokens.img_projection.0.weight"):
        assert part in moved


# PEFT


@pytest.fixture
def adapted(model: Phi3VForCausalLM) -> PeftModel:
    """A model with an adapter that has learnt something: B is not zero."""
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=LANGUAGE_LAYERS, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, settings)
    generator = torch.Generator().manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.05
    return adapted.eval()


def logits_of(model: Any, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs).logits
    return logits


def test_an_adapter_attaches_to_every_language_layer_and_to_nothing_else(
    adapted: PeftModel,
) -> None:
    attached = [
        name.removesuffix(".lora_A")
        for name, _ in adapted.named_modules()
        if name.endswith(".lora_A")
    ]
    expected = [
        f"base_model.model.model.layers.{layer}.{part}.{name}"
        for layer in range(2)
        for part, name in zip(
            ["self_attn", "self_attn", "mlp", "mlp"],
            ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"],
            strict=True,
        )
    ]
    assert sorted(attached) == sorted(expected)
    assert {n for n, w in adapted.named_parameters() if w.requires_grad} == {
        f"{name}.lora_{side}.default.weight" for name in expected for side in "AB"
    }


def test_merging_an_adapter_changes_nothing_and_saves_the_official_names(
    adapted: PeftModel, rows: list[Inputs], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    expected = logits_of(adapted, rows[1])
    with adapted.disable_adapter():
        assert (expected - logits_of(adapted, rows[1])).abs().max() > 0.01
    merged = adapted.merge_and_unload()
    # The sum W + BA is rounded once more than Wx + BAx.
    torch.testing.assert_close(logits_of(merged, rows[1]), expected, atol=5e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path)
    base, _ = load_model(tiny_checkpoint)
    again, _ = Phi3VForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert again.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(logits_of(again, rows[1]), logits_of(merged, rows[1]))


def test_a_saved_adapter_comes_back_the_same(
    adapted: PeftModel, rows: list[Inputs], tmp_path: Path
) -> None:
    expected = logits_of(adapted, rows[1])
    adapted.save_pretrained(tmp_path / "adapter")
    base = adapted.unload()
    base.save_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(
        Phi3VForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    assert torch.equal(logits_of(again.eval(), rows[1]), expected)


def test_an_adapted_model_generates_about_images(adapted: PeftModel, rows: list[Inputs]) -> None:
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    found = adapted.generate(**rows[1], **options)
    assert torch.equal(found, adapted.merge_and_unload().generate(**rows[1], **options))
