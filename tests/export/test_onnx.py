"""ONNX: the exported folder, and predictions identical to those of the model."""

import copy
import importlib.util
import json
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("onnxruntime_genai", reason="pip install 'phi-vision[onnx]'")

from phi_vision.data.prediction import field_confidence
from phi_vision.data.samples import Sample
from phi_vision.data.template import Template, write_template
from phi_vision.export import onnx as onnx_folder
from phi_vision.export.hf import check_not_quantized
from phi_vision.export.onnx import (
    GRAPH_FILE,
    EmbeddingGraph,
    VisionGraph,
    decoder_config,
    export_onnx,
    write_plain_checkpoint,
)
from phi_vision.generation.generate import GenerativeModel, generate
from phi_vision.generation.request import Generation, GenerationRequest
from phi_vision.inference import onnx_predictor as onnx_model
from phi_vision.inference.local import LocalPredictor
from phi_vision.inference.onnx_predictor import GENAI_FILE, OnnxModel
from phi_vision.model.checkpoint import SMALL, load_model
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.model.processing_phi3_v import Phi3VProcessor

Loaded = tuple[Phi3VForCausalLM, Phi3VProcessor]

LOGPROB_TOLERANCE = 1e-4
"""Both compute in float32 but add in another order; 1e-5 was measured."""

TEMPLATE = Template(
    name="spoken",
    question="Name the product in this picture, its category and its full price.",
    answer="{material:category} {title} {full_price:number} dollars",
    layout="chat",
)
"""What the small checkpoint says of itself, so that its answers can be read."""

GRAMMAR = r"""
start: MATERIAL " " TITLE " " PRICE " dollars"
MATERIAL: "Cotton" | "Wool" | "Leather"
TITLE: /[A-Za-z]{3,12}/
PRICE: /[1-9][0-9]{1,3}\.0/
"""


def product(shade: int, size: tuple[int, int]) -> Image.Image:
    """A coloured rectangle on white: enough for the small checkpoint to name something."""
    image = Image.new("RGB", size, "white")
    width, height = size
    color = (shade, 255 - shade, shade // 2)
    image.paste(color, (width // 4, height // 6, 3 * width // 4, 5 * height // 6))
    return image


def sample(name: str, *shown: Image.Image) -> Sample:
    images = []
    for image in shown:
        encoded = BytesIO()
        image.save(encoded, "PNG")
        images.append(encoded.getvalue())
    return Sample(id=name, group=name, images=tuple(images), record={})


SAMPLES = [
    sample("wide", product(40, (500, 333))),
    sample("small", product(200, (60, 60))),
    sample("tall", product(120, (90, 400))),
    sample("two", product(10, (300, 300)), product(250, (400, 100))),
    sample("none"),
]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model(SMALL, dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(products: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("onnx") / "small"
    with pytest.MonkeyPatch.context() as patch:
        # Whoever exports from a script called like a library must not have it run in its place.
        patch.chdir(written.parent)
        Path("onnx.py").write_text("raise SystemExit('this is no library')")
        verification = export_onnx(SMALL, written, data=products, samples=3)
    assert (verification.samples, verification.identical) == (3, 3)
    assert verification.max_difference < LOGPROB_TOLERANCE
    assert {"README.md", "template.yaml"} <= {file.name for file in written.iterdir()}
    write_template(TEMPLATE, written / "template.yaml")
    return written


@pytest.fixture(scope="module")
def graphs(folder: Path) -> OnnxModel:
    return OnnxModel(folder)


def question(processor: Phi3VProcessor, about: Sample, **settings: object) -> GenerationRequest:
    images = tuple(about.open_images())
    prompt = TEMPLATE.prompt(processor, images=len(images))
    return GenerationRequest(prompt=prompt, images=images, **settings)  # type: ignore[arg-type]


def ask(
    model: GenerativeModel, processor: Phi3VProcessor, *, batch_size: int = 4, **settings: object
) -> list[Generation]:
    questions = [question(processor, about, **settings) for about in SAMPLES]
    return generate(model, processor, questions, batch_size=batch_size)


def assert_same(found: list[Generation], expected: list[Generation]) -> None:
    assert [each.text for each in found] == [each.text for each in expected]
    assert [each.token_ends for each in found] == [each.token_ends for each in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=LOGPROB_TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_graphs_predict_like_the_model_alone_and_in_batches(
    loaded: Loaded, graphs: OnnxModel, batch_size: int
) -> None:
    processor = loaded[1]
    assert_same(ask(graphs, processor, batch_size=batch_size), ask(*loaded))


def test_graphs_predict_like_the_model_under_a_grammar(loaded: Loaded, graphs: OnnxModel) -> None:
    found = ask(graphs, loaded[1], grammar=GRAMMAR, finite_grammar=True)
    assert_same(found, ask(*loaded, grammar=GRAMMAR, finite_grammar=True))
    assert all(TEMPLATE.parse(each.text) for each in found)


def test_graphs_draw_numbers_like_the_model(folder: Path) -> None:
    template = replace(TEMPLATE, numbers="median")
    drawn = []
    for source in (SMALL, folder):
        predictor = LocalPredictor(source, dtype=torch.float32)
        predictor.template = template
        drawn.append([each for _, each in predictor.predict_samples(SAMPLES[:2], grammar=GRAMMAR)])
    assert [each.text for each in drawn[0]] == [each.text for each in drawn[1]]
    assert all(each.record for each in drawn[0])


@pytest.mark.parametrize(("num_crops", "longest"), [(4, 213), (16, 609)])
def test_graphs_predict_like_the_model_for_any_number_of_crops(
    loaded: Loaded, graphs: OnnxModel, num_crops: int, longest: int
) -> None:
    cutter = copy.deepcopy(loaded[1].image_processor)
    cutter.num_crops = num_crops
    processor = Phi3VProcessor(cutter, loaded[1].tokenizer)
    expected = ask(loaded[0], processor)
    assert max(each.prompt_tokens for each in expected) == longest
    assert_same(ask(graphs, processor), expected)


def test_each_row_of_a_batch_has_its_own_sampling_stop_limit_and_callback(
    loaded: Loaded, graphs: OnnxModel
) -> None:
    def asked(heard: list[str], cancelled: list[str]) -> list[GenerationRequest]:
        def hear(piece: str) -> bool:
            heard.append(piece)
            return True

        def give_up(piece: str) -> bool:
            cancelled.append(piece)
            return len(cancelled) < 3

        settings: list[dict[str, object]] = [
            {"temperature": 1.0, "top_p": 0.9, "seed": 7},
            {"stop": (" ",)},
            {"max_new_tokens": 2},
            {"on_token": hear},
            {"on_token": give_up},
            {"grammar": GRAMMAR, "finite_grammar": True},
        ]
        processor = loaded[1]
        return [question(processor, SAMPLES[0], **each) for each in settings]

    told: list[list[str]] = []
    answers = []
    for model in (loaded[0], graphs):
        told += [[], []]
        answers.append(generate(model, loaded[1], asked(*told[-2:])))
    expected, found = answers
    assert_same(found, expected)
    assert [each.finish_reason for each in found] == [each.finish_reason for each in expected]
    assert [each.finish_reason for each in found[1:5]] == ["stop", "length", "stop", "cancelled"]
    assert told[:2] == told[2:]
    assert "".join(told[0]) == found[3].text


def test_an_answer_longer_than_what_is_reserved_goes_on(
    loaded: Loaded, graphs: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ask(graphs, loaded[1])
    monkeypatch.setattr(onnx_model, "SEGMENT", 3)
    assert_same(ask(graphs, loaded[1]), expected)


def test_an_answer_goes_on_past_the_original_context(loaded: Loaded, graphs: OnnxModel) -> None:
    limit = loaded[0].config.original_max_position_embeddings
    words = torch.randint(300, 1900, (1, limit), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(words)
    expected = loaded[0].generate(
        input_ids=words, attention_mask=mask, max_new_tokens=2, do_sample=False
    )
    assert expected.shape[1] > limit + 1
    found = graphs.generate(input_ids=words, attention_mask=mask, max_new_tokens=2)
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def rounded(loaded: Loaded, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with its decoder in four bits; the other graphs are never quantised."""
    written = tmp_path_factory.mktemp("rounded")
    shutil.copytree(folder, written / "int4")
    (written / "plain").mkdir()
    write_plain_checkpoint(loaded[0], loaded[1].tokenizer, written / "plain")
    onnx_folder._write_decoder(loaded[1], written / "int4", written / "plain", "int4")
    return written / "int4"


def test_a_4_bit_decoder_is_a_fifth_as_large_with_similar_predictions(
    loaded: Loaded, folder: Path, rounded: Path
) -> None:
    small, large = (place / f"{GRAPH_FILE.format('text')}.data" for place in (rounded, folder))
    assert small.stat().st_size < large.stat().st_size / 5
    found = ask(OnnxModel(rounded), loaded[1])
    for one, other in zip(found, ask(*loaded), strict=True):
        # 0.14 at most was measured: 15 steps between the weights of a block are coarse.
        assert one.logprobs[0] == pytest.approx(other.logprobs[0], abs=0.3)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_rounded_decoder_is_reported_at_int4_and_rejected_at_fp32(
    rounded: Path,
    tiny_checkpoint: Path,
    products: Path,
    tmp_path: Path,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build_another(checkpoint: Path, unfinished: Path, precision: str) -> None:
        for file in rounded.glob("phi-3-v-text*"):
            shutil.copyfile(file, unfinished / file.name)
        shutil.copyfile(rounded / GENAI_FILE, unfinished / GENAI_FILE)

    def copy_graphs(images: object, words: object, unfinished: Path) -> None:
        for name in map(GRAPH_FILE.format, ("vision", "embedding")):
            for file in rounded.glob(f"{name}*"):
                shutil.copyfile(file, unfinished / file.name)

    monkeypatch.setattr(onnx_folder, "build_decoder", build_another)
    monkeypatch.setattr(onnx_folder, "_write_graphs", copy_graphs)
    out = tmp_path / "out"
    if precision == "fp32":
        with pytest.raises(ValueError, match="does not predict as its source does"):
            export_onnx(SMALL, out, data=products, samples=2)
        assert not list(tmp_path.iterdir())
        return
    verification = export_onnx(SMALL, out, data=products, samples=2, precision=precision)
    assert (verification.samples, verification.tolerance) == (2, None)
    assert 0.001 < verification.max_difference < 1
    card = (out / "README.md").read_text()
    assert "decoder in int4" in card
    assert verification.summary() in card


def test_replies_are_sure_of_their_fields_as_the_model_is(folder: Path, loaded: Loaded) -> None:
    answerer = LocalPredictor(folder, template=str(folder), batch_size=2)
    replies = list(answerer.predict_samples(SAMPLES))
    places = [place for place, _ in replies]
    assert (places[0], places[-1], sorted(places)) == (3, 4, [0, 1, 2, 3, 4])  # the longest first
    expected = ask(*loaded)
    read = 0
    for place, reply in replies:
        said = expected[place]
        confidence = field_confidence(TEMPLATE, said.text, said.token_ends, said.logprobs)
        assert reply.text == expected[place].text
        assert reply.confidence == pytest.approx(confidence, abs=LOGPROB_TOLERANCE)
        read += bool(confidence)
    assert read


@pytest.mark.parametrize(
    ("image", "why"),
    [(b"no image", "not an image"), (sample("", product(0, (9000, 1))).images[0], "thick")],
)
def test_a_sample_with_a_bad_image_is_named(folder: Path, image: bytes, why: str) -> None:
    bad = Sample(id="coat 7", group="", images=(image,), record={})
    with pytest.raises(ValueError, match=rf"sample 'coat 7'.*{why}"):
        list(LocalPredictor(folder).predict_samples([*SAMPLES, bad]))


def test_graphs_contain_nothing_of_the_machine_that_wrote_them(folder: Path) -> None:
    for file in folder.glob("*.onnx"):
        assert str(Path(torch.__file__).parents[1]).encode() not in file.read_bytes()


def test_the_folder_is_described_for_applications_that_load_it_themselves(folder: Path) -> None:
    described = json.loads((folder / "genai_config.json").read_text())
    assert described["model"]["type"] == "phi3v"
    assert described["model"]["eos_token_id"] == [2025, 2022, 2]
    assert described["search"]["max_length"] == 4096
    for part in ("decoder", "embedding", "vision"):
        assert (folder / described["model"][part]["filename"]).is_file()


def test_images_are_laid_out_as_the_model_does_it(loaded: Loaded) -> None:
    embedding = loaded[0].model.vision_embed_tokens
    size = embedding.crop_size
    grids = [(2, 2), (1, 4), (1, 1), (4, 1)]
    crops = [torch.randn(rows * columns + 1, 3, size, size) for rows, columns in grids]
    sizes = torch.tensor(grids) * size
    padded = nn.utils.rnn.pad_sequence(crops, batch_first=True)
    with torch.no_grad():
        expected = torch.cat(embedding(torch.cat(crops), sizes))
        assert torch.equal(VisionGraph(embedding)(padded, sizes), expected)


def test_images_stand_where_ids_are_negative() -> None:
    words = nn.Embedding.from_pretrained(torch.tensor([[0.0], [1.0], [2.0]]))
    graph = EmbeddingGraph(words)
    ids = torch.tensor([[1, -1, -1], [-1, 2, 0]])
    features = torch.tensor([[7.0], [8.0], [9.0]])
    assert graph(ids, features).squeeze(2).tolist() == [[1, 7, 8], [9, 2, 0]]
    assert graph(ids.clamp(min=0), features[:0]).squeeze(2).tolist() == [[1, 0, 0], [0, 2, 0]]


@pytest.mark.parametrize(("official", "builder"), [("su", "longrope"), ("yarn", "yarn")])
def test_the_rotation_is_named_as_the_builder_reads_it(
    loaded: Loaded, official: str, builder: str
) -> None:
    config = loaded[0].config
    fields = config.to_dict()
    fields["rope_scaling"] = {**fields["rope_scaling"], "type": official}
    rope = decoder_config(type(config).from_dict(fields)).rope_parameters
    assert (rope["rope_type"], rope["type"]) == ("longrope", builder)


def test_records_that_cannot_be_rendered_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty"):
        export_onnx(SMALL, tmp_path, samples=0)
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"pip install 'phi-vision\[onnx\]'"):
            export_onnx(SMALL, tmp_path / "new", samples=0)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_quantized_model_is_rejected(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint)
    packed = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    model.model.layers[0].mlp.down_proj.weight = packed
    with pytest.raises(ValueError, match=r"down_proj.weight is torch.uint8.*without quantization"):
        check_not_quantized(model)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_folder, "_trace", fail)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(SMALL, tmp_path / "new", samples=0)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_rejected(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="is not an ONNX folder"):
        OnnxModel(tiny_checkpoint)
