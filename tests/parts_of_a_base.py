"""Toy parts of a base: a DINOv2, a Llama and a byte-level tokenizer, of the real classes."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = "a coat costs user assistant system image what is it yes the in and of wool red"


def make_tower(**changes: Any) -> Dinov2Model:
    """Make a tower of three layers, whose scales and norms are not trivial."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 84}
    tower = Dinov2Model(Dinov2Config(**{**sizes, "patch_size": 14, "mlp_ratio": 4, **changes}))
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            spread = 0.3 if weight.ndim > 1 else 0.1
            weight.add_(spread * torch.randn_like(weight) * ("mask" not in name))
    return tower.eval()


def make_decoder(*, tied: bool = True, **changes: Any) -> LlamaForCausalLM:
    """Make a decoder of two layers with grouped heads."""
    torch.manual_seed(2)
    sizes = {"vocab_size": len(make_tokenizer()), "hidden_size": 64, "intermediate_size": 96}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**{**sizes, **heads, "tie_word_embeddings": tied, **changes})
    return LlamaForCausalLM(config).eval()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with single digits and a chat model's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
