"""Quantities and shapes as people read them."""

from collections.abc import Sequence


def bytes_text(size: float) -> str:
    """A size in decimal units, like `802.8 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{_three_digits(size)} {unit}"
        size /= 1000
    return f"{_three_digits(size)} TB"


def seconds_text(seconds: float) -> str:
    """A duration in the unit that suits it, like `141 ms` or `2.31 s`."""
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    if seconds >= 1:
        return f"{_three_digits(seconds)} s"
    if seconds >= 1e-3 or seconds == 0:
        return f"{_three_digits(seconds * 1e3)} ms"
    return f"{_three_digits(seconds * 1e6)} µs"


def bandwidth_text(bytes_per_second: float) -> str:
    """A bandwidth in bits, like `18.9 Mbit/s`."""
    rate = bytes_per_second * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if rate < 1000:
            return f"{_three_digits(rate)} {unit}"
        rate /= 1000
    return f"{_three_digits(rate)} Gbit/s"


def count_text(count: float) -> str:
    """A large number, like `11.7 M` or `1.81 G`."""
    for unit in ("", "k", "M", "G"):
        if abs(count) < 1000:
            return f"{count:.0f}" if not unit else f"{_three_digits(count)} {unit}"
        count /= 1000
    return f"{_three_digits(count)} T"


def shape_text(shape: Sequence[int]) -> str:
    """A shape like `1×3×224×224`; `scalar` for none."""
    return "×".join(str(dimension) for dimension in shape) or "scalar"


def plural(count: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shortened(text: str, length: int) -> str:
    """`text` with its middle left out where it is longer than `length`, since layer names differ at both ends."""
    if len(text) <= length:
        return text
    kept = length - 1
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain(text: str) -> str:
    """`text` with a mark in place of every character that would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)
