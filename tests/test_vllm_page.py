"""docs/deploy-vllm.md: its client works against such a server, its numbers are the code's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from model_server import Body, message, serving
from pages import FENCE, numbers_beside

from phi_vision.export import compatibility as engines
from phi_vision.export.compatibility import ENGINES
from phi_vision.export.hf import expected_shapes
from phi_vision.model.configuration_phi3_v import Phi3VConfig
from phi_vision.model.image_processing_phi3_v import Phi3VImageProcessor

PAGE = (Path(__file__).parents[1] / "docs" / "deploy-vllm.md").read_text(encoding="utf-8")
SAID = "Product: Wool Coat, Category: COATS, Full Price: 390.0"
OFFICIAL = (3072, 8192, 32)
TRIED = PAGE.index("## What was tested")


def most_tokens(num_crops: int) -> int:
    return Phi3VImageProcessor(num_crops=num_crops).count_tokens(num_crops * 336, 336)


def test_the_client_of_the_page_reads_a_record() -> None:
    names: dict[str, Any] = {}
    ((script),) = [script for language, script in FENCE.findall(PAGE) if language == "python"]
    exec(compile(script, "deploy-vllm.md", "exec"), names)

    async def reply(body: Body) -> Body:
        return message(SAID)

    with serving(reply) as server:
        said = names["read_record"](server.address, "key", "coats", b"photo", "What is it?")
    assert said == SAID
    (asked,) = server.asked
    assert [part["type"] for part in asked["messages"][0]["content"]] == ["image_url", "text"]
    assert asked["temperature"] == 0


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    config = Phi3VConfig(hidden_size=3072, num_hidden_layers=32, vocab_size=32064)
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == OFFICIAL
    shapes = expected_shapes(config)
    total = sum(2 * numbers_in(shape) for shape in shapes.values())
    cached = 2 * 2 * config.num_hidden_layers * config.hidden_size
    facts = [
        f"{total / 1e9:.1f} GB of the GPU",
        f"{cached / 1000:.0f} KB for each token",
        f"{engines.SHORT_CONTEXT:,} tokens, image included",
        f"short ones hold up to {engines.SHORT_CONTEXT:,}",
        f"at most {most_tokens(4)} tokens with 4 crops, {most_tokens(16):,} with 16",
        "transformers below\n5.21",
        "code wants 5.20, which",
        "Temperature 0 is",
    ]
    prose = FENCE.sub("", PAGE[:TRIED])
    prose = re.sub(r"^## \d\.", "##", prose, flags=re.MULTILINE).replace("Phi-3-Vision", "")
    assert numbers_beside(prose, facts) == []
    assert f"{most_tokens(16):,} and {most_tokens(4)} tokens" in PAGE[TRIED:]


def numbers_in(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


@pytest.mark.parametrize("name", ["--max-model-len 4096", "--trust-remote-code"])
def test_both_servers_give_the_same_predictions(name: str) -> None:
    scripts = [script for language, script in FENCE.findall(PAGE) if "vllm" in script]
    serve = [script for script in scripts if "--served-model-name" in script]
    assert len(serve) == 2
    assert all(name in script for script in serve)


def test_the_page_checks_an_engine_that_exists() -> None:
    assert set(re.findall(r"--engine (\S+)", PAGE)) <= set(ENGINES)
    settings = re.findall(r"--mm-processor-kwargs '(\{.*?\})'", PAGE)
    assert [json.loads(setting) for setting in settings] == [{"pad_crops": True}]
