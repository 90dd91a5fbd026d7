"""The tokenizer of `phi-vision-small`: 2,048 tokens in the manner of the official one.

    python -m pretraining.vocabulary phi_vision/model/phi-vision-small

Byte-pair encoding with `▁` for spaces, byte fallback, single digits, and the official control
tokens, which strip the whitespace after them where the official ones do.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from phi_vision.model.processing_phi3_v import CHAT_TEMPLATE
from phi_vision.synthetic.drawing import random_garment
from pretraining.market import converse

VOCABULARY_SIZE = 2048
SENTENCES = 30_000
BYTES = [f"<0x{value:02X}>" for value in range(256)]
# Name -> whether it strips the whitespace after it, as in the official tokenizer.
CONTROLS = {
    "<|endoftext|>": False,
    "<|assistant|>": True,
    "<|system|>": False,
    "<|end|>": False,
    "<|user|>": False,
    "<|image|>": True,
}

# Common catalog words, which a shop's own wording would otherwise split into letters.
COMMON_WORDS = """
    product category full price title name brand code description colour color size material type
    discount sale new item number collection style season women men kids girls boys unisex
    accessories outerwear knitwear tops bottoms footwear bags jewelry jewellery watches coats
    jackets shirts dresses skirts trousers shoes boots belts scarves hats the and with for from of
    in is shown image picture what this not available cotton classic leather small large mini
    regular fit sleeve neck
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the market's conversations, in three capitalizations."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[^\w▁]|\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(CONTROLS),
        special_tokens=["<unk>", "<s>", "</s>", *BYTES],
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, rstrip=swallows) for name, swallows in CONTROLS.items()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=_bytes_as_words(tokenizer),
        bos_token="<s>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
        chat_template=CHAT_TEMPLATE,
    )


def _bytes_as_words(tokenizer: Tokenizer) -> Tokenizer:
    """Remove the flag "special" from byte tokens, which only the trainer needs.

    `skip_special_tokens` would drop the letters that are encoded as bytes.
    """
    described = json.loads(tokenizer.to_str())
    flagged = described["added_tokens"]
    described["added_tokens"] = [token for token in flagged if token["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(described))


def _sentences() -> Iterator[str]:
    rng = random.Random("vocabulary")
    for words in COMMON_WORDS.split():
        yield from [f" {words}", f" {words.title()}", f" {words.upper()}"] * 60
    for _ in range(SENTENCES):
        for question, answer in converse(random_garment(rng), rng):
            yield question
            yield rng.choice((answer, answer, answer.title(), answer.upper()))


if __name__ == "__main__":
    build_tokenizer().save_pretrained(Path(sys.argv[1]))
