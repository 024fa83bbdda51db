"""Runs of a graph: the longest ones, and those that are asked for by name."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from factories.models import model_of, node, saved, value, weight
from tierflow.errors import InvalidInputError, UnsupportedError
from tierflow.graph import Graph
from tierflow.model.file import FileModel
from tierflow.profile import Profile
from tierflow.tiling.blocks import blocks_of
from tierflow.tiling.choice import EdgeNodes, Pricing, priced_runs
from tierflow.tiling.layout import Grid
from tierflow.tiling.runs import longest_runs, named_run, refusals
from tierflow.zoo.model import open_zoo_model

SQUARE = Grid(2, 2)
SAME = {"pads": [1, 1, 1, 1]}


def graph(folder: Path, nodes: Sequence[onnx.NodeProto], *outputs: str) -> Graph:
    """A graph of layers over [1, 16, 12, 12]; `w` is a 3x3 convolution's weight."""
    made = [value(name, None) for name in outputs]
    return FileModel(
        saved(model_of(nodes, [value("x", [1, 16, 12, 12])], made, [weight("w", 16, 16, 3, 3)]), folder)
    ).graph


def chain(folder: Path) -> Graph:
    """conv1, relu1, softmax, conv2, pool, dense: the softmax and the classifier can't be tiled."""
    return graph(
        folder,
        [
            node("Conv", "x w", "a", name="conv1", **SAME), node("Relu", "a", "b", name="relu1"),
            node("Softmax", "b", "c", name="softmax", axis=1), node("Conv", "c w", "d", name="conv2", **SAME),
            node("MaxPool", "d", "e", name="pool", kernel_shape=[12, 12]), node("Flatten", "e", "y", name="flatten"),
        ],
        "y",
    )  # fmt: skip


def names(graph: Graph, layers: Sequence[int]) -> list[str]:
    return [graph.layers[place].name for place in layers]


def test_the_longest_runs_end_where_a_layer_has_no_rule_or_the_map_no_room(tmp_path: Path) -> None:
    network = chain(tmp_path)
    first, second = longest_runs(network, SQUARE)
    assert (names(network, first.layers), first.input, first.output) == (["conv1", "relu1"], "x", "b")
    assert first.ended_by.startswith("layer softmax (Softmax): the result of a Softmax at one place")
    assert (names(network, second.layers), second.input, second.output) == (["conv2"], "c", "d")
    assert second.ended_by == "e has 1 x 1 places, too few for a grid of 2x2"


def test_each_block_can_be_a_run_of_its_own(tmp_path: Path) -> None:
    network = chain(tmp_path)
    runs = longest_runs(network, SQUARE, every_block=True)
    assert [names(network, run.layers) for run in runs] == [["conv1"], ["relu1"], ["conv2"]]


def test_what_can_not_be_tiled_is_listed_in_order(tmp_path: Path) -> None:
    reasons = refusals(chain(tmp_path))
    assert [reason.split(":")[0] for reason in reasons] == ["layer softmax (Softmax)", "layer flatten (Flatten)"]


def test_a_run_ends_with_a_map_that_is_an_output_of_the_graph(tmp_path: Path) -> None:
    layers = [node("Conv", "x w", "a", name="conv1", **SAME), node("Conv", "a w", "y", name="conv2", **SAME)]
    runs = longest_runs(graph(tmp_path, layers, "a", "y"), SQUARE)
    assert [run.output for run in runs] == ["a", "y"]
    assert runs[0].ended_by == "a is wanted outside of runs"


def test_a_planned_run_does_not_span_a_map_that_is_sent_on(tmp_path: Path) -> None:
    layers = [node("Conv", "x w", "a", name="conv1", **SAME), node("Conv", "a w", "y", name="conv2", **SAME)]
    network = graph(tmp_path, layers, "a", "y")
    profile = Profile(model="", source="estimated", machine="", segment=0, layers={"conv1": 1.0, "conv2": 1.0})
    for outputs, spans in ((("a", "y"), {(0, 1), (1, 2)}), (("y",), {(0, 1), (1, 2), (0, 2)})):
        blocks = blocks_of(network, (0, 1), ("x",), outputs).blocks
        pricing = Pricing(network, profile, blocks, EdgeNodes(speeds=(1.0, 1.0)))
        assert set(priced_runs(pricing)) == spans


def test_a_grid_larger_than_every_map_is_refused_with_the_largest(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="grid of 13x1 is larger than every map .*: the largest has 12 x 12"):
        longest_runs(chain(tmp_path), Grid(13, 1))


def test_a_network_without_a_tileable_layer_is_refused_with_the_reason(tmp_path: Path) -> None:
    network = graph(tmp_path, [node("Softmax", "x", "y", name="softmax", axis=1)], "y")
    with pytest.raises(UnsupportedError, match=r"no run of .* can be tiled: layer softmax \(Softmax\)"):
        longest_runs(network, SQUARE)


def test_a_run_is_found_by_the_names_of_its_first_and_last_layer() -> None:
    network = open_zoo_model("resnet18").graph
    run = named_run(network, "layer1.0/conv1", "layer1.1/relu", SQUARE)
    assert names(network, run.layers)[:2] == ["layer1.0/conv1", "layer1.0/bn1"]
    assert (run.input, run.output) == ("maxpool", "layer1.1/relu")


def test_a_run_asked_for_by_name_that_cannot_be_tiled_names_the_layer_and_why(tmp_path: Path) -> None:
    network = chain(tmp_path)
    with pytest.raises(UnsupportedError) as refused:
        named_run(network, "conv1", "conv2", SQUARE)
    assert refused.value.message == (
        "the run from conv1 to conv2 can't be tiled: layer softmax (Softmax): the result of a Softmax at one place can "
        "depend on the whole map"
    )
    assert refused.value.subject == "softmax"


def test_a_run_that_begins_or_ends_inside_of_a_block_is_refused() -> None:
    network = open_zoo_model("resnet18").graph
    with pytest.raises(UnsupportedError, match=r"it reads layer1\.0/relu1, maxpool; begin and end it where a single"):
        named_run(network, "layer1.0/conv2", "layer1.0/relu", SQUARE)
    with pytest.raises(UnsupportedError, match=r"it leaves behind maxpool, .*; begin and end it where a single"):
        named_run(network, "conv1", "layer1.0/conv2", SQUARE)


def test_a_run_of_layers_that_are_not_there_is_refused_with_a_hint(tmp_path: Path) -> None:
    network = chain(tmp_path)
    with pytest.raises(InvalidInputError, match="no layer 'convl', did you mean conv"):
        named_run(network, "convl", "pool", SQUARE)
    with pytest.raises(InvalidInputError, match="last layer conv1 comes before its first, relu1; exchange them"):
        named_run(network, "relu1", "conv1", SQUARE)


def test_a_grid_larger_than_the_runs_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="grid of 2x13 is larger than the map of 12 x 12"):
        named_run(chain(tmp_path), "conv1", "relu1", Grid(2, 13))
