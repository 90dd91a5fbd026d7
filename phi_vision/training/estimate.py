"""What a run will take, said before it is spent: tokens, steps, memory by part, time, cards.

    phi-vision plan lora --model microsoft/Phi-3.5-vision-instruct --data catalog --card L4

Loads no weights: memory.py takes a step of the model without storage, cards.py knows the speeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from phi_vision.io.formatting import format_duration, format_gib
from phi_vision.training.gpus import CARDS, Card, find_card, this_machine
from phi_vision.training.lengths import Spread, spread, weigh_data
from phi_vision.training.memory_needs import Needs, resident
from phi_vision.training.recipes import Recipe
from phi_vision.training.rows import Steps
from phi_vision.training.suggestions import CHANGES


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting that would make a run smaller."""

    words: str
    """What to type, such as `--batch-size 4 --gradient-accumulation 2`."""
    memory: float
    """Bytes that the run takes with this change and those before it."""
    saved: float
    """Bytes less than before it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `phi-vision plan` says, and `train --dry-run` beside the recipe."""

    training: int
    validation: int
    shared_groups: int
    """Groups on both sides of the split, which make validation look better than it is."""
    steps: Steps
    rows: int
    """Rows of an epoch: samples, or what they are packed into."""
    filled: float
    """Share of a usual batch's positions that are no padding."""
    image_tokens: Spread
    text_tokens: Spread
    """Tokens of a training sample that are words: prompt and answer."""
    parameters: int
    trained: int
    precision: str
    memory_parts: Mapping[str, float]
    """Part -> bytes at the moment when all together are most."""
    worst_moment: str
    """When that is: `a training step` or `an evaluation`."""
    card: str
    available: float
    """Bytes of memory that the card has, or the machine."""
    seconds: float
    """Of all steps on that card, without evaluations."""
    fits: Mapping[str, float]
    """Cards that the run fits, with the bytes it takes there."""
    changes: Sequence[Change]
    """What to change, in this order, where it does not fit; empty where it does."""

    @property
    def memory(self) -> float:
        """Bytes at the worst moment."""
        return sum(self.memory_parts.values())

    @property
    def is_fitting(self) -> bool:
        """Whether the run fits its card."""
        return self.memory <= self.available

    def as_text(self) -> str:
        """Write the plan for people.

        Output: samples      2432 to train on, 304 to validate on, 0 groups on both sides
                image tokens mean 757, median 757, 95 % up to 757, most 757
                …
        """
        names = {
            "samples": f"{self.training} to train on, {self.validation} to validate on, "
            f"{self.shared_groups} groups on both sides",
            "image tokens": self.image_tokens.as_text(),
            "text tokens": self.text_tokens.as_text(),
            "rows": self._say_rows(),
            "steps": f"{self.steps.in_all}, {self.steps.an_epoch} an epoch",
            "parameters": f"{self.trained:,} of {self.parameters:,} are trained "
            f"({self.trained / self.parameters:.2%})",
            "precision": self.precision,
            "memory": f"{format_gib(self.memory)} at most, in {self.worst_moment}",
            **{f"  {part}": format_gib(size) for part, size in self.memory_parts.items()},
            "time": f"about {format_duration(self.seconds)} for the steps on {self.card}, besides "
            "evaluations",
            "fits": self._say_fit(),
        }
        lines = [f"{name:<15} {words}\n" for name, words in names.items()]
        return "".join([*lines, *(f"  {words}\n" for words in self._advise())])

    def _say_rows(self) -> str:
        packed = "" if self.rows == self.training else f" instead of {self.training}, packed"
        return f"{self.rows} an epoch{packed}; {self.filled:.0%} of a usual batch is no padding"

    def _say_fit(self) -> str:
        verdict = "yes" if self.is_fitting else "NO"
        fitting = ", ".join(self.fits) or "none"
        return f"{verdict}, {self.card} has {format_gib(self.available)}; cards that do: {fitting}"

    def _advise(self) -> list[str]:
        if self.is_fitting:
            return []
        lines = [
            f"change {change.words}: {format_gib(change.memory)}, {format_gib(change.saved)} less"
            for change in self.changes
        ]
        if not self.changes or self.changes[-1].memory > self.available:
            lines.append("even so it does not fit: take a card with more memory")
        return lines


def make_plan(recipe: Recipe, card: str | None = None) -> Plan:
    """Look at the data as training would, and take a step of the model without its weights.

    Writes nothing.

    Args:
        recipe: What to do.
        card: A name of `CARDS`, or cpu; by default what this machine has.

    Raises:
        ValueError: As `trainer.train` would before its first step, or there is no such card.
    """
    target = this_machine() if card is None else find_card(card)
    load = weigh_data(recipe)
    resident()
    needs = Needs(load)
    here = needs.of(recipe, target)
    cost = here.cost
    return Plan(
        training=len(load.training),
        validation=len(load.validation),
        shared_groups=load.shared_groups,
        steps=load.steps(recipe),
        rows=len(load.rows),
        filled=load.filled(recipe),
        image_tokens=spread([weight.image_tokens for weight in load.training]),
        text_tokens=spread([weight.text_tokens for weight in load.training]),
        parameters=cost.parameters,
        trained=cost.trained,
        precision="bf16" if here.precision == torch.bfloat16 else "fp32",
        memory_parts=here.parts,
        worst_moment=here.moment,
        card=target.name,
        available=target.memory,
        seconds=load.steps(recipe).in_all * needs.seconds(recipe, target),
        fits=_fitting_cards(recipe, needs),
        changes=_advise(recipe, needs, target),
    )


def _fitting_cards(recipe: Recipe, needs: Needs) -> dict[str, float]:
    found = {card: needs.of(recipe, card).memory for card in CARDS.values()}
    return {card.name: memory for card, memory in found.items() if memory <= card.memory}


def _advise(recipe: Recipe, needs: Needs, card: Card) -> list[Change]:
    """Try one change after the other, each on top of those that helped, until the run fits."""
    changes: list[Change] = []
    before = needs.of(recipe, card).memory
    for change in CHANGES.values():
        while before > card.memory and (smaller := change(recipe)) is not None:
            changed, words = smaller
            memory = needs.of(changed, card).memory
            if memory >= before:
                break
            changes.append(Change(words=words, memory=memory, saved=before - memory))
            recipe, before = changed, memory
    return changes
