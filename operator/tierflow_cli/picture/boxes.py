"""The boxes of the picture and what is written on them: blocks of layers, the graph's inputs and its outputs."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from tierflow.graph import Graph, Layer
from tierflow.segment import tensors_size
from tierflow.tiers import Tier
from tierflow_cli.picture.collapse import Block, Zone, blocks_of, owners_of
from tierflow_cli.wording import bytes_text, count_text, plural, shape_text, shortened

_TITLE_LENGTH: Final = 30
_CAPTION_LENGTH: Final = 44
_KINDS_LENGTH: Final = 32
_MOST_CAPSULES: Final = 6
_MOST_HINTS: Final = 12
_SHORT_KINDS: Final = {
    "BatchNormalization": "BatchNorm",
    "LayerNormalization": "LayerNorm",
    "InstanceNormalization": "InstanceNorm",
    "GlobalAveragePool": "GlobalAvgPool",
    "AveragePool": "AvgPool",
}


class Role(StrEnum):
    """What a box stands for."""

    INPUT = "input"
    LAYERS = "layers"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Box:
    """What is drawn at one place: two lines of text, and a hint with the whole truth."""

    role: Role
    zone: Zone
    title: str
    caption: str
    hint: str
    layers: int = 0

    @property
    def tier(self) -> Tier:
        """The tier that it is drawn in."""
        return self.zone.tier


@dataclass(frozen=True, slots=True)
class Edge:
    """What flows from one box to another, by tensor name."""

    source: int
    target: int
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sketch:
    """Boxes in a topological order, and edges between them in ascending order."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def sketch_of(graph: Graph, zones: Sequence[Zone]) -> Sketch:
    """What is to be drawn of a graph whose layers lie in these zones."""
    blocks = blocks_of(graph, zones)
    titles = _titles(graph, blocks)
    inputs = _capsules(graph, [(name, Zone(Tier.DEVICE)) for name in graph.inputs], Role.INPUT)
    outputs = _capsules(graph, [(name, _zone_of_output(graph, zones, name)) for name in graph.outputs], Role.OUTPUT)
    boxes = [
        *(box for box, _ in inputs),
        *map(partial(_block_box, graph), blocks, titles),
        *(box for box, _ in outputs),
    ]
    made_by = {name: number for number, (_, names) in enumerate(inputs) for name in names}
    owner = {place: number + len(inputs) for place, number in owners_of(blocks).items()}
    made_by |= {name: owner[place] for name, place in graph.producer.items()}
    flows: dict[tuple[int, int], dict[str, None]] = {}
    for place, layer in enumerate(graph.layers):
        for name in layer.inputs:
            if made_by[name] != owner[place]:
                flows.setdefault((made_by[name], owner[place]), {})[name] = None
    for number, (_, names) in enumerate(outputs, start=len(inputs) + len(blocks)):
        for name in names:
            if name in made_by:  # an output that is a constant comes from no box
                flows.setdefault((made_by[name], number), {})[name] = None
    edges = (Edge(source, target, tuple(names)) for (source, target), names in sorted(flows.items()))
    return Sketch(tuple(boxes), tuple(edges))


def _zone_of_output(graph: Graph, zones: Sequence[Zone], name: str) -> Zone:
    return zones[graph.producer[name]].behind if name in graph.producer else Zone(Tier.DEVICE)


def _capsules(graph: Graph, tensors: Sequence[tuple[str, Zone]], role: Role) -> list[tuple[Box, tuple[str, ...]]]:
    """A box per tensor, or where they are many one per zone."""
    groups: dict[object, list[str]] = {}
    for name, zone in tensors:
        groups.setdefault((name if len(tensors) <= _MOST_CAPSULES else "", zone), []).append(name)
    owner = dict(tensors)
    return [(_capsule(graph, names, owner[names[0]], role), tuple(names)) for names in groups.values()]


def _capsule(graph: Graph, names: Sequence[str], zone: Zone, role: Role) -> Box:
    sizes = [(graph.tensors.get(name) or graph.weights[name]) for name in names]
    caption = bytes_text(sum(tensor.size for tensor in sizes))
    title = names[0] if len(names) == 1 else plural(len(names), role.value)
    if len(names) == 1:
        caption = f"{shape_text(sizes[0].shape)} · {caption}"
    hint = f"{role.value}: {_listed(names)}"
    return Box(role, zone, shortened(title, _TITLE_LENGTH), shortened(caption, _CAPTION_LENGTH), hint)


def _block_box(graph: Graph, block: Block, title: str) -> Box:
    layers = [graph.layers[place] for place in block.places]
    caption = f"{_kinds(layers, block.repeats)}{_result(graph, layers[-1])}"
    weights = {name for layer in layers for name in layer.weights}
    size = bytes_text(sum(graph.weights[name].size for name in weights if name in graph.weights))
    work = count_text(sum(layer.multiply_accumulates for layer in layers))
    hint = f"{_listed([layer.name for layer in layers])}\n{work} multiply-accumulates, {size} of weights"
    return Box(
        Role.LAYERS,
        block.zone,
        shortened(title, _TITLE_LENGTH),
        shortened(caption, _CAPTION_LENGTH),
        hint,
        len(layers),
    )


def _titles(graph: Graph, blocks: Sequence[Block]) -> list[str]:
    """What the layers of each block are called together; their first layer's name where others are called the same."""
    titles = [_name([graph.layers[place] for place in block.places]) for block in blocks]
    often = Counter(titles)
    return [
        f"{shortened(graph.layers[block.places[0]].name, _TITLE_LENGTH - 2)} …" if often[title] > 1 else title
        for block, title in zip(blocks, titles, strict=True)
    ]


def _name(layers: Sequence[Layer]) -> str:
    if len(layers) == 1:
        return layers[0].name
    parts = [re.split(r"(?<=[./_:])", layer.name) for layer in layers]
    common = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    prefix = "".join(common).rstrip("./_:")
    if prefix:
        return prefix
    each = (_TITLE_LENGTH - 3) // 2
    return f"{shortened(layers[0].name, each)} … {shortened(layers[-1].name, each)}"


def _kinds(layers: Sequence[Layer], repeats: int) -> str:
    """The kinds of the layers in order of appearance, like `2 Conv, Add`, per repetition."""
    if len(layers) == 1:
        return _kind(layers[0]) + _kernel(layers[0])
    counts: dict[str, int] = {}
    for layer in layers:
        counts[_kind(layer)] = counts.get(_kind(layer), 0) + 1
    texts = [f"{count // repeats} {kind}" if count > repeats else kind for kind, count in counts.items()]
    listed = ", ".join(texts)
    if len(listed) > _KINDS_LENGTH:
        listed = plural(len(layers) // repeats, "layer")
    return f"{repeats} × ({listed})" if repeats > 1 else listed


def _kind(layer: Layer) -> str:
    return _SHORT_KINDS.get(layer.kind, layer.kind)


def _kernel(layer: Layer) -> str:
    kernel = layer.attributes.get("kernel_shape")
    strides = layer.attributes.get("strides")
    text = ""
    if isinstance(kernel, tuple):
        text += " " + "×".join(str(size) for size in kernel)
    if isinstance(strides, tuple) and any(step != 1 for step in strides):
        text += f"/{strides[0]}" if len(set(strides)) == 1 else "/" + "×".join(str(step) for step in strides)
    return text


def _result(graph: Graph, layer: Layer) -> str:
    if not layer.outputs:
        return ""
    shape = graph.tensors[layer.outputs[0]].shape
    return f" → {shape_text(shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_HINTS])
    return f"{shown} and {len(names) - _MOST_HINTS:,} more" if len(names) > _MOST_HINTS else shown


def crossing_text(graph: Graph, names: Sequence[str]) -> str:
    """What is written on a line that crosses to another tier."""
    size = bytes_text(tensors_size(graph, names))
    if len(names) > 1:
        return f"{plural(len(names), 'tensor')} · {size}"
    return f"{shortened(shape_text(graph.tensors[names[0]].shape), 24)} · {size}"
