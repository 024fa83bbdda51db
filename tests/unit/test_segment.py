import pytest

from factories.graphs import chain, graph_of
from tierflow.errors import InvalidInputError
from tierflow.graph import Graph
from tierflow.segment import Route, Segment, boundary_id, boundary_tensors, cut, segment_id, segments_of
from tierflow.tiers import Tier

DEVICE, EDGE, CLOUD = Tier.DEVICE, Tier.EDGE, Tier.CLOUD


@pytest.fixture
def graph() -> Graph:
    """Two branches of which one is skipped past the edge, and a result in the middle."""
    return graph_of([("x", "a"), ("a", "b"), ("a", "c"), ("b c", "d")], outputs="b d")


def test_a_chain_over_three_tiers_passes_one_tensor_on(graph: Graph) -> None:
    device, edge, cloud = segments_of(chain(3), (DEVICE, EDGE, CLOUD))
    assert (device.accepts, device.sends, device.results) == (("x",), ("t0",), ())
    assert (edge.accepts, edge.sends, edge.results) == (("t0",), ("t1",), ())
    assert (cloud.accepts, cloud.sends, cloud.results) == (("t1",), (), ("t2",))


def test_a_tensor_needed_further_up_is_relayed(graph: Graph) -> None:
    device, edge, cloud = segments_of(graph, (DEVICE, EDGE, CLOUD, CLOUD))
    assert device.sends == ("a",)
    assert edge.accepts == ("a",)
    assert edge.sends == ("a", "b")
    assert edge.results == ("b",)
    assert cloud.accepts == ("a", "b")
    assert cloud.results == ("d",)


def test_an_empty_edge_relays_all_that_it_accepts(graph: Graph) -> None:
    _, edge, cloud = segments_of(graph, (DEVICE, CLOUD, CLOUD, CLOUD))
    assert edge == Segment(tier=EDGE, accepts=("a",), sends=("a",))
    assert edge.takes_part
    assert cloud.accepts == ("a",)


def test_the_direct_route_leaves_the_edge_out(graph: Graph) -> None:
    device, edge, cloud = segments_of(graph, (DEVICE, CLOUD, CLOUD, CLOUD), Route.DIRECT)
    assert device.sends == cloud.accepts == ("a",)
    assert edge == Segment(tier=EDGE)
    assert not edge.takes_part


def test_the_direct_route_refuses_layers_at_the_edge(graph: Graph) -> None:
    with pytest.raises(InvalidInputError, match="layer B is on it"):
        segments_of(graph, (DEVICE, EDGE, CLOUD, CLOUD), Route.DIRECT)


def test_without_a_cloud_the_edge_is_the_last(graph: Graph) -> None:
    device, edge, cloud = segments_of(graph, (DEVICE, DEVICE, EDGE, EDGE))
    assert device.sends == ("a", "b")
    assert device.results == ("b",)
    assert edge.sends == ()
    assert not cloud.takes_part


def test_everything_on_the_device_sends_nothing(graph: Graph) -> None:
    device, edge, cloud = segments_of(graph, (DEVICE,) * 4)
    assert (device.accepts, device.sends, device.results) == (("x",), (), ("b", "d"))
    assert not edge.takes_part
    assert not cloud.takes_part


def test_an_input_that_is_a_result_comes_from_the_device() -> None:
    graph = graph_of([("x", "a")], outputs="x a")
    device, _, cloud = segments_of(graph, (CLOUD,), Route.DIRECT)
    assert device.results == ("x",)
    assert cloud.results == ("a",)


def test_a_partition_that_sends_data_back_is_refused_by_its_layer(graph: Graph) -> None:
    with pytest.raises(InvalidInputError, match="layer D on edge reads c from C on cloud"):
        segments_of(graph, (DEVICE, EDGE, CLOUD, EDGE))


def test_a_partition_of_another_length_is_refused(graph: Graph) -> None:
    with pytest.raises(InvalidInputError, match="needs 4 tiers, not 2"):
        segments_of(graph, (DEVICE, EDGE))


def test_boundary_tensors_are_in_the_graphs_order(graph: Graph) -> None:
    assert boundary_tensors(graph, (EDGE, EDGE, EDGE, EDGE), DEVICE) == ("x",)
    assert boundary_tensors(graph, (DEVICE, DEVICE, DEVICE, CLOUD), EDGE) == ("b", "c")
    assert boundary_tensors(graph, (DEVICE,) * 4, DEVICE) == ()


def test_a_boundarys_id_depends_on_the_set_of_tensors_and_the_model_alone() -> None:
    assert boundary_id("m", ["a", "b"]) == boundary_id("m", ["b", "a"])
    assert boundary_id("m", ["a", "b"]) != boundary_id("n", ["a", "b"])
    assert boundary_id("m", ["a", "b"]) != boundary_id("m", ["ab"])
    assert boundary_id("m", ["a"], ["y"]) != boundary_id("m", ["a"], ["y", "z"]) != boundary_id("m", ["a", "y", "z"])


def test_a_segments_id_tells_accepted_from_sent_tensors() -> None:
    one = Segment(tier=EDGE, accepts=("a",), sends=("b",))
    assert segment_id("m", one) != segment_id("m", Segment(tier=EDGE, accepts=("a",), results=("b",)))
    assert segment_id("m", one) == segment_id("m", Segment(tier=CLOUD, accepts=("a",), sends=("b",)))


@pytest.mark.parametrize(
    ("device", "edge", "counts"),
    [
        ("L0", "L2", (1, 2, 1)),
        ("", "", (0, 0, 4)),
        ("L1", "", (2, 0, 2)),
        ("", "L3", (0, 4, 0)),
        ("L3", "L3", (4, 0, 0)),
    ],
)
def test_a_cut_names_the_last_layers(device: str, edge: str, counts: tuple[int, int, int]) -> None:
    tiers = cut(chain(4), device, edge)
    assert tuple(tiers.count(tier) for tier in Tier) == counts


def test_a_cut_at_a_layer_that_is_not_there_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InvalidInputError, match=r"no layer 'L33', did you mean L\d") as raised:
        cut(chain(4), "L33", "")
    assert raised.value.subject == "L33"


def test_a_cut_with_the_edge_before_the_device_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="L0 comes before the device's last layer L2"):
        cut(chain(4), "L2", "L0")
