"""Number for number what the official code computes, for every golden case, from stored ids.

Tolerances are those `golden/README.md` measured: SDPA, float64 or another release of transformers
move logits by at most 2.6e-5, the loss by 2.4e-6 and gradients by 1.6e-5 of their size, while the
smallest mistake tried (a wrong epsilon of a norm) moves logits by 1e-4 or more.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from golden_cases import BATCHES, CROSSING, SINGLE, WITH_IMAGES, Case, as_ours

LOGITS = {"atol": 1e-4, "rtol": 0.0}
LOSS = 1e-5
GRADIENTS = 1e-4
# Entries of a gradient differ by rounding in proportion to the largest of them.
GRADIENT_ENTRIES = 1e-4
CLIP_ROWS = [0, 1, 2, 25, 101, 288, 576]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one forward and backward pass over a case's `train_text` gives."""

    case: Case
    expected: dict[str, torch.Tensor]
    input_ids: torch.Tensor  # (L,)
    embeds: torch.Tensor  # (L, H)
    logits: torch.Tensor  # (L, V)
    loss: float
    clip: torch.Tensor | None  # (crops, patches + 1, D), or None where the tower did not run
    gradients: dict[str, torch.Tensor | None]


@pytest.fixture(scope="module", params=SINGLE, ids=lambda case: case.name)
def step(request: pytest.FixtureRequest) -> Step:
    case = request.param
    model, expected = case.model(), case.expected()
    seen: list[torch.Tensor] = []
    tower = model.model.vision_embed_tokens.img_processor.vision_model
    hook = tower.encoder.layers[-2].register_forward_hook(lambda *call: seen.append(call[2]))
    ids = as_ours(expected["input_ids"])
    model.zero_grad(set_to_none=True)
    out = model(
        input_ids=ids, labels=expected["labels"], output_hidden_states=True, **case.pixels()
    )
    out.loss.backward()
    hook.remove()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return Step(
        case=case,
        expected=expected,
        input_ids=ids[0],
        embeds=out.hidden_states[0][0].detach(),
        logits=out.logits[0].detach(),
        loss=out.loss.item(),
        clip=seen[0].detach() if seen else None,
        gradients=gradients,
    )


def assert_norms(gradients: dict[str, torch.Tensor | None], facts: dict[str, Any]) -> None:
    """Compare every parameter's gradient norm; None stands for no gradient at all."""
    assert (
        gradients.keys() == facts["grad_norms"].keys() | facts["grad_norms_numerical_noise"].keys()
    )
    for name, norm in facts["grad_norms"].items():
        gradient = gradients[name]
        if norm is None:
            assert gradient is None, name
        else:
            assert gradient is not None, name
            assert gradient.norm().item() == pytest.approx(norm, rel=GRADIENTS, abs=1e-9), name


def test_the_decoder_reads_the_official_embeddings(step: Step) -> None:
    where = step.expected["logits_positions"]
    torch.testing.assert_close(step.embeds[where], step.expected["inputs_embeds"], **LOGITS)


def test_image_tokens_are_embedded_as_officially(step: Step) -> None:
    if step.clip is None:
        assert not step.case.facts["images"], "the tower was not run"
        return
    grids = [checks["crops_grid"] for checks in step.case.facts["image_checks"]]
    # A single crop equals the global view, and only this is encoded.
    counts = [r * c + (r * c > 1) for r, c in grids]
    pairs = [each[[0, min(1, len(each) - 1)]] for each in step.clip.split(counts)]
    rows = torch.stack([pair[:, CLIP_ROWS] for pair in pairs])
    torch.testing.assert_close(rows, step.expected["clip_hidden_m2"], **LOGITS)
    norms = step.embeds[step.input_ids == 32044].norm(dim=-1)
    torch.testing.assert_close(norms, step.expected["image_embeds_norm"], **LOGITS)


def test_logits_are_the_official_ones(step: Step) -> None:
    logits, expected = step.logits, step.expected
    sampled = logits[expected["logits_positions"]][:, expected["logits_vocab_ids"]]
    torch.testing.assert_close(sampled, expected["logits"], **LOGITS)
    torch.testing.assert_close(logits.logsumexp(-1), expected["logits_logsumexp"], **LOGITS)
    torch.testing.assert_close(logits.max(-1).values, expected["logits_max"], **LOGITS)
    assert torch.equal(logits.argmax(-1), expected["logits_argmax"])
    if "logits_last_full" in expected:
        torch.testing.assert_close(logits[-1], expected["logits_last_full"], **LOGITS)


def test_the_loss_is_the_official_one(step: Step) -> None:
    assert step.loss == pytest.approx(step.case.facts["loss"], abs=LOSS)


def test_gradients_are_the_official_ones(step: Step) -> None:
    assert_norms(step.gradients, step.case.facts)
    for key in (key for key in step.expected if key.startswith("grad.")):
        gradient, expected = step.gradients[key.removeprefix("grad.")], step.expected[key]
        assert gradient is not None
        largest = expected.abs().max().item()
        torch.testing.assert_close(gradient, expected, atol=GRADIENT_ENTRIES * largest, rtol=0.0)


def test_neither_placeholders_nor_padding_teach_the_word_embedding(step: Step) -> None:
    gradient = step.gradients["model.embed_tokens.weight"]
    assert gradient is not None
    touched = gradient.norm(dim=-1).nonzero().flatten()
    assert len(touched) == step.case.facts["embed_grad_rows_nonzero"]
    assert not set(touched.tolist()) & {0, 32000, 32044}


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_greedy_tokens_are_those_of_the_official_code_without_a_stale_cache(case: Case) -> None:
    expected = case.expected()
    tokens, logits = generate(case, expected)
    assert tokens.tolist() == expected["gen_tokens_recompute"].tolist()
    if "gen_step_logits_recompute" in expected:
        sampled = logits[:, expected["logits_vocab_ids"]]
        torch.testing.assert_close(sampled, expected["gen_step_logits_recompute"], **LOGITS)


def generate(case: Case, expected: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate greedily with the cache; give the tokens and the logits of every step."""
    prompt = as_ours(expected["prompt_input_ids"])
    out = case.model().generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=len(expected["gen_tokens"]),
        do_sample=False,
        eos_token_id=32000,
        output_logits=True,
        return_dict_in_generate=True,
        **case.pixels(),
    )
    assert torch.equal(out.sequences[:, : prompt.shape[1]], prompt)
    return out.sequences[0, prompt.shape[1] :], torch.cat(out.logits)


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_only_phi3_past_its_original_context_departs_from_a_fresh_reading(case: Case) -> None:
    """The official Phi-3 code keeps keys rotated for short texts; Phi-3.5's and ours do not."""
    expected = case.expected()
    same = torch.equal(expected["gen_tokens"], expected["gen_tokens_recompute"])
    stale = case in CROSSING and case.version == "phi-3-vision"
    assert same is not stale
    if stale:
        off = expected["gen_step_logits"] - expected["gen_step_logits_recompute"]
        assert off.abs().max() > 1.0


@pytest.mark.parametrize("case", WITH_IMAGES, ids=lambda case: case.name)
def test_the_official_prompt_comes_back_without_usable_placeholders(case: Case) -> None:
    """Ours comes back as it was given, which every test of greedy tokens asserts."""
    returned = case.facts["gen"]["image_ids_in_returned_prompt"]
    expected = {"phi-3-vision": "replaced by 0", "phi-3.5-vision": "kept negative"}[case.version]
    assert returned.startswith(expected)


@pytest.mark.parametrize("case", BATCHES, ids=lambda case: case.name)
def test_a_right_padded_batch_learns_as_officially(case: Case) -> None:
    """Logits are made only where something is compared: whole ones of such a batch fill 2 GB."""
    model, expected = case.model(), case.expected()
    shift = torch.nn.functional.pad(expected["labels"], (0, 1), value=-100)[:, 1:]
    keep = shift != -100
    for row in range(3):
        keep[row, expected[f"logits_positions.{row}"]] = True
    model.zero_grad(set_to_none=True)
    out = model(
        input_ids=as_ours(expected["input_ids"]),
        attention_mask=expected["attention_mask"],
        labels=expected["labels"],
        shift_labels=shift[keep],
        logits_to_keep=keep,
        **case.pixels(),
    )
    out.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    assert out.loss.item() == pytest.approx(case.facts["loss"], abs=LOSS)
    assert_norms(gradients, case.facts)
    for row, kept_LV in enumerate(out.logits.detach().split(keep.sum(dim=1).tolist())):
        places = keep[row].cumsum(0) - 1
        logits_LV = kept_LV[places[expected[f"logits_positions.{row}"]]]
        sampled = logits_LV[:, expected["logits_vocab_ids"]]
        torch.testing.assert_close(sampled, expected[f"logits.{row}"], **LOGITS)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", BATCHES, ids=lambda case: case.name)
def test_a_left_padded_batch_generates_what_the_official_rows_generate(
    case: Case, attention: str
) -> None:
    expected = case.expected()
    prompt = as_ours(expected["left_pad_prompt_input_ids"])
    ids = case.model(attention).generate(
        input_ids=prompt,
        attention_mask=expected["left_pad_attention_mask"],
        max_new_tokens=expected["left_pad_gen_tokens"].shape[1],
        do_sample=False,
        eos_token_id=32000,
        **case.pixels(),
    )
    tokens = ids[:, prompt.shape[1] :].tolist()
    assert tokens == expected["left_pad_gen_tokens"].tolist()
    assert tokens == [sample["gen_single"] for sample in case.facts["samples"]]


@pytest.mark.parametrize("case", WITH_IMAGES[::4], ids=lambda case: case.name)
def test_sdpa_computes_the_official_logits(case: Case) -> None:
    expected = case.expected()
    with torch.no_grad():
        out = case.model("sdpa")(
            input_ids=as_ours(expected["input_ids"]),
            labels=expected["labels"],
            **case.pixels(),
        )
    sampled = out.logits[0, expected["logits_positions"]][:, expected["logits_vocab_ids"]]
    torch.testing.assert_close(sampled, expected["logits"], **LOGITS)
    assert out.loss.item() == pytest.approx(case.facts["loss"], abs=LOSS)
