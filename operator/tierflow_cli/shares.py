"""What a predicted latency is made of, in the order in which a request meets it."""

from tierflow.partition.problem import Latency
from tierflow.tiers import TIERS, Tier
from tierflow.units import Seconds

Share = tuple[tuple[Tier, ...], Seconds]
"""One tier and its layers' time, or two tiers and the time of the link between them, results included."""


def shares_of(latency: Latency) -> list[Share]:
    """The parts that take any time, from the device up."""
    shares: list[Share] = []
    for tier in TIERS:
        shares += [(link, seconds) for link, seconds in latency.transfer.items() if link[1] is tier]
        if latency.compute[tier] > 0:
            shares.append(((tier,), latency.compute[tier]))
    return shares


def name_of(where: tuple[Tier, ...]) -> str:
    """`edge`, or `edge to cloud`."""
    return " to ".join(where)
