"""Trains `phi-vision-small` from random weights: first the CLIP encoder alone, then all of it.

    python -m pretraining.pretrain POOL STATE --encoder-steps 15400 --conversation-steps 2850
    python -m pretraining.pretrain POOL STATE --export phi_vision/model/phi-vision-small

A language model learns the wording first and ignores the image until the encoder is useful. So the
encoder is trained alone first, to classify the visible attributes of single crops, and keeps that
task beside the conversations. STATE is written every two minutes; a killed run resumes from it.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer

from phi_vision.model.checkpoint import SMALL, resolve
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.synthetic.drawing import COLOURS, KINDS, MATERIALS, PATTERNS, Garment
from pretraining.market import Turn, converse
from pretraining.pool import Drawn, finished_shards, normalise, read_shard
from pretraining.tiny import Sizes, make_config, make_processor

SMALL_SIZES = Sizes(
    crop_size=112,
    patch_size=14,
    num_crops=4,
    vision_width=160,
    vision_layers=7,
    vision_heads=5,
    hidden_size=256,
    layers=4,
    heads=4,
    intermediate_size=704,
)
VALIDATION_SHARD = 0
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "material": MATERIALS,
    "trim": ("none", "contrast", "monogram", "embroidery", "fur"),
    "length": ("short", "regular", "long"),
    "hardware": ("none", "silver", "gold"),
    "buttons": tuple(str(count) for count in range(9)),
    "hood": ("False", "True"),
}
WEIGHTS = {"kind": 3.0, "material": 3.0, "trim": 2.0}
"""Loss weights other than 1: the kind determines most of the record."""
ENCODER_BATCH, ENCODER_RATE = 48, 1e-3
CONVERSATION_BATCH, CONVERSATION_RATE = 32, 1e-3
NAMING_WEIGHT = 0.3
TOWER_SHARE = 0.3
"""Learning rate factor of the encoder in the second stage, when it is mostly trained."""
WARMUP_STEPS = 200
SECONDS_BETWEEN_STATES = 120


@dataclass
class Progress:
    """The progress of pre-training."""

    encoder: int = 0
    conversation: int = 0


class AttributeClassifier(nn.Module):
    """Classifies the visible attributes of a crop; discarded after pre-training.

    Each attribute pools the crop with its own attention: a mean would drown a weave or a trim in
    the background.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Linear(width, width)
        self.queries_AD = nn.Parameter(torch.zeros(len(ATTRIBUTES), width))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(v)) for name, v in ATTRIBUTES.items()}
        )

    def forward(self, features_NPD: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute logits of each attribute: (N, P, D) -> name -> (N, values)."""
        normed_NPD = self.norm(features_NPD.float())
        scores_NAP = self.queries_AD @ self.keys(normed_NPD).transpose(1, 2)
        pooled_NAD = (scores_NAP * features_NPD.shape[-1] ** -0.5).softmax(-1) @ normed_NPD
        return {
            name: head(pooled_NAD[:, place])
            for place, (name, head) in enumerate(self.heads.items())
        }


class Pretraining:
    """The model, its classifier and their optimizer: the content of a state file."""

    def __init__(self, state: Path) -> None:
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(resolve(SMALL))
        self.processor: Phi3VProcessor = make_processor(SMALL_SIZES, tokenizer)
        self.model = Phi3VForCausalLM(make_config(SMALL_SIZES, tokenizer))
        # In bf16 on a CPU the fused attention's backward is five times slower than the plain one
        # at 65 positions, and twice at 240.
        self.model.set_attn_implementation("eager")
        self.tower = self.model.model.vision_embed_tokens.img_processor
        self.classifier = AttributeClassifier(SMALL_SIZES.vision_width)
        encoder_weights = [*self.tower.parameters(), *self.classifier.parameters()]
        encoder_ids = {id(weight) for weight in encoder_weights}
        other_weights = [
            weight for weight in self.model.parameters() if id(weight) not in encoder_ids
        ]
        self.optimizer = torch.optim.AdamW(
            [{"params": encoder_weights}, {"params": other_weights}],
            lr=ENCODER_RATE,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            fused=True,
        )
        self.progress = Progress()
        self.file = state
        self.saved = time.monotonic()
        if state.is_file():
            self._load()

    def save(self, *, now: bool = False) -> None:
        """Write the state if two minutes have passed, or now; replaces the old one at the end."""
        if not now and time.monotonic() - self.saved < SECONDS_BETWEEN_STATES:
            return
        held = {
            "model": self.model.state_dict(),
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress,
        }
        unfinished = self.file.with_suffix(".unfinished")
        torch.save(held, unfinished)
        unfinished.replace(self.file)
        self.saved = time.monotonic()

    def step(self, loss: torch.Tensor, encoder_rate: float, rate: float) -> None:
        """Take one step, with separate learning rates for the encoder and the rest."""
        encoder, rest = self.optimizer.param_groups
        encoder["lr"], rest["lr"] = encoder_rate, rate
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.save()

    def _load(self) -> None:
        held = torch.load(self.file, weights_only=False)
        self.model.load_state_dict(held["model"])
        self.classifier.load_state_dict(held["classifier"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.progress = held["progress"]


def train_encoder(run: Pretraining, pool: Path, steps: int) -> None:
    """Train the encoder to classify the attributes of one crop or the global view."""
    rng = random.Random(f"look {run.progress.encoder}")
    started, first = time.monotonic(), run.progress.encoder
    for batch in _batches(pool, ENCODER_BATCH, rng, first, steps):
        views = [drawn.crops[_some_view(drawn, rng)] for drawn in batch]
        pixels = torch.cat([normalise(view[None], run.processor.image_processor) for view in views])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = run.classifier(run.tower(pixels))
        loss, right = _naming_loss(scores, [drawn.garment for drawn in batch])
        run.progress.encoder += 1
        run.step(loss, _rate(run.progress.encoder, steps, ENCODER_RATE), 0.0)
        if run.progress.encoder % 100 == 0:
            speed = (run.progress.encoder - first) * ENCODER_BATCH / (time.monotonic() - started)
            _report("encoder", run.progress.encoder, steps, loss, right, speed)


def train_conversations(run: Pretraining, pool: Path, steps: int) -> None:
    """Train the whole model on conversations, with the classifier's loss beside."""
    rng = random.Random(f"talk {run.progress.conversation}")
    features: list[torch.Tensor] = []
    hook = run.tower.register_forward_hook(lambda _module, _args, output: features.append(output))
    started, first = time.monotonic(), run.progress.conversation
    for batch in _batches(pool, CONVERSATION_BATCH, rng, first, steps):
        inputs = collate(run.processor, batch, [converse(drawn.garment, rng) for drawn in batch])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _answer_loss(run.model, inputs)
            scores = run.classifier(features.pop())
        shown = [drawn.garment for drawn in batch for _ in drawn.crops]
        naming, right = _naming_loss(scores, shown)
        run.progress.conversation += 1
        rate = _rate(run.progress.conversation, steps, CONVERSATION_RATE)
        run.step(loss + NAMING_WEIGHT * naming, TOWER_SHARE * rate, rate)
        if run.progress.conversation % 20 == 0:
            speed = (
                (run.progress.conversation - first)
                * CONVERSATION_BATCH
                / (time.monotonic() - started)
            )
            _report("conversations", run.progress.conversation, steps, loss, right, speed)
    hook.remove()


def export(run: Pretraining, folder: Path) -> None:
    """Write the model as a bf16 checkpoint, without copies of the code that lies next to it.

    Other checkpoints contain the files of `phi_vision/model` and list them in `auto_map`, for
    machines without phi-vision; this one is part of phi-vision, where a copy would go stale.
    """
    part_unsaid_tokens(run.model.lm_head.weight)
    run.model.to(torch.bfloat16).save_pretrained(folder)
    run.processor.save_pretrained(folder)
    for carried in folder.glob("*_phi3_v.py"):
        carried.unlink()
    for file in folder.glob("*config.json"):
        fields = json.loads(file.read_text())
        for described in (fields, fields.get("image_processor", {})):
            described.pop("auto_map", None)
        file.write_text(json.dumps(fields, indent=2) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)


@torch.no_grad()
def part_unsaid_tokens(head_VH: torch.Tensor) -> int:
    """Make the rows of tokens that no answer contained differ again, in place; return how many.

    Every step moves all of these rows alike, and weight decay removes their differences: they end
    as copies of one, so that fine-tuning, which freezes the head, could not tell these tokens
    apart. Each gets a random part as long as the row of a used token.

    Input:  head_VH of 2,028 rows of length 0.7 to 2.4, of which 1,582 are all but equal
    Output: the same, but that those 1,582 are about 1.4 apart
    """
    usual = head_VH.median(dim=0).values
    copies = (head_VH - usual).norm(dim=1) < 0.25 * usual.norm()
    noise = torch.randn(head_VH.shape, generator=torch.Generator().manual_seed(0))
    head_VH[copies] += (noise / head_VH.shape[1] ** 0.5)[copies].to(head_VH.dtype)
    return int(copies.sum())


def collate(
    processor: Phi3VProcessor, batch: Sequence[Drawn], conversations: Sequence[Sequence[Turn]]
) -> dict[str, torch.Tensor]:
    """Collate images and conversations; only the assistant's turns are supervised."""
    tokenizer = processor.tokenizer
    rows = [
        _tokenize(processor, drawn, turns)
        for drawn, turns in zip(batch, conversations, strict=True)
    ]
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": _answers_only(ids, tokenizer),
        "pixel_values": torch.cat([normalise(d.crops, processor.image_processor) for d in batch]),
        "image_sizes": torch.tensor([drawn.size for drawn in batch]),
    }


def _tokenize(processor: Phi3VProcessor, drawn: Drawn, turns: Sequence[Turn]) -> list[int]:
    messages = []
    for place, (question, answer) in enumerate(turns):
        options = [{"type": "image"}] if place == 0 else []
        messages += [
            {"role": "user", "content": [*options, {"type": "text", "text": question}]},
            {"role": "assistant", "content": answer},
        ]
    text = processor.apply_chat_template(messages).removeprefix(processor.tokenizer.bos_token)
    count = processor.image_processor.count_tokens(*drawn.size)
    shown = processor.image_token * count + processor.tokenizer.bos_token
    ids: list[int] = processor.tokenizer(text.replace("<|image_1|>", shown))["input_ids"]
    return ids


def _answers_only(ids_BL: torch.Tensor, tokenizer: AutoTokenizer) -> torch.Tensor:
    """Label the positions from after `<|assistant|>` to its `<|end|>`; -100 elsewhere."""
    begins = ids_BL == tokenizer.convert_tokens_to_ids("<|assistant|>")
    ends = ids_BL == tokenizer.convert_tokens_to_ids("<|end|>")
    labels = torch.full_like(ids_BL, -100)
    for row in range(ids_BL.shape[0]):
        for begin in begins[row].nonzero().flatten().tolist():
            end = begin + int(ends[row, begin:].nonzero()[0])
            labels[row, begin + 1 : end + 1] = ids_BL[row, begin + 1 : end + 1]
    return labels


def _answer_loss(model: Phi3VForCausalLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the answers; logits are computed at labelled positions only."""
    shifted = functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:]
    keep = shifted != -100
    loss: torch.Tensor = model(**inputs, shift_labels=shifted[keep], logits_to_keep=keep).loss
    return loss


def _naming_loss(
    scores: dict[str, torch.Tensor], garments: Sequence[Garment]
) -> tuple[torch.Tensor, dict[str, float]]:
    losses, right = [], {}
    for name, values in ATTRIBUTES.items():
        truth = torch.tensor([values.index(str(getattr(garment, name))) for garment in garments])
        losses.append(
            WEIGHTS.get(name, 1.0) * functional.cross_entropy(scores[name].float(), truth)
        )
        right[name] = float((scores[name].argmax(-1) == truth).float().mean())
    return torch.stack(losses).mean(), right


def _batches(
    pool: Path, size: int, rng: random.Random, first: int, last: int
) -> Iterator[list[Drawn]]:
    """Draw batches from the complete shards, also from new ones."""
    shards: dict[int, list[Drawn]] = {}
    for step in range(first, last):
        if step == first or step % 100 == 0:
            for shard in finished_shards(pool):
                if shard not in shards and shard != VALIDATION_SHARD:
                    shards[shard] = list(read_shard(pool, shard))
            drawn = [entry for shard in shards.values() for entry in shard]
        yield rng.sample(drawn, size)


def _some_view(drawn: Drawn, rng: random.Random) -> int:
    """Choose the global view with probability 0.6, else one of the crops."""
    return 0 if rng.random() < 0.6 else rng.randrange(1, len(drawn.crops))


def _rate(step: int, steps: int, highest: float) -> float:
    """Linear warm-up, then cosine decay to a fiftieth."""
    if step < WARMUP_STEPS:
        return highest * step / WARMUP_STEPS
    share = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    falling = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(1.0, share)))))
    return highest * (0.02 + 0.98 * falling)


def _report(
    stage: str, step: int, steps: int, loss: torch.Tensor, right: dict[str, float], speed: float
) -> None:
    named = " ".join(f"{name} {share:.2f}" for name, share in right.items())
    print(f"{stage} {step}/{steps} loss {loss.item():.3f} {speed:.0f}/s {named}", flush=True)


def main() -> None:
    """Run the rest of both stages, or export the state as a checkpoint."""
    parser = argparse.ArgumentParser(description="Pre-train phi-vision-small.")
    parser.add_argument("pool", type=Path, help="folder drawn by pretraining.pool")
    parser.add_argument("state", type=Path, help="file that holds the training state")
    parser.add_argument(
        "--encoder-steps", type=int, default=15400, help=f"of {ENCODER_BATCH} views"
    )
    parser.add_argument(
        "--conversation-steps", type=int, default=2850, help=f"of {CONVERSATION_BATCH} images"
    )
    parser.add_argument("--export", type=Path, help="write the state there as a bf16 checkpoint")
    options = parser.parse_args()
    run = Pretraining(options.state)
    if options.export:
        export(run, options.export)
        return
    run.model.train()
    train_encoder(run, options.pool, options.encoder_steps)
    train_conversations(run, options.pool, options.conversation_steps)
    run.save(now=True)


if __name__ == "__main__":
    main()
