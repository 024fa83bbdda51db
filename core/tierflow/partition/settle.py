"""Layers whose side is known before any cut, since a known partition is faster than all that put them elsewhere.

The best cut of the layers' order, found by looking at all of them, bounds the optimum from above. A layer below a
boundary keeps all that it depends on below, so that each of these forgoes what it would gain above: where this alone
exceeds the bound, the layer is above. The other side alike, with what depends on a layer.
"""

from dataclasses import replace

import numpy as np

from tierflow.graph import Graph
from tierflow.partition.blocks import Blocks
from tierflow.partition.crossings import Crossings
from tierflow.partition.problem import Array

Origins = tuple[tuple[int, ...], ...]
"""For each layer the layers that it reads from."""

_LONG_BLOCK = 40
"""Layers per block on average from which on the layers within blocks are worth a loop."""


def order_costs(graph: Graph, boundary: Crossings) -> Array:
    """What it costs to cross a boundary at each place of the layers' order.

    Args:
        graph: Of at least one layer.
        boundary: Of the whole graph; its last tensor stands for the fixed cost.

    Returns:
        Shape [layers + 1]: more than with all below, where as many of the first layers are below; infinite where
        that leaves a pinned layer on the wrong side.
    """
    arrays, layers = graph.incidence, len(graph.layers)
    paid = boundary.tensor[:-1][arrays.is_read]
    begins = np.bincount(arrays.producer[arrays.is_read] + 1, weights=paid, minlength=layers + 1)
    ends = np.bincount(arrays.last_reader + 1, weights=paid, minlength=layers + 1)
    crossing = (begins - ends).cumsum()
    costs: Array = crossing + np.append(np.cumsum(boundary.difference[::-1])[::-1], 0.0)
    costs[:-1] += boundary.tensor[-1]
    below, above = np.flatnonzero(boundary.is_below), np.flatnonzero(boundary.is_above)
    if len(below):
        costs[: below[-1] + 1] = np.inf
    if len(above):
        costs[above[0] + 1 :] = np.inf
    return costs


def origins_of(graph: Graph, blocks: Blocks) -> Origins:
    """What bounds the layers before and after each one within its block; () where blocks are short."""
    if len(graph.layers) < _LONG_BLOCK * len(blocks.first):
        return ()
    producer = graph.producer
    return tuple([tuple([producer[name] for name in layer.inputs if name in producer]) for layer in graph.layers])


def settled(boundary: Crossings, blocks: Blocks, origins: Origins, at_most: float) -> Crossings:
    """The boundary with those layers pinned whose side is known.

    Args:
        boundary: What is asked.
        blocks: Of the same graph.
        origins: Of the same graph.
        at_most: What the cheapest choice costs at most, more than the sum of all that can be gained above.
    """
    limit = at_most * (1 + 1e-9) + 1e-300
    gains, losses = np.maximum(-boundary.difference, 0.0), np.maximum(boundary.difference, 0.0)
    above, below = boundary.is_above, boundary.is_below
    if gains.sum() > limit:
        above = above | (_forgone(gains, blocks, origins, upwards=True) > limit)
    if losses.sum() > limit:
        below = below | (_forgone(losses, blocks, origins, upwards=False) > limit)
    return replace(boundary, is_above=above, is_below=below)


def _forgone(values: Array, blocks: Blocks, origins: Origins, *, upwards: bool) -> Array:
    """For each layer at least the sum of the values of all that must be on its side; grows along the flow's way."""
    ends = np.flatnonzero(blocks.bottleneck)
    layers = len(values)
    if upwards:
        sums = np.cumsum(values)
        before = np.searchsorted(ends, np.arange(layers), side="right") - 1
        found = np.where(before >= 0, sums[ends[before]] if len(ends) else 0.0, 0.0)
    else:
        sums = np.cumsum(values[::-1])[::-1]
        after = np.searchsorted(ends, np.arange(layers), side="left")
        found = np.where(after < len(ends), sums[np.append(ends, 0)[after]], 0.0)
    return _along(values, found, blocks, origins, upwards=upwards)


def _along(values: Array, least: Array, blocks: Blocks, origins: Origins, *, upwards: bool) -> Array:
    """The same, along the heaviest path within blocks as well; plain loops, since each layer needs the last."""
    own, found, bottleneck = values.tolist(), least.tolist(), blocks.bottleneck.tolist()
    if upwards:
        for place, before in enumerate(origins):
            if bottleneck[place]:
                continue
            most = 0.0
            for origin in before:
                if found[origin] > most:
                    most = found[origin]
            most += own[place]
            if most > found[place]:
                found[place] = most
    else:
        for place in range(len(own) - 1, -1, -1):
            if not bottleneck[place]:
                found[place] += own[place]
            for origin in origins[place]:
                if found[place] > found[origin]:
                    found[origin] = found[place]
    return np.array(found)
