"""Blocks of layers between bottlenecks, and the choice of the blocks in which a partition crosses its boundaries.

A bottleneck is a layer that depends on all layers before it, on which all after it depend, and whose outputs are all
that those read. Tiers grow along the data's flow, so that a boundary is crossed within one block and no other: the
layers between two bottlenecks, the upper one included. All blocks are cut at once, as independent parts of one network
whose paths are short, and then the best block of each boundary is looked up.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tierflow.graph import Graph, Mask, Places
from tierflow.partition.allowed import Pinned
from tierflow.partition.crossings import Crossings
from tierflow.partition.problem import Array, CrossingCost

_FIRST: Final = np.zeros(1, dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A graph's blocks.

    Attributes:
        first: Shape [blocks]: the place of each block's first layer.
        bottleneck: Shape [layers]: whether a layer is one; the last layer of every block, but perhaps of the last one.
        of_tensor: Shape [tensors]: the block in which a tensor is read, 0 where none reads it.
        is_read: Shape [tensors]: whether a layer reads it.
    """

    first: Places
    bottleneck: Mask
    of_tensor: Places
    is_read: Mask

    def containing(self, place: int) -> int:
        """The block of a layer."""
        return int(np.searchsorted(self.first, place, side="right")) - 1


def blocks_of(graph: Graph) -> Blocks:
    """Finds the bottlenecks of a graph of at least one layer."""
    arrays, layers = graph.incidence, len(graph.layers)
    producer = arrays.producer[arrays.is_read]
    # A tensor spans the places strictly between its producer and its last reader.
    begins = np.bincount(producer + 1, minlength=layers)[:layers]
    bottleneck = (begins - np.bincount(arrays.last_reader, minlength=layers)).cumsum() == 0
    bottleneck[int(arrays.unread[0]) + 1 :] = False
    ends = np.flatnonzero(bottleneck)
    first = np.concatenate([_FIRST, ends[ends < layers - 1] + 1])
    of_tensor = np.zeros(len(arrays.producer), dtype=np.intp)
    of_tensor[arrays.is_read] = first.searchsorted(arrays.last_reader, side="right") - 1
    return Blocks(first, bottleneck, of_tensor, arrays.is_read)


def boundary_of(graph: Graph, cost: CrossingCost, difference: Array, pinned: Pinned) -> Crossings:
    """One boundary of a graph; the tensor after the graph's own stands for its fixed cost.

    Args:
        graph: Of at least one layer.
        cost: Of crossing the boundary.
        difference: Shape [layers]: what a layer costs more above, without its results.
        pinned: What must be below, and what above.
    """
    arrays, layers = graph.incidence, len(graph.layers)
    returns = arrays.output_producer >= 0
    results = np.bincount(arrays.output_producer[returns], weights=cost.result[returns], minlength=layers)
    return Crossings(
        producer=np.append(arrays.producer, -1),
        reader=np.concatenate([arrays.reader, arrays.unread]),
        tensor_of_read=np.append(arrays.tensor_of_read, np.full(len(arrays.unread), len(arrays.producer))),
        difference=difference + results,
        tensor=np.append(cost.tensor, cost.fixed),
        is_below=pinned.below,
        is_above=pinned.above,
    )


def by_block(boundary: Crossings, blocks: Blocks, *, hopeless: Mask | None = None) -> Crossings:
    """The boundary as every block crosses it on its own.

    What a bottleneck makes is born below for the block that reads it, and the bottleneck is above for its own block.

    Args:
        boundary: Of the whole graph, as `boundary_of` makes it.
        blocks: Of the same graph.
        hopeless: Shape [blocks]: those that nothing is to be chosen in: the bottleneck alone is above.
    """
    is_born_below = blocks.bottleneck[boundary.producer] & (boundary.producer >= 0)
    is_above, is_below = boundary.is_above | (blocks.bottleneck & ~boundary.is_below), boundary.is_below
    if hopeless is not None:
        sizes = np.diff(blocks.first, append=len(is_below))
        is_below = is_below | (hopeless.repeat(sizes) & ~is_above)
    return replace(
        boundary,
        producer=np.where(is_born_below, -1, boundary.producer),
        is_above=is_above,
        is_below=is_below,
    )


def least_costs(boundary: Crossings, blocks: Blocks) -> Array:
    """What no way to cross a boundary in each block can be below.

    The layers in it gain all that they can, and of what is read there only the cheapest tensor crosses: one must, since
    what a block reads comes from below and leads to its bottleneck, or, after the last one, to whatever is above. In
    the first block a layer may read nothing.

    Args:
        boundary: Of the whole graph, as `boundary_of` makes it.
        blocks: Of the same graph.

    Returns:
        Shape [blocks + 1]: more than with all below; the last: not to cross.
    """
    difference, tensor = boundary.difference, boundary.tensor[:-1]
    gains = np.where(blocks.bottleneck, difference, np.minimum(difference, 0.0))
    crossing = np.full(len(blocks.first), np.inf)
    np.minimum.at(crossing, blocks.of_tensor[blocks.is_read], tensor[blocks.is_read])
    crossing[0] = 0.0
    inside = np.add.reduceat(gains, blocks.first) + crossing + boundary.tensor[-1]
    return np.append(inside + _after(difference, blocks), 0.0)


def _after(difference: Array, blocks: Blocks) -> Array:
    """Shape [blocks]: what the layers after each block cost more above."""
    whole = np.add.reduceat(difference, blocks.first)
    return np.append(whole[:0:-1].cumsum()[::-1], 0.0)


def block_costs(boundary: Crossings, blocks: Blocks, above: Mask) -> Array:
    """What it costs to cross a boundary in each block, as `above` crosses it there.

    Args:
        boundary: Of the whole graph, as `boundary_of` makes it.
        blocks: Of the same graph.
        above: Shape [layers]: each block's own choice.

    Returns:
        Shape [blocks + 1]: more than with all below; infinite where a block is not open; the last: not to cross.
    """
    count = len(blocks.first)
    paid = np.where(by_block(boundary, blocks).crossing(above), boundary.tensor, 0.0)[:-1]
    inside = np.add.reduceat(np.where(above, boundary.difference, 0.0), blocks.first)
    inside += np.bincount(blocks.of_tensor, weights=paid, minlength=count)
    inside += np.where(np.logical_or.reduceat(above, blocks.first), boundary.tensor[-1], 0.0)
    costs = np.append(inside + _after(boundary.difference, blocks), 0.0)
    below, up = np.flatnonzero(boundary.is_below), np.flatnonzero(boundary.is_above)
    if len(below):
        costs[: blocks.containing(below[-1]) + int(blocks.bottleneck[below[-1]])] = np.inf
    if len(up):
        costs[blocks.containing(up[0]) + 1 :] = np.inf
    return costs
