"""Tier speeds as people write them: `device=phone,edge=0.5,cloud=1`.

A speed is a multiple of the profile's reference machine; `tierflow.profile.SPEEDS` has the classes with a name.
"""

import math
from typing import Final

from tierflow.errors import InvalidInputError
from tierflow.profile import SPEEDS
from tierflow.segment import closest
from tierflow.tiers import TIERS, Tier

DEFAULT_SPEEDS: Final = "device=0.1,edge=0.5,cloud=1"
"""What is assumed where nobody says anything: a small device, half a server core at the edge, one in the cloud."""

_FORM: Final = "device=0.1,edge=0.5,cloud=1"


def parse_speeds(text: str, *, field: str = "--speeds") -> dict[Tier, float]:
    """Reads a speed for each tier, as a positive number or a name of `SPEEDS`.

    Returns:
        The speeds, device first, as multiples of the reference machine.

    Raises:
        InvalidInputError: naming `field` and the tier that is unknown, missing, given twice, or has no such speed.
    """
    given: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in list(TIERS):
            raise InvalidInputError(
                f"{field}: {part.strip()!r} gives no tier its speed{closest(name, TIERS)}; write {_FORM}", subject=field
            )
        if name in given:
            raise InvalidInputError(f"{field}: the speed of {name} is given twice", subject=field)
        given[name] = value
    missing = [tier for tier in TIERS if tier not in given]
    if missing:
        raise InvalidInputError(f"{field}: no speed is given for {', '.join(missing)}; write {_FORM}", subject=field)
    return {tier: parse_speed(given[tier], field=field, whose=f" of {tier}") for tier in TIERS}


def parse_speed(text: str, *, field: str, whose: str = "") -> float:
    """Reads one speed: a positive number, or a name of `SPEEDS`.

    Args:
        text: What is written.
        field: Where.
        whose: For the message, like " of edge".

    Returns:
        The speed as a multiple of the reference machine.

    Raises:
        InvalidInputError: naming `field`, where it is no such speed.
    """
    if text in SPEEDS:
        return SPEEDS[text]
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not (math.isfinite(speed) and speed > 0):
        raise InvalidInputError(
            f"{field}: {text!r} is no speed{whose}{closest(text, SPEEDS)}; "
            f"give a positive number or one of {', '.join(SPEEDS)}",
            subject=field,
        )
    return speed
