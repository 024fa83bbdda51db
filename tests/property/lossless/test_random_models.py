"""Random partitions of small random models: several components, relayed tensors, several inputs and outputs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import onnx

from factories.models import model_of, node, value, weight
from factories.partitions import random_tiers
from tierflow.model import open_model
from tierflow.segment import Route, segments_of
from tierflow.tiers import Tier
from tierflow_worker.verification import CutCheck, sample_inputs, verify_partition, whole_outputs

SHAPE = (1, 4, 6, 6)
MODELS = 200
PARTITIONS = 3


def test_any_partition_of_any_small_model_answers_as_the_whole(
    tmp_path: Path, report: Callable[[str, Sequence[CutCheck]], None]
) -> None:
    checks, relays, scattered = [], 0, 0
    for seed in range(MODELS):
        path = tmp_path / f"{seed}.onnx"
        onnx.save(random_model(Random(seed)), path)
        model = open_model(str(path))
        inputs = sample_inputs(model, seed)
        expected = whole_outputs(model, inputs)
        for number in range(PARTITIONS):
            tiers = random_tiers(model.graph, seed * PARTITIONS + number)
            _, edge, _ = segments_of(model.graph, tiers)
            relays += bool(set(edge.accepts) & set(edge.sends))
            scattered += tiers != sorted(tiers, key=lambda tier: tier.rank)
            direct = Tier.EDGE not in tiers and number % 2 == 0
            route = Route.DIRECT if direct else Route.RELAYED
            check = verify_partition(model, tiers, inputs, expected, route=route)
            assert check.holds, f"model {seed}, partition {number}: {check}"
            checks.append(check)
    report("small random models", checks)
    # What the test is for must have happened.
    assert relays > 100
    assert scattered > 100


def random_model(random: Random) -> onnx.ModelProto:
    """A model of 4 to 16 layers with one to three inputs and outputs; a layer may read anything made before it."""
    inputs = [f"x{number}" for number in range(random.randint(1, 3))]
    made, nodes, weights = list(inputs), [], []
    for number in range(random.randint(4, 16)):
        name = f"t{number}"
        kind = random.choice(["Relu", "Sigmoid", "Add", "Mul", "Conv", "Split", "BatchNormalization", "MaxPool"])
        first, second = random.choice(made[-4:]), random.choice(made)
        if kind in ("Add", "Mul"):
            nodes.append(node(kind, f"{first} {second}", name, name=name))
        elif kind == "Conv":
            weights.append(weight(f"w{number}", 4, 4, 3, 3, seed=number))
            nodes.append(node(kind, f"{first} w{number}", name, name=name, pads=[1] * 4))
        elif kind == "BatchNormalization":
            names = [f"{part}{number}" for part in ("scale", "bias", "mean", "variance")]
            weights += [positive(part) for part in names]
            nodes.append(node(kind, " ".join([first, *names]), name, name=name))
        elif kind == "MaxPool":
            nodes.append(node(kind, first, name, name=name, kernel_shape=[3, 3], pads=[1] * 4))
        elif kind == "Split":  # two outputs that go different ways
            nodes.append(node(kind, first, f"{name}a {name}b", name=f"{name}/split", axis=1, num_outputs=2))
            nodes.append(node("Concat", f"{name}b {name}a", name, name=name, axis=1))
        else:
            nodes.append(node(kind, first, name, name=name))
        made.append(name)
    computed = made[len(inputs) :]
    outputs = list(dict.fromkeys([computed[-1], *random.sample(computed, min(2, len(computed)))]))
    random.shuffle(outputs)
    return model_of(nodes, [value(name, SHAPE) for name in inputs], [value(name, SHAPE) for name in outputs], weights)


def positive(name: str) -> onnx.TensorProto:
    content = np.random.default_rng(len(name)).uniform(0.5, 1.5, SHAPE[1]).astype(np.float32)
    return onnx.numpy_helper.from_array(content, name)
