"""The products of a step are all counted: plain, fused or in oneDNN's layout."""

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.matrix_products import MatrixProducts, Product

ROWS, HEADS, LENGTH, WIDTH = 2, 3, 16, 8


def attention_inputs() -> list[torch.Tensor]:
    return [torch.randn(ROWS, HEADS, LENGTH, WIDTH, requires_grad=True) for _ in range(3)]


def test_products_are_counted_as_by_torch() -> None:
    layer, rows = torch.nn.Linear(8, 12), torch.randn(2, 5, 8, requires_grad=True)
    crops, convolution = torch.randn(2, 3, 8, 8), torch.nn.Conv2d(3, 4, 4, 4).requires_grad_(False)
    with MatrixProducts() as products, FlopCounterMode(display=False) as counter:
        layer(rows).sum().backward()
        convolution(crops)
    assert products.flops == counter.get_total_flops()
    assert products.counts[Product((10, 8), (8, 12), torch.float32)] == 1
    assert products.seconds_alone() >= 0


@pytest.mark.parametrize(("is_causal", "share"), [(False, 1.0), (True, 0.5)])
def test_fused_attention_counts_as_its_products(is_causal: bool, share: float) -> None:
    query, key, value = attention_inputs()
    with MatrixProducts() as products:
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
    assert products.flops == share * 2 * 2 * ROWS * HEADS * LENGTH**2 * WIDTH
    with MatrixProducts() as products:
        attended.sum().backward()
    assert products.flops == share * 4 * 2 * ROWS * HEADS * LENGTH**2 * WIDTH


def test_fused_and_plain_attention_have_the_same_products() -> None:
    query, key, value = attention_inputs()
    with MatrixProducts() as fused:
        functional.scaled_dot_product_attention(query, key, value).sum().backward()
    with MatrixProducts() as plain:
        ((query @ key.mT).softmax(-1) @ value).sum().backward()
    assert fused.flops == plain.flops


def test_a_linear_layer_in_the_layout_of_onednn_is_counted() -> None:
    rows, weight = torch.randn(10, 8), torch.randn(12, 8)
    with MatrixProducts() as products:
        torch.ops.mkldnn._linear_pointwise(rows, weight.to_mkldnn(), None, "none", [], "")
    assert products.flops == 2 * 10 * 8 * 12


def test_a_product_that_is_not_described_is_an_error() -> None:
    one, scale = torch.ones(16, 16).to(torch.float8_e4m3fn), torch.ones(())
    with MatrixProducts(), pytest.raises(ValueError, match=r"aten::_scaled_mm.* not counted"):
        torch._scaled_mm(one, one.t(), scale, scale, out_dtype=torch.bfloat16)
