"""Reading practice: random words name groups of drawn images, and only names are supervised."""

import random
from pathlib import Path

import pytest
import torch
from parts_of_a_base import make_decoder, make_tokenizer, make_tower

from phi_vision.model.assembly import assemble
from phi_vision.model.checkpoint import UNTRAINED, load_model
from phi_vision.synthetic.drawing import KINDS
from pretraining import reading
from pretraining.reading import Practice, choose_groups, list_words, name_group, spread


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base of toy parts."""
    folder = tmp_path_factory.mktemp("base")
    assembled = assemble(make_tower(), make_decoder(), make_tokenizer(), crop_size=56)
    assembled.model.to(torch.bfloat16).save_pretrained(folder)
    assembled.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images a step, and every step is saved."""
    monkeypatch.setattr(reading, "BATCH", 3)
    monkeypatch.setattr(reading, "SECONDS_BETWEEN_STATES", -1)


def test_a_killed_practice_goes_on_where_it_stood(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Practice(base, tmp_path / "whole.pt", images=40)
    losses = whole.train(3)
    pose = Practice.pose

    def killed(practice: Practice, rng: random.Random) -> tuple[list[int], list[str]]:
        if practice.step == 2:
            raise KeyboardInterrupt
        return pose(practice, rng)

    monkeypatch.setattr(Practice, "pose", killed)
    with pytest.raises(KeyboardInterrupt):
        Practice(base, tmp_path / "state.pt", images=40).train(3)
    monkeypatch.setattr(Practice, "pose", pose)
    again = Practice(base, tmp_path / "state.pt", images=40)
    assert again.step == 2
    assert again.train(3) == losses[2:]
    assert all(map(torch.equal, again.trained, whole.trained))


def test_an_export_has_another_decoder_and_the_same_untrained_projection(
    base: str, tmp_path: Path
) -> None:
    practice = Practice(base, tmp_path / "state.pt", images=40)
    practice.train(2)
    practice.export(tmp_path / "out")
    before, after = (load_model(each)[0] for each in (base, tmp_path / "out"))
    assert getattr(after.config, UNTRAINED)
    changed = {
        name
        for name, weight in after.state_dict().items()
        if not torch.equal(weight, before.state_dict()[name])
    }
    assert changed
    assert all(".self_attn." in name or ".mlp." in name for name in changed)


def test_only_names_and_the_token_behind_them_are_supervised(base: str, tmp_path: Path) -> None:
    practice = Practice(base, tmp_path / "state.pt", images=40)
    practice.measure(torch.Generator().manual_seed(0))
    batch = practice.collate([0, 1], ["coat", "wool what"], random.Random(4))
    tokenizer = practice.processor.tokenizer
    said = [tokenizer.decode(row[row >= 0][:-1]) for row in batch["labels"]]
    assert said == [" coat", " wool what"]
    shown = (batch["input_ids"] == practice.model.config.image_token_id).sum(dim=1)
    assert shown.tolist() == [2 * 2 * 3 + 1] * 2  # two rows of two, ended, twice


def test_images_are_asked_for_that_the_projection_was_not_fitted_to(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    practice = Practice(base, tmp_path / "state.pt", images=40)
    practice.measure(torch.Generator().manual_seed(0))
    fitted = list[int]()
    set_words = reading.set_words

    def watched(layer: torch.nn.Linear, means_NF: torch.Tensor, *others: torch.Tensor) -> None:
        rows = {tuple(row.tolist()) for row in means_NF}
        fitted.extend(at for at, row in enumerate(practice.means_NF) if tuple(row.tolist()) in rows)
        set_words(layer, means_NF, *others)

    monkeypatch.setattr(reading, "set_words", watched)
    asked, names = practice.pose(random.Random(1))
    assert len(asked) == len(names)
    assert asked
    assert not {*asked} & {*fitted}


def test_names_are_words_of_the_vocabulary(base: str) -> None:
    words = list_words(load_model(base)[1])
    assert "coat" in words
    assert " " not in "".join(words)
    rng = random.Random(0)
    assert {len(name_group(rng, ["Coat"]).split()) for _ in range(50)} == {1, 2, 3}


def test_groups_are_kinds_or_neighbours() -> None:
    rng, scores = random.Random(0), torch.randn(len(KINDS), 8)
    found = [choose_groups(KINDS, scores, rng) for _ in range(20)]
    assert all(len(groups) == len(KINDS) for groups in found)
    assert any(-1 in groups for groups in found)
    assert {len({*groups} - {-1}) for groups in found} <= {*range(1, reading.MAX_GROUPS + 1)}


def test_each_group_is_asked_for_once_before_any_twice() -> None:
    assert spread([0, 1, 2, 3, 4], [7, 7, 8, 7, 9]) == [0, 2, 4, 1, 3]
