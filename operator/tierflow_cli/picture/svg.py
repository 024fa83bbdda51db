"""Writes SVG elements: every text and attribute is escaped here, and nowhere else.

Also knows how wide a text is, generously, since the viewer's fonts are not ours to know.
"""

import unicodedata
from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"

_NARROW = frozenset("iljtfrI.,:;'|!()[]/ ·")
_WIDE = frozenset("mwMWQO@%…→×")


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """An upper estimate of a text's width in pixels at a font size in pixels."""
    units = 0.0
    for letter in text:
        if unicodedata.east_asian_width(letter) in "WF":
            units += 1.05
        elif letter in _NARROW:
            units += 0.38
        elif letter in _WIDE:
            units += 0.92
        else:
            units += 0.64
    return units * size * (1.08 if bold else 1.0)


def element(name: str, content: str = "", /, **attributes: str | float) -> str:
    """An element; `content` is markup already, attribute names are given with _ for -, and a trailing _ is dropped."""
    written = "".join(f" {key.rstrip('_').replace('_', '-')}={_value(value)}" for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(content: str, x: float, y: float, *, style: str, anchor: str = "start") -> str:
    """A line of text; `style` names a class of the style sheet."""
    anchors: dict[str, str | float] = {} if anchor == "start" else {"text_anchor": anchor}
    return element("text", printable(content), x=x, y=y, class_=style, **anchors)


def hint(content: str) -> str:
    """What a viewer shows when the pointer rests on the enclosing element."""
    return element("title", printable(content))


def printable(content: str) -> str:
    """Escaped text without the control characters that XML forbids, and without invisible direction marks."""
    kept = (letter for letter in content if letter == "\n" or unicodedata.category(letter) not in {"Cc", "Cf", "Cs"})
    return escape("".join(kept))


def path(points: Iterable[tuple[float, float]]) -> str:
    """Path data through points that go down the page, leaving and reaching each vertically."""
    commands: list[str] = []
    before: tuple[float, float] | None = None
    for x, y in points:
        if before is None:
            commands.append(f"M{number(x)} {number(y)}")
        elif abs(before[0] - x) < 0.5:
            commands.append(f"L{number(x)} {number(y)}")
        else:
            middle = (before[1] + y) / 2
            commands.append(
                f"C{number(before[0])} {number(middle)} {number(x)} {number(middle)} {number(x)} {number(y)}"
            )
        before = (x, y)
    return "".join(commands)


def number(value: float) -> str:
    """A coordinate with at most one decimal, so that equal pictures are equal texts."""
    return f"{round(value, 1) + 0.0:g}"


def _value(value: str | float) -> str:
    return quoteattr(value if isinstance(value, str) else number(value))
