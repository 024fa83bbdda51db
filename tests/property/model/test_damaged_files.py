"""Whatever bytes a file has: a model comes of it, or an error of Tierflow that says what is wrong."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from factories.models import convolutions, model_of, node, value
from tierflow.errors import TierflowError
from tierflow.model import open_model


def with_everything() -> onnx.ModelProto:
    """A model with a subgraph, a function, a sparse weight, constants and typed data."""
    yes = helper.make_graph([node("Add", "x w", "then")], "yes", [], [value("then", [400])])
    no = helper.make_graph([node("Twice", "x", "else")], "no", [], [value("else", [400])])
    no.node[0].domain = "local"
    whole = model_of(
        [
            helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones(400, dtype=np.float32))),
            helper.make_node("Constant", [], ["zero"], value_float=0.0),
            node("ReduceSum", "x", "total", keepdims=0),
            node("Greater", "total zero", "chosen"),
            node("If", "chosen", "y", then_branch=yes, else_branch=no),
            node("Add", "y sparse", "z"),
            node("Add", "z typed", "out"),
        ],
        [value("x", [400])],
        [value("out", [400])],
        [helper.make_tensor("typed", onnx.TensorProto.FLOAT, [400], [0.5] * 400)],
        domains=["local"],
    )
    whole.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([5, 6], dtype=np.float32), "sparse"),
            numpy_helper.from_array(np.array([3, 9], dtype=np.int64), "places"),
            [400],
        )
    )
    twice = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 21)]
    )
    whole.functions.append(twice)
    return whole


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with some bytes changed, removed or repeated, mostly outside of the weights."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed))
        kind = chance.random()
        if kind < 0.6:
            changed[place] = chance.randrange(256)
        elif kind < 0.8:
            del changed[place : place + chance.randint(1, 8)]
        else:
            changed[place:place] = changed[place : place + chance.randint(1, 8)]
    return bytes(changed)


@pytest.mark.slow
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path: Path) -> None:
    chance = random.Random(7)
    originals = [with_everything().SerializeToString(), convolutions().SerializeToString()]
    path = tmp_path / "model.onnx"
    path.write_bytes(originals[0])
    assert open_model(str(path)).graph.outputs == ("out",)
    refused = 0
    for number in range(1500):
        content = originals[0 if number % 3 else 1]
        path.write_bytes(damaged(content, chance))
        try:
            model = open_model(str(path), cache_dir=tmp_path)
            for name in model.graph.weights:
                if any(tensor.name == name for tensor in model.skeleton.graph.initializer):
                    model.read_weight(name)
        except TierflowError:
            refused += 1
    assert refused > 300
