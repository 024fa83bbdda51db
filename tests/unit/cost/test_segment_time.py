import pytest

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph, Layer, Tensor
from tierflow.profile import Profile
from tierflow.segment import segments_of
from tierflow.segment_time import crossings_of, segment_seconds
from tierflow.tiers import Tier

D, E, C = Tier.DEVICE, Tier.EDGE, Tier.CLOUD


def graph_of(*layers: tuple[str, str, str]) -> Graph:
    """Layers as (kind, inputs, output), named after their outputs; the graph's input is x, its output y."""
    names = ["x", *(made for _, _, made in layers)]
    return Graph(
        name="g",
        inputs=("x",),
        outputs=("y",),
        layers=tuple(
            Layer(name=output, kind=kind, inputs=tuple(read.split()), outputs=(output,))
            for kind, read, output in layers
        ),
        tensors={name: Tensor(name=name, dtype="float32", shape=(1, 8)) for name in names},
    )


# conv a, fused with the activation b; conv c, fused with the sum s (with b) and the activation t; conv y.
GRAPH = graph_of(
    ("Conv", "x", "a"), ("Relu", "a", "b"), ("Conv", "b", "c"), ("Add", "c b", "s"), ("Relu", "s", "t"),
    ("Conv", "t", "y"),
)  # fmt: skip
PROFILE = Profile(
    model="m",
    source="measured",
    machine="here",
    layers={"a": 100.0, "b": 0.0, "c": 200.0, "s": 0.0, "t": 0.0, "y": 400.0},
    segment=10.0,
    torn={"b": 1.0, "s": 2.0, "t": 3.0},
    enters={"b": 0.5, "t": 0.25},
    leaves={"a": 0.1, "b": 0.2, "c": 0.3, "s": 0.4, "t": 0.6},
)


def times(*tiers: Tier) -> list[float]:
    return [segment_seconds(GRAPH, PROFILE, segment) for segment in segments_of(GRAPH, tiers)]


def test_a_model_that_is_not_cut_takes_the_sum_of_its_layers_and_one_segments_time() -> None:
    assert times(D, D, D, D, D, D) == [710.0, 0.0, 0.0]


def test_a_cut_between_fused_operators_costs_a_copy_below_and_a_change_of_layout_above() -> None:
    # Below: t leaves. Above: t enters the last convolution.
    assert times(D, D, D, D, D, C) == pytest.approx([310.6, 0.0, 410.25])


def test_a_layer_torn_from_the_one_it_is_fused_to_runs_alone() -> None:
    # Above: the relu t runs alone, and what it makes enters the convolution.
    assert times(D, D, D, D, C, C) == pytest.approx([310.4, 0.0, 10 + 3 + 0.25 + 400])


def test_the_loss_goes_on_through_layers_that_need_all_their_inputs_in_the_runtimes_layout() -> None:
    # b arrives as an ordinary tensor: it enters c; the sum can't be fused, so that c leaves and t runs alone.
    assert times(D, D, C, C, C, C)[2] == pytest.approx(10 + 200 + 400 + 0.5 + (2 + 0.3) + 3 + 0.25)


def test_a_segment_pays_only_for_the_loss_within_it() -> None:
    # The edge ends with the sum, which is ordinary already: nothing more leaves.
    assert times(D, D, E, E, C, C)[1] == pytest.approx(10 + 200 + 0.5 + 2 + 0.3)


def test_a_tensor_that_was_made_ordinary_on_the_way_is_not_paid_for_again_when_it_is_sent() -> None:
    graph = graph_of(
        ("Conv", "x", "a"), ("Conv", "x", "b"), ("Add", "a b", "s"), ("Conv", "b", "c"), ("Sum", "s c", "y")
    )
    profile = Profile(
        model="m", source="measured", machine="here",
        layers=dict.fromkeys("abscy", 1.0), torn={"s": 2.0}, leaves={"a": 8.0, "b": 16.0},
    )  # fmt: skip
    segment = segments_of(graph, (D, E, E, C, C))[1]
    assert segment.accepts == ("x", "a")
    assert set(segment.sends) == {"s", "b"}
    assert segment_seconds(graph, profile, segment) == pytest.approx(1.0 + 2.0 + 16.0)


def test_an_empty_segment_takes_no_time() -> None:
    assert times(D, D, D, C, C, C)[1] == 0


def test_a_crossing_is_what_two_segments_pay_more_than_the_whole() -> None:
    crossings = crossings_of(GRAPH, PROFILE)
    whole = times(D, D, D, D, D, D)[0]
    for cut, tensor in [(1, "a"), (2, "b"), (4, "s"), (5, "t")]:
        both = times(*[D] * cut, *[C] * (6 - cut))
        assert crossings[tensor] == pytest.approx(sum(both) - whole - PROFILE.segment)


def test_a_profile_of_another_model_is_refused_by_the_layer_that_it_lacks() -> None:
    other = Profile(model="n", source="measured", machine="here", layers={"a": 1.0})
    segment = segments_of(GRAPH, [D] * 6)[0]
    with pytest.raises(InvalidInputError, match="no time for layer b") as caught:
        segment_seconds(GRAPH, other, segment)
    assert caught.value.subject == "b"
