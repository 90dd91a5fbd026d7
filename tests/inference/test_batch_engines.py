"""Checkpoint, ONNX folder, server and Ray write the same table."""

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
from phi_vision.inference.batch import BatchSummary, job_spec, predict_catalog
from phi_vision.inference.batch_catalog import BatchConfig
from phi_vision.inference.batch_engines import (
    JobSpec,
    allocate,
    predict_locally,
    predict_on_ray,
)
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
    # Under a grammar, generation by random weights ends.
    spec = job_spec(str(words), grammar=grammar_of(PRODUCT), batch_size=3)
    return predict_catalog(source, spec, BatchConfig(out=out, **({"rows_per_part": 4} | job)))


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


def test_machines_and_gpus_are_divided_among_workers() -> None:
    cores, gpus = {"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}
    # Workers, and the cores and GPUs of each.
    assert allocate([cores] * 3, None) == (3, 8, 0)
    assert allocate([gpus] * 2, None) == (8, 4, 1)
    assert allocate([gpus] * 2, 2) == (2, 16, 1)
    assert allocate([cores], 3) == (3, 2, 0)
    with pytest.raises(ValueError, match="9 workers need a GPU each, and the Ray cluster has 8"):
        allocate([gpus] * 2, 9)


def test_engines_load_no_model_where_no_part_is_left() -> None:
    def refuse() -> Any:
        raise AssertionError

    spec = JobSpec(load=refuse, model="none", template=PRODUCT)
    for engine in (predict_locally, predict_on_ray):
        assert list(engine(spec, [], BatchConfig(out=Path("out.parquet")))) == []


def test_onnx_graphs_write_the_same_fields(
    tiny_checkpoint: Path, shop: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_genai", reason="pip install 'phi-vision[onnx]'")
    from phi_vision.export.onnx import export_onnx

    export_onnx(str(tiny_checkpoint), tmp_path / "onnx", samples=0)
    summary = predict(tmp_path / "onnx", shop, tmp_path / "out.parquet")
    assert summary.errors == {"unreadable image": 1, "impossible shape": 1}
    assert summary.unparsed == 0


def test_a_request_that_a_server_rejects_is_isolated(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    asked = 0

    async def say(_: Body) -> Body | web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=413) if asked == 1 else message(SAID)

    with serving(say) as server:
        spec = job_spec(server.address, batch_size=1)
        predict_catalog(shop, spec, BatchConfig(out=tmp_path / "out.parquet", rows_per_part=8))
    # Rejected once, accepted in another batch: the image is fine.
    assert errors(tmp_path / "out.parquet") == {"p2": "unreadable image"}


def test_an_unavailable_server_stops_the_job_and_finished_parts_are_kept(
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
        job = BatchConfig(out=out, rows_per_part=2)
        with pytest.raises(ValueError, match=f"set {KEY_VARIABLE} to a valid key"):
            predict_catalog(shop, job_spec(server.address, batch_size=1), job)
        kept = list((tmp_path / ".out.parquet.parts").glob("*.parquet"))
        asked = -100
        summary = predict_catalog(shop, job_spec(server.address, batch_size=1), job)
    assert len(kept) == 2
    assert summary.predicted == 8 - 2 * len(kept)


def test_files_of_predictions_and_missing_models_are_rejected(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file of finished predictions"):
        job_spec("predictions.jsonl")
    with pytest.raises(ValueError, match="no-such-model"):
        predict("no-such-model", shop, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))
