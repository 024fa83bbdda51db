"""Multiply-accumulates per layer, as papers count them: one per multiplication that is added to a sum.

Counted: convolutions (plain, transposed, deformable, quantised), matrix products (Gemm, MatMul, Einsum, quantised
ones), recurrent layers (LSTM, GRU, RNN) and Attention's two products. A bias, activations, normalisations, pooling and
elementwise arithmetic count 0, and so do layers with subgraphs (If, Loop, Scan), whose trips aren't known.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tierflow.graph import Attribute

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]
Attributes = Mapping[str, Attribute]


def multiply_accumulates(kind: str, inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    """Multiply-accumulates of one layer for one inference.

    Args:
        kind: The ONNX operator.
        inputs: Shapes of its inputs by position, None for one that is left out.
        outputs: Shapes of its outputs by position, alike.
        attributes: Its attributes, as `tierflow.graph.Layer.attributes`.
    """
    rule = _RULES.get(kind)
    if rule is None:
        return 0
    return rule(inputs, outputs, attributes)


def _at(shapes: Shapes, place: int) -> Shape:
    """The shape at `place`; () where there is none."""
    return (shapes[place] if place < len(shapes) else None) or ()


def _convolution(weight: int) -> Callable[[Shapes, Shapes, Attributes], int]:
    # Weight [M, C/group, k...]: each output element sums over C/group x k.
    return lambda inputs, outputs, _: math.prod(_at(outputs, 0)) * math.prod(_at(inputs, weight)[1:])


def _transposed(inputs: Shapes, _outputs: Shapes, _attributes: Attributes) -> int:
    # Weight [C, M/group, k...]: each input element goes into M/group x k sums.
    return math.prod(_at(inputs, 0)) * math.prod(_at(inputs, 1)[1:])


def _product(inputs: Shapes, outputs: Shapes, _attributes: Attributes) -> int:
    left = _at(inputs, 0)
    return math.prod(_at(outputs, 0)) * (left[-1] if left else 1)


def _gemm(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    left = _at(inputs, 0)
    return math.prod(_at(outputs, 0)) * left[0 if attributes.get("transA") else -1]


def _einsum(inputs: Shapes, _outputs: Shapes, attributes: Attributes) -> int:
    """The product of all dimensions that occur, as if all operands were multiplied at once; 0 for a single one."""
    equation = str(attributes.get("equation", "")).replace(" ", "").split("->")[0]
    sizes: dict[str, int] = {}
    broadcast = 1
    terms = equation.split(",")
    for place, term in enumerate(terms):
        shape = _at(inputs, place)
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        broadcast = max(broadcast, math.prod(shape[len(before) : len(before) + hidden]))
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(after, shape[len(before) + hidden :], strict=False))
    return broadcast * math.prod(sizes.values()) if len(terms) > 1 else 0


def _recurrent(inputs: Shapes, _outputs: Shapes, _attributes: Attributes) -> int:
    # X [sequence, batch, input] (layout 1: batch first), W [directions, gates*hidden, input],
    # R [directions, gates*hidden, hidden]: each step multiplies with both.
    return math.prod(_at(inputs, 0)[:2]) * (math.prod(_at(inputs, 1)) + math.prod(_at(inputs, 2)))


def _attention(inputs: Shapes, outputs: Shapes, _attributes: Attributes) -> int:
    # Q [B, Hq, Lq, D] or [B, Lq, Hq*D]; K and V alike, behind what the cache holds (input 4). Each element of Q meets
    # every key, each element of the result sums over every value; heads make no difference.
    key, past = _at(inputs, 1), _at(inputs, 4)
    keys = (key[-2] if key else 0) + (past[-2] if past else 0)
    return (math.prod(_at(inputs, 0)) + math.prod(_at(outputs, 0))) * keys


_RULES: Final[Mapping[str, Callable[[Shapes, Shapes, Attributes], int]]] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "DeformConv": _convolution(1),
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Attention": _attention,
}
