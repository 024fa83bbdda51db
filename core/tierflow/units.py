"""Units in types, and the quantities that people write: `512Mi`, `500k`, `20Mbit/s`, `3ms`."""

import math
import re
from typing import Final, NewType

from tierflow.errors import InvalidInputError

Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)
BytesPerSecond = NewType("BytesPerSecond", float)

_BYTE_SUFFIXES: Final = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_BIT_RATES: Final = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_DURATIONS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER_AND_UNIT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]*)\s*\Z")


def parse_bytes(text: str | int, *, field: str) -> Bytes:
    """Reads a Kubernetes quantity of bytes: a whole number, or one with k, M, G, T, Ki, Mi, Gi or Ti.

    Raises:
        InvalidInputError: naming `field`, where the text is no such quantity.
    """
    number, unit = _split(str(text), field=field, example="512Mi or 500k")
    if unit not in _BYTE_SUFFIXES:
        raise InvalidInputError(
            f"{field}: {text!r} has the unknown unit {unit!r}; use one of {', '.join(u for u in _BYTE_SUFFIXES if u)}",
            subject=field,
        )
    return Bytes(math.ceil(number * _BYTE_SUFFIXES[unit]))


def parse_bandwidth(text: str, *, field: str) -> BytesPerSecond:
    """Reads a bandwidth in bits per second, like `20Mbit/s`, `1Gbit` or `250kbit/s`, as bytes per second.

    Raises:
        InvalidInputError: naming `field`, where the text is no bandwidth or is zero.
    """
    number, unit = _split(text, field=field, example="20Mbit/s")
    rate = _BIT_RATES.get(unit.removesuffix("/s").removesuffix("ps").lower())
    if rate is None or number <= 0:
        raise InvalidInputError(
            f"{field}: {text!r} is no bandwidth; write a positive number with bit/s, kbit/s, Mbit/s or Gbit/s",
            subject=field,
        )
    return BytesPerSecond(number * rate / 8)


def parse_duration(text: str, *, field: str) -> Seconds:
    """Reads a duration like `3ms`, `200us` or `1.5s`.

    Raises:
        InvalidInputError: naming `field`, where the text is no duration.
    """
    number, unit = _split(text, field=field, example="3ms")
    if unit not in _DURATIONS:
        raise InvalidInputError(f"{field}: {text!r} is no duration; write a number with us, ms or s", subject=field)
    return Seconds(number * _DURATIONS[unit])


def _split(text: str, *, field: str, example: str) -> tuple[float, str]:
    match = _NUMBER_AND_UNIT.match(text)
    if match is None:
        raise InvalidInputError(f"{field}: {text!r} is no quantity; write it like {example}", subject=field)
    return float(match[1]), match[2]
