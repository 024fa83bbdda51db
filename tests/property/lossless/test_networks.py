"""Head, middle and tail of real architectures against the whole: at the boundaries of their order, and beyond it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from factories.networks import filled, light_model
from factories.partitions import random_tiers
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow.segment import cut
from tierflow.zoo.model import open_zoo_model
from tierflow_worker.verification import (
    TOLERANCE,
    CutCheck,
    covering_cuts,
    sample_inputs,
    verify_partition,
    whole_outputs,
)

pytestmark = pytest.mark.slow

Report = Callable[[str, Sequence[CutCheck]], None]


# Where a number stands, so many cuts are sampled evenly; a cut has two boundaries. None: every distinct boundary.
@pytest.mark.parametrize(
    ("name", "count"), [("alexnet", None), ("vgg16", 4), ("resnet18", None), ("darknet53", 12), ("inceptionv4", 12)]
)
def test_a_zoo_network_cut_at_its_boundaries_answers_as_the_whole(name: str, count: int | None, report: Report) -> None:
    model = open_zoo_model(name)
    checks = check_cuts(model, count)
    report(name, checks)
    assert all(check.holds for check in checks), worst(checks)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("bvlc_alexnet", None),
        ("densenet121", 30),
        ("inception_v1", None),
        ("inception_v2", 24),
        ("resnet50", 20),
        ("shufflenet", None),
        ("squeezenet", None),
        ("vgg19", 3),
        ("zfnet512", None),
    ],
)
def test_a_light_model_cut_at_its_boundaries_answers_as_the_whole(name: str, count: int | None, report: Report) -> None:
    checks = check_cuts(open_model(str(light_model(name))), count)
    report(f"light_{name}", checks)
    assert all(check.holds for check in checks), worst(checks)


@pytest.mark.parametrize(
    "name", ["densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet"]
)
def test_a_light_model_with_random_weights_answers_as_the_whole(name: str, tmp_path: Path, report: Report) -> None:
    # As shipped their weights are all equal, and so are their outputs: a mistake could hide.
    path = tmp_path / "filled.onnx"
    onnx.save(filled(onnx.load(light_model(name))), path)
    checks = check_cuts(open_model(str(path)), 12)
    report(f"light_{name}, random weights", checks)
    assert all(check.holds for check in checks), worst(checks)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 12), ("inceptionv4", 6)])
def test_a_network_split_across_its_branches_answers_as_the_whole(name: str, count: int, report: Report) -> None:
    model = open_zoo_model(name)
    inputs = sample_inputs(model)
    expected = whole_outputs(model, inputs)
    partitions = [random_tiers(model.graph, seed) for seed in range(count)]
    assert any(tiers != sorted(tiers, key=lambda tier: tier.rank) for tiers in partitions)
    checks = [verify_partition(model, tiers, inputs, expected) for tiers in partitions]
    report(f"{name}, split across branches", checks)
    assert all(check.holds for check in checks), worst(checks)


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet18", "darknet53", "inceptionv4"])
def test_a_zoo_network_tells_images_apart(name: str) -> None:
    model = open_zoo_model(name)
    (first,), (second,) = (whole_outputs(model, sample_inputs(model, seed)).values() for seed in (1, 2))
    assert np.isfinite(first).all()
    assert 0.5 < first.std() < 8
    probabilities = np.exp(first - first.max()) / np.exp(first - first.max()).sum()
    assert 5 / 1000 < probabilities.max() < 0.95
    assert np.abs(first - second).max() > 0.01 * np.abs(first).max()


def check_cuts(model: Model, count: int | None) -> list[CutCheck]:
    inputs = sample_inputs(model)
    expected = whole_outputs(model, inputs)
    cuts = covering_cuts(model.graph, count)
    return [verify_partition(model, cut(model.graph, *ends), inputs, expected) for ends in cuts]


def worst(checks: Sequence[CutCheck]) -> str:
    found = max(checks, key=lambda check: check.largest_relative_difference)
    return f"{found} exceeds {TOLERANCE}"
