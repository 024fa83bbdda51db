"""What is written between the tiers: a label per box whose output crosses there, none over another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tierflow.graph import Graph
from tierflow.tiers import Tier
from tierflow_cli.picture.boxes import Sketch, crossing_text
from tierflow_cli.picture.layout import spread
from tierflow_cli.picture.svg import text_width

FONT_SIZE: Final = 11.5
_MOST_LABELS: Final = 7
_GAP: Final = 14.0
_PADDING: Final = 9.0


@dataclass(frozen=True, slots=True)
class Label:
    """A text on the lines of one box, or of all together, where they cross from `below` upwards."""

    sources: tuple[int, ...]
    tensors: tuple[str, ...]
    text: str
    centre: float
    width: float


def crossing_tensors(sketch: Sketch, below: Tier) -> dict[int, tuple[str, ...]]:
    """By box, its tensors that are needed above the tier `below`."""
    found: dict[int, dict[str, None]] = {}
    for edge in sketch.edges:
        if sketch.boxes[edge.source].tier.rank <= below.rank < sketch.boxes[edge.target].tier.rank:
            found.setdefault(edge.source, {}).update(dict.fromkeys(edge.tensors))
    return {source: tuple(names) for source, names in sorted(found.items())}


def labels_of(graph: Graph, tensors: Mapping[int, Sequence[str]], near: Mapping[int, float]) -> tuple[Label, ...]:
    """The labels of one boundary, from left to right.

    Args:
        graph: The whole graph.
        tensors: By box, what crosses.
        near: By box, where its line would pass.
    """
    order = sorted(tensors, key=lambda source: near[source])
    if len(order) > _MOST_LABELS:
        names = tuple(name for source in order for name in tensors[source])
        middle = sum(near[source] for source in order) / len(order)
        return (_label(graph, tuple(order), names, middle),)
    texts = [crossing_text(graph, tensors[source]) for source in order]
    widths = [_width(text) for text in texts]
    centres = spread([near[source] for source in order], widths, [1.0] * len(order), [_GAP] * len(order))
    return tuple(
        Label((source,), tuple(tensors[source]), text, centre, width)
        for source, text, centre, width in zip(order, texts, centres, widths, strict=True)
    )


def _label(graph: Graph, sources: tuple[int, ...], names: tuple[str, ...], centre: float) -> Label:
    text = crossing_text(graph, names)
    return Label(sources, names, text, centre, _width(text))


def _width(text: str) -> float:
    return text_width(text, FONT_SIZE, bold=True) + 2 * _PADDING
