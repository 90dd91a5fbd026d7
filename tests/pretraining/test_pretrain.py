"""Pre-training: only answers are learnt, and a killed run goes on where it stood."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from phi_vision.synthetic.drawing import KINDS, random_garment
from pretraining import pretrain
from pretraining.market import converse
from pretraining.pool import read_shard
from pretraining.pretrain import (
    ATTRIBUTES,
    Pretraining,
    Progress,
    collate,
    train_conversations,
    train_encoder,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few layers and two images a step; no state is written unless asked for."""
    sizes = replace(pretrain.SMALL_SIZES, vision_layers=2, layers=1)
    monkeypatch.setattr(pretrain, "SMALL_SIZES", sizes)
    monkeypatch.setattr(pretrain, "ENCODER_BATCH", 2)
    monkeypatch.setattr(pretrain, "CONVERSATION_BATCH", 2)
    monkeypatch.setattr(pretrain, "SECONDS_BETWEEN_STATES", math.inf)


def everything(run: Pretraining) -> dict[str, torch.Tensor]:
    """Give all tensors of a state: weights, and what the optimizer remembers of each."""
    held = {f"model {name}": value.clone() for name, value in run.model.state_dict().items()}
    held |= {
        f"classifier {name}": value.clone() for name, value in run.classifier.state_dict().items()
    }
    for place, memory in run.optimizer.state_dict()["state"].items():
        held |= {f"memory {place} {name}": value.clone() for name, value in memory.items()}
    return held


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def test_a_killed_run_goes_on_where_it_stood(drawn_pool: Path, tmp_path: Path) -> None:
    run = Pretraining(tmp_path / "state.pt")
    train_encoder(run, drawn_pool, 2)
    run.save(now=True)
    again = Pretraining(tmp_path / "state.pt")
    assert again.progress == Progress(encoder=2, conversation=0)
    assert_same(everything(again), everything(run))
    train_encoder(again, drawn_pool, 2)
    assert_same(everything(again), everything(run))
    for each in (run, again):
        train_encoder(each, drawn_pool, 3)
        train_conversations(each, drawn_pool, 1)
    assert again.progress == run.progress == Progress(encoder=3, conversation=1)
    assert_same(everything(again), everything(run))


def test_a_state_is_whole_or_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Pretraining(tmp_path / "state.pt")
    run.save(now=True)
    before = (tmp_path / "state.pt").read_bytes()

    def killed(held: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save(now=True)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_state_is_written_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Pretraining(tmp_path / "state.pt")
    run.save()
    assert not (tmp_path / "state.pt").exists()
    monkeypatch.setattr(pretrain, "SECONDS_BETWEEN_STATES", 0)
    run.save()
    assert (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("stage", [train_encoder, train_conversations])
def test_each_stage_trains_its_own_weights(
    drawn_pool: Path, tmp_path: Path, stage: Callable[[Pretraining, Path, int], None]
) -> None:
    run = Pretraining(tmp_path / "state.pt")
    before = everything(run)
    stage(run, drawn_pool, 1)
    after = everything(run)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    tower = "model model.vision_embed_tokens.img_processor.vision_model.encoder.layers.0"
    assert f"{tower}.self_attn.q_proj.weight" in moved
    assert "classifier heads.kind.weight" in moved
    assert ("model lm_head.weight" in moved) == (stage is train_conversations)


def test_the_validation_shard_is_never_learnt(drawn_pool: Path) -> None:
    (batch,) = pretrain._batches(drawn_pool, 3, random.Random(0), 0, 1)
    expected = [drawn.garment for drawn in read_shard(drawn_pool, 1)]
    assert sorted(map(str, expected)) == sorted(str(drawn.garment) for drawn in batch)


def test_only_the_assistants_turns_are_labelled(drawn_pool: Path, tmp_path: Path) -> None:
    processor = Pretraining(tmp_path / "state.pt").processor
    batch = list(read_shard(drawn_pool, 1))
    talks = [converse(drawn.garment, random.Random(0)) for drawn in batch]
    inputs = collate(processor, batch, talks)
    for ids, labels, turns in zip(inputs["input_ids"], inputs["labels"], talks, strict=True):
        assert torch.equal(labels[labels != -100], ids[labels != -100])
        learnt = processor.tokenizer.decode(labels[labels != -100])
        spoken = learnt.removesuffix("<|end|>").split("<|end|>")
        assert [text.strip() for text in spoken] == [answer for _, answer in turns]


def test_images_fill_their_places_in_the_text(drawn_pool: Path, tmp_path: Path) -> None:
    run = Pretraining(tmp_path / "state.pt")
    batch = list(read_shard(drawn_pool, 1))
    inputs = collate(run.processor, batch, [[("Which kind?", d.garment.kind)] for d in batch])
    shown = int((inputs["input_ids"] == run.processor.image_token_id).sum())
    counter = run.processor.image_processor.count_tokens
    assert shown == sum(counter(*drawn.size) for drawn in batch)
    loss = pretrain._answer_loss(run.model, inputs)
    assert 0 < loss.item() < 20


def test_a_conversation_is_worded_as_the_processor_would(drawn_pool: Path, tmp_path: Path) -> None:
    processor = Pretraining(tmp_path / "state.pt").processor
    drawn = next(read_shard(drawn_pool, 1))
    inputs = collate(processor, [drawn], [[("Which kind?", "boot")]])
    text = "<|user|>\n<|image_1|>\nWhich kind?<|end|>\n<|assistant|>\nboot<|end|>\n"
    height, width = drawn.size
    expected = processor(text=text, images=Image.new("RGB", (width, height)), return_tensors="pt")
    assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()
    assert inputs["image_sizes"].tolist() == expected["image_sizes"].tolist()


def test_every_garment_can_be_named() -> None:
    for kind in KINDS:
        for seed in range(20):
            garment = random_garment(random.Random(seed), kind)
            for name, values in ATTRIBUTES.items():
                assert str(getattr(garment, name)) in values
