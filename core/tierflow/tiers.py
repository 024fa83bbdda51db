"""The three tiers and their order."""

from enum import StrEnum


class Tier(StrEnum):
    """Where a layer is computed. Ordered: data flows from device to edge to cloud only."""

    DEVICE = "device"
    EDGE = "edge"
    CLOUD = "cloud"

    @property
    def rank(self) -> int:
        """0 for device, 1 for edge, 2 for cloud."""
        return TIERS.index(self)


TIERS: tuple[Tier, Tier, Tier] = (Tier.DEVICE, Tier.EDGE, Tier.CLOUD)
