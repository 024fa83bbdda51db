import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph, Layer, Tensor
from tierflow.network import NETWORKS
from tierflow.profile import Profile, costs_of, decode, encode
from tierflow.segment import segments_of
from tierflow.segment_time import segment_seconds
from tierflow.tiers import TIERS, Tier

GRAPH = Graph(
    name="g",
    inputs=("x",),
    outputs=("y",),
    layers=(
        Layer(name="first", kind="Conv", inputs=("x",), outputs=("a",)),
        Layer(name="second", kind="Relu", inputs=("a",), outputs=("y",)),
    ),
    tensors={name: Tensor(name=name, dtype="float32", shape=(1, 25)) for name in "xay"},
)

seconds = st.floats(min_value=0, max_value=1e3)
profiles = st.builds(
    Profile,
    model=st.just("m"),
    source=st.just("measured"),
    machine=st.just("here"),
    layers=st.fixed_dictionaries({"first": seconds, "second": seconds}),
    crossings=st.fixed_dictionaries({"a": seconds}),
    segment=seconds,
    torn=st.fixed_dictionaries({"second": seconds}),
    enters=st.just({}),
    leaves=st.fixed_dictionaries({"a": seconds}),
)
speeds = st.floats(min_value=0.01, max_value=100)


@given(profiles, speeds)
def test_a_machine_that_is_twice_as_fast_takes_half_the_time_for_every_segment(profile: Profile, speed: float) -> None:
    faster = profile.scaled(speed)
    for tiers in ([Tier.DEVICE] * 2, [Tier.DEVICE, Tier.CLOUD], [Tier.CLOUD] * 2):
        for segment in segments_of(GRAPH, tiers):
            expected = segment_seconds(GRAPH, profile, segment) / speed
            # What is torn is a difference of sums, so that rounding counts in proportion to the largest time.
            rounding = 1e-12 * max(1.0, *faster.layers.values())
            assert segment_seconds(GRAPH, faster, segment) == pytest.approx(expected, rel=1e-9, abs=rounding)


@given(profiles, speeds)
def test_scaling_there_and_back_changes_nothing_but_the_machines_name(profile: Profile, speed: float) -> None:
    back = profile.scaled(speed).scaled(1 / speed)
    for field in ("layers", "crossings", "torn", "enters", "leaves"):
        assert getattr(back, field) == pytest.approx(getattr(profile, field))
    assert back.segment == pytest.approx(profile.segment)
    assert (back.model, back.source) == (profile.model, profile.source)


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_speed_that_is_not_positive_is_refused(speed: float) -> None:
    profile = Profile(model="m", source="measured", machine="here", layers={})
    with pytest.raises(InvalidInputError, match="must be positive"):
        profile.scaled(speed)


@given(profiles)
def test_a_profile_reads_back_as_it_was_written(profile: Profile) -> None:
    assert decode(encode(profile)) == profile


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"model": 3}'])
def test_what_is_no_profile_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="no profile"):
        decode(data)


def test_each_side_of_a_crossing_pays_its_own_part_at_its_own_speed() -> None:
    profile = Profile(
        model="m", source="measured", machine="here", layers={"first": 1.0, "second": 2.0}, segment=0.5,
        crossings={"a": 5.0}, leaves={"a": 2.0},
    )  # fmt: skip
    slow = profile.scaled(0.5)
    costs = costs_of(GRAPH, {Tier.DEVICE: slow, Tier.EDGE: profile, Tier.CLOUD: profile}, NETWORKS["ethernet"])
    link = NETWORKS["ethernet"].device_edge
    place = list(GRAPH.tensors).index("a")
    # The device, half as fast, takes 4 s for its 2 s; the edge 3 s.
    assert costs.device_edge.tensor[place] == pytest.approx(4.0 + 3.0 + 100 / link.bytes_per_second)
    assert costs.device_edge.fixed == pytest.approx(link.round_trip_seconds + 0.5)
    assert np.array_equal(costs.layer, [[2.0, 4.0], [1.0, 2.0], [1.0, 2.0]])


def test_costs_of_a_profile_that_lacks_a_layer_are_refused_by_name() -> None:
    whole = Profile(model="m", source="measured", machine="here", layers={"first": 1.0, "second": 2.0})
    lacking = msgspec.structs.replace(whole, layers={"first": 1.0})
    with pytest.raises(InvalidInputError, match="the profile of edge has no time for layer second"):
        costs_of(GRAPH, dict(zip(TIERS, (whole, lacking, whole), strict=True)), NETWORKS["wifi"])
