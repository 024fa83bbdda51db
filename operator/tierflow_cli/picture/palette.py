"""The picture's colours: hues of Okabe and Ito's palette, which colour-blind readers tell apart.

Boxes are light under dark text. Tiers also differ in place and are named, so that no meaning hangs on a colour alone.
"""

from collections.abc import Mapping
from typing import Final

from tierflow.tiers import Tier

INK: Final = "#1b2430"
MUTED: Final = "#4a5462"
PAPER: Final = "#ffffff"
LINK: Final = "#3d4654"

BAND: Final[Mapping[Tier, str]] = {Tier.DEVICE: "#eef5fb", Tier.EDGE: "#fdf5e4", Tier.CLOUD: "#e9f6f1"}
"""Behind a tier's boxes."""

FILL: Final[Mapping[Tier, str]] = {Tier.DEVICE: "#cfe4f5", Tier.EDGE: "#fbdf9e", Tier.CLOUD: "#b9e4d4"}
"""Of a tier's boxes."""

BORDER: Final[Mapping[Tier, str]] = {Tier.DEVICE: "#0072b2", Tier.EDGE: "#b87a00", Tier.CLOUD: "#00805d"}
"""Around a tier's boxes."""

STRIP: Final = "#faeccb"
"""Behind the boxes of a run that is tiled: between the edge's band and its boxes."""
