"""Teaches the decoder of a base such as phi-vision-photo to say what image tokens are near to.

    python -m pretraining.reading BASE STATE --steps 250
    python -m pretraining.reading BASE STATE --export OUT

`train` starts the projection so that image tokens are near the words of their categories
(`training/projector_start.py`). A decoder that has never seen such tokens learns photographs by
heart while it learns to read them. So it practises: in each step drawn products are put into other
groups, which are named by random words; the projection is fitted to some of them, and the decoder
names others. No name can be learned by heart, only reading. No gain is shown yet (docs/log.md,
2026-11-29), so phi-vision-photo is built without. STATE is written every two minutes; a
killed run resumes from it.
"""

import argparse
import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from phi_vision.data.augmentation import augment
from phi_vision.data.collator import IGNORED
from phi_vision.data.template import Template, find_template
from phi_vision.io.image_decoding import encode_image, open_image
from phi_vision.model.checkpoint import load_model
from phi_vision.model.processing_phi3_v import Phi3VProcessor
from phi_vision.synthetic.drawing import KINDS, draw, random_garment, random_scene
from phi_vision.training.adapters import load_trainable
from phi_vision.training.projector_start import separate, set_directions, set_words
from phi_vision.training.recipes import lora
from pretraining.pretrain import SECONDS_BETWEEN_STATES

IMAGES, LONGEST_SIDE = 1600, 224
BATCH, RATE, WARMUP_STEPS = 8, 1e-3, 20
FEATURE_NOISE, TOKEN_DROPOUT = 0.3, 0.3
STEPS_OF_DIRECTIONS = 80  # with the same first layer of the projection
MIN_GROUPS, MAX_GROUPS = 5, 34
MAX_WORD_ID = 20_000  # rarer words than these name nothing
QUESTIONS = (
    *("What is shown in this image?",) * 3,
    *("Describe the product.", "What is it?", "Which category does this belong to?"),
    "Write the record of this image.",
)
FIELDS = ("Type", "Kind", "Class", "Label", "Group", "Name", "Department", "Section")


class Practice:
    """A model with adapters, its optimizer, and the features of drawn images."""

    def __init__(self, base: str, state: Path, *, images: int = IMAGES) -> None:
        torch.manual_seed(0)
        recipe = lora(model=base, lora_alpha=16.0, lora_dropout=0.0)
        trainable = load_trainable(recipe)
        self.base, self.processor = base, trainable.processor
        self.model: Any = trainable.model
        self.embedding = self.model.get_base_model().model.vision_embed_tokens
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.step, self.file, self.saved = 0, state, time.monotonic()
        self.words = list_words(self.processor)
        self.kinds, self.features_NPD = self._draw(images)
        # From here on the tower's output is given, as it is frozen.
        self.embedding.img_processor.forward = lambda features_NPD: features_NPD
        self.embedding.img_projection.float()
        self.embedding.img_projection.register_forward_hook(_drop_tokens)
        self.deviation_D = self.features_NPD.float().std(dim=(0, 1))
        self.rows_VH = self.model.get_input_embeddings().weight.float()
        squares = self.embedding._merge_2x2(self.features_NPD.float()).flatten(1, 2)
        self.tokens_NTD = squares.unflatten(-1, (4, -1)).mean(dim=-2)
        if state.is_file():
            held = torch.load(state)
            for weight, kept in zip(self.trained, held["trained"], strict=True):
                weight.data.copy_(kept)
            self.optimizer.load_state_dict(held["optimizer"])
            self.step = held["step"]

    def save(self) -> None:
        """Write the state; it replaces the old one at the end."""
        held = {"trained": [weight.detach() for weight in self.trained], "step": self.step}
        unfinished = self.file.with_suffix(".unfinished")
        torch.save(held | {"optimizer": self.optimizer.state_dict()}, unfinished)
        unfinished.replace(self.file)
        self.saved = time.monotonic()

    def train(self, steps: int) -> list[float]:
        """Take the rest of the steps; returns their losses."""
        losses = list[float]()
        self.model.train()
        directions = None
        while self.step < steps:
            if directions != self.step // STEPS_OF_DIRECTIONS:
                directions = self.step // STEPS_OF_DIRECTIONS
                self.measure(torch.Generator().manual_seed(directions))
            rng = random.Random(f"reading {self.step}")
            torch.manual_seed(rng.getrandbits(32))
            places, names = self.pose(rng)
            with torch.autocast("cpu", torch.bfloat16):
                loss = self.model(**self.collate(places, names, rng)).loss
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.param_groups[0]["lr"] = _rate(self.step, steps)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            losses.append(loss.item())
            if self.step % 20 == 0:
                print(f"{self.step}/{steps} loss {np.mean(losses[-20:]):.3f}", flush=True)
            if time.monotonic() - self.saved > SECONDS_BETWEEN_STATES:
                self.save()
        return losses

    @torch.no_grad()
    def measure(self, generator: torch.Generator) -> None:
        """Set the first layer to directions of some images, and measure all of them."""
        first, count = self.embedding.img_projection[0], len(self.tokens_NTD)
        some = torch.randperm(count, generator=generator)[: max(2, count // 8)]
        set_directions(first, self.tokens_NTD[some].flatten(0, 1))
        parts = self.tokens_NTD.split(64)
        self.means_NF = torch.cat([self._activate(part).mean(dim=1) for part in parts])
        scaled = (self.means_NF - self.means_NF.mean(dim=0)) / self.means_NF.std(dim=0).add(1e-6)
        self.scores_NR = torch.linalg.svd(scaled, full_matrices=False).U

    @torch.no_grad()
    def pose(self, rng: random.Random) -> tuple[list[int], list[str]]:
        """Name groups of images, fit the projection to some images, and choose others with names.

        Output: places of the images, such as [12, 801], and what they are called: ["Coast", "Oral"]
        """
        groups = choose_groups(self.kinds, self.scores_NR, rng)
        grouped = [place for place, group in enumerate(groups) if group >= 0]
        rng.shuffle(grouped)
        count = int(rng.uniform(0.3, 0.7) * len(grouped))
        fitted, others = grouped[:count], grouped[count:]
        names = {group: name_group(rng, self.words) for group in sorted({*groups})}
        known = [names[groups[place]] for place in fitted]
        ids = (self.processor.tokenizer(f" {name}", add_special_tokens=False) for name in known)
        words_NH = torch.stack([self.rows_VH[each.input_ids].mean(dim=0) for each in ids]).double()
        targets_NH, weights_N = separate(words_NH, [str(groups[place]) for place in fitted])
        single = self._activate(self.tokens_NTD[fitted[:64]])
        length = self.rows_VH.norm(dim=-1).mean()
        second = self.embedding.img_projection[2]
        set_words(second, self.means_NF[fitted], single, targets_NH, weights_N, length)
        named = {groups[place] for place in fitted}
        asked = spread([place for place in others if groups[place] in named], groups)[:BATCH]
        return asked, [names[groups[place]] for place in asked]

    def collate(
        self, places: Sequence[int], names: Sequence[str], rng: random.Random
    ) -> dict[str, torch.Tensor]:
        """Ask for the name of each image, in different words; only names are supervised."""
        processor, tokenizer = self.processor, self.processor.tokenizer
        cutter = processor.image_processor
        tokens = cutter.count_tokens(cutter.crop_size, cutter.crop_size)
        image = processor.image_token + tokenizer.bos_token
        ids, labels = list[list[int]](), list[list[int]]()
        for name in names:
            template = replace(find_template("product"), question=rng.choice(QUESTIONS))
            before, after = write_around(rng, self.words)
            prompt = _prompt(template, processor, image) + before
            head = processor.repeat_image_token(tokenizer(prompt).input_ids, iter([tokens]))
            said = tokenizer(f" {name}", add_special_tokens=False).input_ids
            rest = tokenizer(f"{after}<|end|>", add_special_tokens=False).input_ids
            ids.append([*head, *said, *rest])
            # With the first token behind it, so that a name ends.
            labels.append([IGNORED] * len(head) + said + rest[:1] + [IGNORED] * (len(rest) - 1))
        batch = processor.pad_rows(ids, "right")
        width = batch["input_ids"].shape[1]
        padded = torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels])
        following = functional.pad(padded[:, 1:], (0, 1), value=IGNORED)
        features_NPD = self.features_NPD[places].float()
        crops_NPD = features_NPD + FEATURE_NOISE * self.deviation_D * torch.randn_like(features_NPD)
        return {
            **batch,
            "labels": padded,
            "logits_to_keep": following != IGNORED,
            "shift_labels": following[following != IGNORED],
            "pixel_values": crops_NPD.repeat_interleave(2, dim=0),  # the crop is the global view
            "image_sizes": torch.full((len(places), 2), cutter.crop_size),
        }

    def export(self, folder: Path) -> None:
        """Write the base with the adapters merged into it; its projection stays untrained."""
        merged = self.model.merge_and_unload().state_dict()
        base, processor = load_model(self.base)
        for name, weight in base.state_dict().items():
            if "vision_embed_tokens" not in name:
                weight.copy_(merged[name])
        base.to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)

    def _activate(self, tokens_NTD: torch.Tensor) -> torch.Tensor:
        first = self.embedding.img_projection[0]
        return functional.gelu(first(tokens_NTD.repeat(1, 1, 4))).float()

    @torch.no_grad()
    def _draw(self, count: int) -> tuple[list[str], torch.Tensor]:
        rng, changes = random.Random("reading"), np.random.default_rng(0)
        kinds, features = list[str](), list[torch.Tensor]()
        tower = self.embedding.img_processor
        weight = next(tower.parameters())
        for _ in range(count):
            garment = random_garment(rng)
            image = draw(garment, random_scene(rng), longest_side=LONGEST_SIDE)
            if rng.random() < 0.7:
                encoded = encode_image(image, "BMP")
                image = open_image(augment(encoded, ("flip", "crop", "brightness"), changes))
            crops = self.processor.image_processor([image], num_crops=1)["pixel_values"][:1]
            features.append(tower(crops.to(weight.dtype)).to(torch.bfloat16))
            kinds.append(garment.kind)
        return kinds, torch.cat(features)


def list_words(processor: Phi3VProcessor) -> list[str]:
    """List the usual words that are one token of a byte-level vocabulary behind a space."""
    vocabulary = processor.tokenizer.get_vocab()
    tokens = (token[1:] for token, at in vocabulary.items() if token[0] == "Ġ" and at < MAX_WORD_ID)
    return sorted(word for word in tokens if word.isascii() and word.isalpha() and len(word) > 3)


def name_group(rng: random.Random, words: Sequence[str]) -> str:
    """Make a name of one or two words, mostly with capitals: "Historic Wright", "meets"."""
    titled = [word for word in words if word[0].isupper()]
    among = titled if titled and rng.random() < 0.7 else words
    parts = [rng.choice(among) for _ in range(1 if rng.random() < 0.65 else 2)]
    return rng.choice((" ", " ", " & ", " / ")).join(parts)


def choose_groups(kinds: Sequence[str], scores_NR: torch.Tensor, rng: random.Random) -> list[int]:
    """Put images into groups: by kind, some of which share one or have none (-1), or by features.

    Input:  kinds of 1,600 images, and their principal components
    Output: [3, 0, -1, …]
    """
    count = rng.randint(MIN_GROUPS, MAX_GROUPS)
    if rng.random() < 0.6:
        order = rng.sample(KINDS, len(KINDS))
        alone = rng.random() < 0.5
        groups = {kind: at if at < count or alone else at % count for at, kind in enumerate(order)}
        return [-1 if groups[kind] >= count else groups[kind] for kind in kinds]
    space = scores_NR[:, : rng.choice((3, 4, 6, 8))]
    centres = rng.sample(range(len(space)), min(count, MAX_GROUPS // 2, len(space)))
    nearest: list[int] = torch.cdist(space, space[centres]).argmin(dim=1).tolist()
    return nearest


def spread(places: Iterable[int], groups: Sequence[int]) -> list[int]:
    """Order places so that each group comes once before any comes twice."""
    seen, ranks = dict[int, int](), dict[int, int]()
    for place in places:
        ranks[place] = seen[groups[place]] = seen.get(groups[place], 0) + 1
    return sorted(ranks, key=lambda place: ranks[place])


def write_around(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    """Write what comes before and after a name in an answer, as records of several forms have it.

    Output: "Category:", ", Full Price: 12.50, Product: Vision Coast Oral"
    """
    kind, price = rng.random(), f"{rng.uniform(5, 900):.2f}"
    title = " ".join(rng.choice(words).title() for _ in range(3))
    if kind < 0.6:
        return "Category:", f", Full Price: {price}, Product: {title}"
    if kind < 0.7:
        return f"Full Price: {price}, Category:", ""
    if kind < 0.8:
        return "Product:", f", Category: {title}"
    return f"{rng.choice(FIELDS)}:", rng.choice((",", "", "\n", ";"))


def _prompt(template: Template, processor: Phi3VProcessor, image: str) -> str:
    prompt = template.prompt(processor, 1).replace("<|image_1|>", image)
    return prompt.removeprefix(str(processor.tokenizer.bos_token))


def _drop_tokens(module: nn.Module, _: object, tokens: torch.Tensor) -> torch.Tensor:
    return tokens * (torch.rand(len(tokens), 1) >= TOKEN_DROPOUT)


def _rate(step: int, steps: int) -> float:
    falling = 0.5 * (1 + math.cos(math.pi * step / steps))
    return RATE * min(1.0, (step + 1) / WARMUP_STEPS) * falling


def main() -> None:
    """Practise, or export the state as a base."""
    parser = argparse.ArgumentParser(description="Teach a decoder to read image tokens.")
    parser.add_argument("base", help="folder that `phi-vision base photo` wrote")
    parser.add_argument("state", type=Path, help="file that holds the training state")
    parser.add_argument("--steps", type=int, default=250, help=f"of {BATCH} images")
    parser.add_argument("--export", type=Path, help="write the state there as a base")
    options = parser.parse_args()
    practice = Practice(options.base, options.state, images=2 if options.export else IMAGES)
    if options.export:
        practice.export(options.export)
        return
    practice.train(options.steps)
    practice.save()


if __name__ == "__main__":
    main()
