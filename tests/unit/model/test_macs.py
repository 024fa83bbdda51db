"""Multiply-accumulates against figures calculated by hand."""

from collections.abc import Sequence

import pytest

from tierflow.graph import Attribute
from tierflow.model.macs import multiply_accumulates

Case = tuple[str, Sequence[tuple[int, ...] | None], Sequence[tuple[int, ...] | None], dict[str, Attribute], int]

CASES: dict[str, Case] = {
    # 112*112 outputs of 64 channels, each from 3*7*7: the first layer of ResNet.
    "conv": ("Conv", [(1, 3, 224, 224), (64, 3, 7, 7)], [(1, 64, 112, 112)], {}, 118_013_952),
    "depthwise": ("Conv", [(2, 32, 10, 10), (32, 1, 3, 3), (32,)], [(2, 32, 10, 10)], {"group": 32}, 2 * 32 * 100 * 9),
    "conv1d": ("Conv", [(1, 4, 50), (8, 4, 5)], [(1, 8, 46)], {}, 8 * 46 * 20),
    "quantised": (
        "QLinearConv",
        [(1, 3, 8, 8), (), (), (16, 3, 3, 3), (), (), (), ()],
        [(1, 16, 6, 6)],
        {},
        16 * 36 * 27,
    ),
    # Each of 8*5*5 inputs is multiplied into 4 channels of a 2x2 patch.
    "transposed": ("ConvTranspose", [(1, 8, 5, 5), (8, 4, 2, 2)], [(1, 4, 10, 10)], {"strides": (2, 2)}, 200 * 16),
    "gemm": ("Gemm", [(4, 10), (20, 10), (20,)], [(4, 20)], {"transB": 1}, 4 * 20 * 10),
    "gemm transposed": ("Gemm", [(10, 4), (10, 20)], [(4, 20)], {"transA": 1}, 4 * 20 * 10),
    "batched matmul": ("MatMul", [(2, 1, 3, 4), (5, 4, 6)], [(2, 5, 3, 6)], {}, 2 * 5 * 3 * 6 * 4),
    "vectors": ("MatMul", [(7,), (7,)], [()], {}, 7),
    "vector and matrix": ("MatMul", [(7,), (7, 3)], [(3,)], {}, 21),
    "integers": ("MatMulInteger", [(2, 8), (8, 4)], [(2, 4)], {}, 64),
    "einsum": ("Einsum", [(2, 3, 4), (2, 4, 5)], [(2, 3, 5)], {"equation": "bij, bjk -> bik"}, 2 * 3 * 4 * 5),
    "einsum dots": ("Einsum", [(6, 2, 3), (6, 3, 5)], [(6, 2, 5)], {"equation": "...ij,...jk->...ik"}, 6 * 2 * 3 * 5),
    "einsum of one": ("Einsum", [(3, 4)], [(4, 3)], {"equation": "ij->ji"}, 0),
    # 5 steps of 2 samples; 4 gates of 16 units read 8 inputs and 16 hidden values, in 2 directions.
    "lstm": ("LSTM", [(5, 2, 8), (2, 64, 8), (2, 64, 16)], [None], {"hidden_size": 16}, 10 * 2 * 64 * 24),
    "gru": ("GRU", [(5, 1, 8), (1, 48, 8), (1, 48, 16)], [None], {}, 5 * 48 * 24),
    # 4 heads of 8: 6 queries meet 10 keys, and 6 results of 4 x 8 sum over 10 values.
    "attention": (
        "Attention",
        [(1, 4, 6, 8), (1, 4, 10, 8), (1, 4, 10, 8)],
        [(1, 4, 6, 8)],
        {},
        2 * 4 * 6 * 8 * 10,
    ),
    "pooling": ("MaxPool", [(1, 3, 8, 8)], [(1, 3, 4, 4)], {"kernel_shape": (2, 2)}, 0),
    "addition": ("Add", [(1, 3), (3,)], [(1, 3)], {}, 0),
    "conditional": ("If", [()], [(1, 3)], {}, 0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_multiply_accumulates_are_those_calculated_by_hand(case: Case) -> None:
    kind, inputs, outputs, attributes, expected = case
    assert multiply_accumulates(kind, inputs, outputs, attributes) == expected
