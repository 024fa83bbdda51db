"""Links between tiers, and the network profiles that have a name."""

from collections.abc import Mapping
from typing import Final

import msgspec

from tierflow.errors import InvalidInputError
from tierflow.tiers import Tier
from tierflow.units import Bytes, Seconds, parse_bandwidth, parse_duration

MEGABIT: Final = 1e6 / 8
"""Bytes per second in one megabit per second."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The network path between two tiers: bandwidth each way in bytes per second, round trip in seconds."""

    bytes_per_second: float
    round_trip_seconds: float

    def transfer_seconds(self, size: Bytes) -> Seconds:
        """Time until `size` bytes have crossed and the answer to them could be back: round trip + size / bandwidth."""
        return Seconds(self.round_trip_seconds + size / self.bytes_per_second)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The three links of a chain; `device_cloud` is used where the edge computes nothing."""

    device_edge: Link
    edge_cloud: Link
    device_cloud: Link
    name: str = ""

    def link(self, lower: Tier, upper: Tier) -> Link:
        """The link from `lower` to `upper`, `lower` being nearer to the device."""
        links = {
            (Tier.DEVICE, Tier.EDGE): self.device_edge,
            (Tier.EDGE, Tier.CLOUD): self.edge_cloud,
            (Tier.DEVICE, Tier.CLOUD): self.device_cloud,
        }
        return links[(lower, upper)]


def network_of(device_edge: Link, edge_cloud: Link, device_cloud: Link | None = None, *, name: str = "") -> Network:
    """A network; its direct link, unless given, is the path through the edge: lower bandwidth, both round trips."""
    direct = device_cloud or Link(
        bytes_per_second=min(device_edge.bytes_per_second, edge_cloud.bytes_per_second),
        round_trip_seconds=device_edge.round_trip_seconds + edge_cloud.round_trip_seconds,
    )
    return Network(name=name, device_edge=device_edge, edge_cloud=edge_cloud, device_cloud=direct)


def _link(megabits_per_second: float, round_trip_milliseconds: float) -> Link:
    return Link(bytes_per_second=megabits_per_second * MEGABIT, round_trip_seconds=round_trip_milliseconds / 1000)


_LAN: Final = _link(84, 3)

NETWORKS: Final[Mapping[str, Network]] = {
    # Uplink bandwidths of cat1, 3g, 4g and wifi: DADS (INFOCOM'19), Table I. Their round trips, the local network
    # between device and edge, and ethernet's figures are nominal values of ours.
    "cat1": network_of(_LAN, _link(0.13, 100), name="cat1"),
    "3g": network_of(_LAN, _link(1.1, 70), name="3g"),
    "4g": network_of(_LAN, _link(5.85, 40), name="4g"),
    "wifi": network_of(_LAN, _link(18.88, 20), name="wifi"),
    "ethernet": network_of(_link(1000, 0.5), _link(1000, 5), name="ethernet"),
}
"""Network profiles by name: the uplink to the cloud that the name says, behind a local network at the edge."""

_FORM: Final = "device-edge=84Mbit/s:3ms,edge-cloud=18.88Mbit/s:20ms[,device-cloud=...]"


def parse_network(text: str, *, field: str = "--network") -> Network:
    """Reads a network: a name of `NETWORKS`, or links with bandwidth and round trip.

    The form is `device-edge=84Mbit/s:3ms,edge-cloud=18.88Mbit/s:20ms`, `device-cloud` being optional.

    Raises:
        InvalidInputError: naming what is wrong, and the names and the form that there are.
    """
    if text in NETWORKS:
        return NETWORKS[text]
    if "=" not in text:
        raise InvalidInputError(
            f"{field}: no network is named {text!r}; there are {', '.join(NETWORKS)}, or give links like {_FORM}",
            subject=field,
        )
    links: dict[str, Link] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name in links:
            raise InvalidInputError(f"{field}: the link {name} is given twice", subject=field)
        bandwidth, _, round_trip = value.partition(":")
        links[name] = Link(
            bytes_per_second=parse_bandwidth(bandwidth, field=f"{field} {name}"),
            round_trip_seconds=parse_duration(round_trip or "0ms", field=f"{field} {name}"),
        )
    unknown = set(links) - {"device-edge", "edge-cloud", "device-cloud"}
    missing = {"device-edge", "edge-cloud"} - set(links)
    if unknown or missing:
        culprits = ", ".join(sorted(unknown or missing))
        problem = "unknown link" if unknown else "missing link"
        raise InvalidInputError(f"{field}: {problem} {culprits}; write {_FORM}", subject=field)
    return network_of(links["device-edge"], links["edge-cloud"], links.get("device-cloud"))
