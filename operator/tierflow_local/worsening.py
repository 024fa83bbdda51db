"""Which link gets worse in a scenario, and how: chosen from the plan, or as the user says."""

from typing import Final

from tierflow.errors import InvalidInputError
from tierflow.network import Link, Network
from tierflow.partition.latency import LINKS as LINKS_OF_ROUTE
from tierflow.plan import Plan
from tierflow.units import parse_bandwidth, parse_duration
from tierflow_operator.observation import LINKS, TierLink, link_name

Worsening = tuple[TierLink, Link]
"""A link and its new shape."""

_FACTOR: Final = 10
_FORM: Final = "edge-cloud=3.1Mbit/s:20ms"


def default_worsening(plan: Plan) -> Worsening | None:
    """A tenth of the bandwidth on the last link that the plan uses; None where it uses none."""
    used = [link for link in LINKS_OF_ROUTE[plan.route] if plan.segment(link[1]).segment.takes_part]
    if not used:
        return None
    before = plan.network.link(*used[-1])
    after = Link(bytes_per_second=before.bytes_per_second / _FACTOR, round_trip_seconds=before.round_trip_seconds)
    return used[-1], after


def parse_worsening(text: str, network: Network, *, field: str = "--worsen") -> Worsening:
    """Reads `edge-cloud=3.1Mbit/s:20ms`; the round trip stays what it is where none is given.

    Raises:
        InvalidInputError: naming `field` and what is wrong with it.
    """
    name, equals, value = text.partition("=")
    link = next((link for link in LINKS if link_name(link) == name), None)
    if not equals or link is None:
        raise InvalidInputError(
            f"{field}: {text!r} is no link with its new shape; write it like {_FORM}, with one of "
            f"{', '.join(map(link_name, LINKS))}, or none",
            subject=field,
        )
    bandwidth, colon, round_trip = value.partition(":")
    return link, Link(
        bytes_per_second=parse_bandwidth(bandwidth, field=f"{field} {name}"),
        round_trip_seconds=parse_duration(round_trip, field=f"{field} {name}")
        if colon
        else network.link(*link).round_trip_seconds,
    )
