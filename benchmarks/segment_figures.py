"""Segments: how many cuts of a network answer bit for bit as the whole model does, and by how much others differ."""

from collections.abc import Iterator
from typing import Final

from benchmarks.figure import Figure, at_most
from tierflow.segment import cut
from tierflow.zoo.model import names, open_zoo_model
from tierflow_worker.verification import (
    TOLERANCE,
    CutCheck,
    covering_cuts,
    sample_inputs,
    verify_partition,
    whole_outputs,
)

_CUTS: Final = {"alexnet": 10, "vgg16": 5, "resnet18": 34, "darknet53": 10, "inceptionv4": 10}
"""Cuts per network, spread evenly; each is two boundaries. For AlexNet and ResNet-18 they are all that there are."""


def figures() -> Iterator[Figure]:
    """For each network of the zoo the share of bit-identical cuts, and the largest relative difference over all."""
    worst = 0.0
    for name in names():
        checks = _checks(name, _CUTS[name])
        identical = sum(check.bit_identical for check in checks)
        share = 100 * identical / len(checks)
        yield Figure("segments", f"{name}: bit-identical of {len(checks)} cuts", share, "%")
        difference = max(check.largest_relative_difference for check in checks)
        yield at_most("segments", f"{name}: largest difference / largest output", difference, "x", TOLERANCE)
        worst = max(worst, difference)
    yield at_most("segments", "all: largest difference / largest output", worst, "x", TOLERANCE)


def _checks(name: str, count: int) -> list[CutCheck]:
    model = open_zoo_model(name)
    inputs = sample_inputs(model)
    expected = whole_outputs(model, inputs)
    cuts = covering_cuts(model.graph, count)
    return [verify_partition(model, cut(model.graph, *ends), inputs, expected) for ends in cuts]
