"""Checkpoint, ONNX folder, server, Ray: whoever answers, the table is the same, or refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from model_server import Body, message, serving
from toy_products import draw_product, product_rows

from phi_vision.data.template import PRODUCT
from phi_vision.data.template_grammar import grammar_of
from phi_vision.inference.batch import BatchSummary, predict_catalog
from phi_vision.inference.batch_config import BatchConfig
from phi_vision.inference.batch_executors import Share, ask_here, ask_on_ray, share_of
from phi_vision.inference.batch_job_spec import inquire_of
from phi_vision.inference.openai_server import KEY_VARIABLE

SAID = "Product: Wool Coat, Category: COATS, Full Price: 390.0"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight products, and among them an image that is cut and one that is a line."""
    rows = product_rows(8)
    whole = draw_product("red", "BAGS", (60, 40))
    rows[2]["image"] = {"bytes": whole[: len(whole) // 2], "path": None}
    rows[5]["image"] = {"bytes": draw_product("red", "HATS", (5000, 17)), "path": None}
    file = tmp_path_factory.mktemp("bulk") / "shop.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def predict(words: str | Path, source: Path, out: Path, **job: Any) -> BatchSummary:
    # Under a grammar also random weights come to an end.
    inquiry = inquire_of(str(words), grammar=grammar_of(PRODUCT), batch_size=3)
    return predict_catalog(source, inquiry, BatchConfig(out=out, **({"portion": 4} | job)))


def errors(out: Path) -> dict[str, str]:
    found = pq.read_table(out, columns=["id", "error"]).to_pylist()
    return {row["id"]: row["error"] for row in found if row["error"]}


@pytest.fixture(scope="module")
def local(tiny_checkpoint: Path, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "out.parquet"
    predict(tiny_checkpoint, shop, out)
    return out


def test_a_cut_image_and_a_line_cost_only_their_own_rows(local: Path) -> None:
    table = pq.read_table(local)
    assert table["id"].to_pylist() == [f"p{number}" for number in range(8)]
    assert errors(local) == {"p2": "unreadable image", "p5": "impossible shape"}
    assert table["readable"].to_pylist() == [True, True, None, True, True, None, True, True]
    assert "'p5'" in table["error_detail"][5].as_py()


def test_ray_writes_the_same_table(
    tiny_checkpoint: Path, local: Path, shop: Path, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'phi-vision[ray]'")
    predict(tiny_checkpoint, shop, tmp_path / "out.parquet", engine="ray", workers=1)
    assert (tmp_path / "out.parquet").read_bytes() == local.read_bytes()
    assert not ray.is_initialized()


def test_machines_and_gpus_are_parted_among_workers() -> None:
    cores, cards = {"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}
    assert share_of([cores] * 3, None) == Share(workers=3, cores=8, gpus=0)
    assert share_of([cards] * 2, None) == Share(workers=8, cores=4, gpus=1)
    assert share_of([cards] * 2, 2) == Share(workers=2, cores=16, gpus=1)
    assert share_of([cores], 3) == Share(workers=3, cores=2, gpus=0)
    with pytest.raises(ValueError, match="9 workers need a GPU each, and the Ray cluster has 8"):
        share_of([cards] * 2, 9)


def test_engines_open_nobody_where_nothing_is_left_to_ask() -> None:
    def refuse() -> Any:
        raise AssertionError

    for engine in (ask_here, ask_on_ray):
        assert list(engine(refuse, [])) == []


def test_graphs_write_the_same_fields(tiny_checkpoint: Path, shop: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai", reason="pip install 'phi-vision[onnx]'")
    from phi_vision.export.onnx import export_onnx

    export_onnx(str(tiny_checkpoint), tmp_path / "onnx", samples=0)
    outlook = predict(tmp_path / "onnx", shop, tmp_path / "out.parquet")
    assert outlook.errors == {"unreadable image": 1, "impossible shape": 1}
    assert outlook.unreadable == 0


def test_a_server_that_refuses_one_image_is_asked_about_the_others(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    asked = 0

    async def say(_: Body) -> Body | web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=413) if asked == 1 else message(SAID)

    with serving(say) as server:
        inquiry = inquire_of(server.address, batch_size=1)
        predict_catalog(shop, inquiry, BatchConfig(out=tmp_path / "out.parquet", portion=8))
    # Refused once, and asked again in other company: nothing is wrong with that image.
    assert errors(tmp_path / "out.parquet") == {"p2": "unreadable image"}


def test_a_server_that_answers_nobody_stops_the_job_and_what_was_answered_stays(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    asked = 0

    async def say(_: Body) -> Body | web.Response:
        nonlocal asked
        asked += 1
        return message(SAID) if asked < 5 else web.Response(status=401)

    out = tmp_path / "out.parquet"
    with serving(say) as server:
        job = BatchConfig(out=out, portion=2)
        with pytest.raises(ValueError, match=f"set {KEY_VARIABLE} to a key"):
            predict_catalog(shop, inquire_of(server.address, batch_size=1), job)
        kept = list((tmp_path / ".out.parquet.parts").glob("*.parquet"))
        asked = -100
        outlook = predict_catalog(shop, inquire_of(server.address, batch_size=1), job)
    assert len(kept) == 2
    assert outlook.asked == 8 - 2 * len(kept)


def test_what_nobody_can_be_asked_is_refused(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nobody to ask"):
        inquire_of("predictions.jsonl")
    with pytest.raises(ValueError, match="no-such-model"):
        predict("no-such-model", shop, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))
