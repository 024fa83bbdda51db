"""The record of a decision as a document."""

import pytest

from factories.courses import GRAPH, NARROW, PROFILE, WIDE, spec
from tierflow.errors import InvalidInputError
from tierflow_operator.decide import Hold, MeasuredLatency, Move, Present, decide
from tierflow_operator.present import decode, encode


def full() -> Present:
    """A record with everything that one can have."""
    wanted = spec(stabilizationSeconds=30)
    first = decide(wanted, GRAPH, PROFILE, WIDE, None, 0.0)
    assert isinstance(first, Move)
    latency = MeasuredLatency(seconds=6.0, requests=100, since=1.0)
    second = decide(spec(), GRAPH, PROFILE, NARROW, first.present, 100.0, latency)
    assert isinstance(second, Move)
    held = decide(wanted, GRAPH, PROFILE, WIDE, second.present.rejecting(first.present, 120.0), 150.0)
    assert isinstance(held, Hold)
    assert held.present is not None
    return held.present


def test_a_record_is_read_as_it_was_written() -> None:
    present = full()
    assert present.rejected
    assert present.replaced is not None
    assert (present.reason, present.message[:10]) == ("BandwidthChanged", "device-clo")
    assert decode(encode(present)) == present
    assert encode(decode(encode(present))) == encode(present)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"not JSON"])
def test_what_is_no_record_is_refused_with_the_way_out(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="no record of version 1: .*; plan anew"):
        decode(data)


def test_a_record_of_another_version_is_refused() -> None:
    text = encode(full()).replace(b'"version":1}', b'"version":2}')
    with pytest.raises(InvalidInputError, match="no record of version 1"):
        decode(text)


def test_a_plan_that_takes_over_counts_its_age_from_then() -> None:
    present = full()
    assert present.taking_over(500.0).decided_at == 500.0
    assert present.taking_over(500.0).plan == present.plan
