"""Any cut of any graph recomposes to the whole."""

import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from factories.models import model_of, node, saved, value, weight, whole_numbers
from tierflow.graph import Graph
from tierflow.model import open_model
from tierflow.model.extract import extract_bytes
from tierflow.model.model import Model

Arrays = dict[str, NDArray[np.float32]]
SHAPE = [4, 300]  # so that some weights are held in the skeleton and others aren't


class Builder:
    """Draws a model whose activations mostly are of one shape."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights = [whole_numbers("shape", *SHAPE), weight("square", 300, 300, seed=seed)]
        self.weights += [weight("row", 300, seed=seed + 1), weight("column", 4, 1, seed=seed + 2)]
        self.weights.append(numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"))
        self.tensors = [f"x{number}" for number in range(self.random.randint(1, 3))]
        self.inputs = list(self.tensors)

    def pick(self) -> str:
        """A tensor, recent ones preferred."""
        return self.random.choice(self.tensors[-5:] if self.random.random() < 0.7 else self.tensors)

    def step(self, number: int) -> None:
        name = f"t{number}"
        kinds = [self.unary, self.unary, self.binary, self.weighted, self.product, self.split]
        self.random.choice([*kinds, self.constant, self.conditional, self.shape])(name)

    def add(self, *nodes: onnx.NodeProto) -> None:
        self.nodes.extend(nodes)

    def unary(self, name: str) -> None:
        self.add(node(self.random.choice(["Relu", "Tanh", "Neg", "Sigmoid"]), self.pick(), name))
        self.tensors.append(name)

    def binary(self, name: str) -> None:
        self.add(node(self.random.choice(["Add", "Sub", "Max"]), f"{self.pick()} {self.pick()}", name))
        self.tensors.append(name)

    def weighted(self, name: str) -> None:
        self.add(node("Mul", f"{self.pick()} {self.random.choice(['row', 'column'])}", name))
        self.tensors.append(name)

    def product(self, name: str) -> None:
        self.add(node("MatMul", f"{self.pick()} square", f"{name}p"), node("Tanh", f"{name}p", name))
        self.tensors.append(name)

    def split(self, name: str) -> None:
        self.add(node("Split", self.pick(), f"{name}a {name}b", axis=1, num_outputs=2))
        self.add(node("Concat", f"{name}b {name}a", name, axis=1))
        self.tensors.append(name)

    def constant(self, name: str) -> None:
        self.add(
            node("ConstantOfShape", "shape", f"{name}z"),
            node("Add", f"{name}z row", f"{name}w"),
            node("Add", f"{self.pick()} {name}w", name),
        )
        self.tensors.append(name)

    def shape(self, name: str) -> None:
        self.add(node("Shape", self.pick(), f"{name}s"), node("Reshape", f"{self.pick()} {name}s", name))
        self.tensors.append(name)

    def conditional(self, name: str) -> None:
        yes = helper.make_graph(
            [node("Add", f"{self.pick()} row", f"{name}yes")], "yes", [], [value(f"{name}yes", SHAPE)]
        )
        no = helper.make_graph(
            [node("Mul", f"{self.pick()} {name}own", f"{name}no")],
            "no",
            [],
            [value(f"{name}no", SHAPE)],
            [weight(f"{name}own", 300)],
        )
        self.add(
            node("ReduceSum", self.pick(), f"{name}t", keepdims=0),
            node("Greater", f"{name}t zero", f"{name}c"),
            node("If", f"{name}c", name, then_branch=yes, else_branch=no),
        )
        self.tensors.append(name)

    def model(self) -> onnx.ModelProto:
        for number in range(self.random.randint(3, 20)):
            self.step(number)
        made = [name for name in self.tensors if name not in self.inputs]
        outputs = sorted({made[-1], *self.random.sample(made, min(len(made), self.random.randint(0, 2)))})
        return model_of(
            self.nodes,
            [value(name, SHAPE) for name in self.inputs],
            [value(name, None, TensorProto.FLOAT) for name in outputs],
            self.weights,
        )


def run(model: bytes, given: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = {name: given[name] for name in (entry.name for entry in session.get_inputs())}
    return dict(zip((entry.name for entry in session.get_outputs()), session.run(None, wanted), strict=True))


def drawn_stages(graph: Graph, chance: random.Random, count: int) -> list[int]:
    """A stage for each layer, none before those of the layers that it reads from; not only prefixes of the order."""
    stages: list[int] = []
    for layer in graph.layers:
        least = max((stages[graph.producer[name]] for name in layer.inputs if name in graph.producer), default=0)
        stages.append(chance.choice([least, least, chance.randint(least, count - 1)]))
    return stages


def recomposed(model: Model, stages: list[int], given: Arrays) -> Arrays:
    """Runs one segment per stage, each given only what earlier ones made."""
    graph = model.graph
    known = dict(given)
    for stage in range(max(stages, default=0) + 1):
        mine = [layer for layer, owner in zip(graph.layers, stages, strict=True) if owner == stage]
        later = [layer for layer, owner in zip(graph.layers, stages, strict=True) if owner > stage]
        made = [name for layer in mine for name in layer.outputs]
        wanted = {name for layer in later for name in layer.inputs}.union(graph.outputs)
        outputs = [name for name in made if name in wanted]
        accepts = sorted({name for layer in mine for name in layer.inputs}.difference(made))
        if outputs:
            known.update(run(extract_bytes(model, accepts, outputs), known))
    return known


@pytest.mark.slow
def test_segments_of_any_partition_recompose_to_the_whole(tmp_path: Path) -> None:
    identical = 0
    cases = 150
    for seed in range(cases):
        chance = random.Random(seed)
        path = saved(Builder(seed).model(), tmp_path)
        model = open_model(str(path))
        graph = model.graph
        generator = np.random.default_rng(seed)
        given: Arrays = {name: generator.standard_normal(SHAPE, dtype=np.float32) for name in graph.inputs}
        whole = run(path.read_bytes(), given)
        parts = recomposed(model, drawn_stages(graph, chance, 4), given)
        same = True
        for name, expected in whole.items():
            difference = np.abs(expected - parts[name]).max()
            assert difference <= 1e-6 * np.abs(expected).max(), f"seed {seed}, output {name}"
            same = same and np.array_equal(expected, parts[name])
        identical += same
    assert identical >= cases * 0.9
