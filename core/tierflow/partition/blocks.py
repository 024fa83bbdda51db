"""Blocks of layers between bottlenecks, and the choice of the blocks in which a partition crosses its boundaries.

A bottleneck is a layer that depends on all layers before it, on which all after it depend, and whose outputs are all
that those read. Tiers grow along the data's flow, so that a boundary is crossed within one block and no other: the
layers between two bottlenecks, the upper one included. All blocks are cut at once, as independent parts of one network
whose paths are short, and then the best block of each boundary is looked up.
"""

from dataclasses import dataclass

import numpy as np

from tierflow.graph import Graph, Places
from tierflow.partition.allowed import Pinned
from tierflow.partition.crossings import Crossings, Mask
from tierflow.partition.problem import Array, CrossingCost


@dataclass(frozen=True, slots=True)
class Blocks:
    """A graph's blocks.

    Attributes:
        first: Shape [blocks]: the place of each block's first layer.
        bottleneck: Shape [layers]: whether a layer is one; the last layer of every block, but perhaps of the last one.
        of_tensor: Shape [tensors + 1]: the block in which a tensor is read, 0 where none reads it; one more for
            the tensor that stands for a boundary's fixed cost, read in the last block.
        unread: Places of the layers whose outputs none reads, in a last block that no bottleneck ends.
    """

    first: Places
    bottleneck: Mask
    of_tensor: Places
    unread: Places

    def containing(self, place: int) -> int:
        """The block of a layer."""
        return int(np.searchsorted(self.first, place, side="right")) - 1


def blocks_of(graph: Graph) -> Blocks:
    """Finds the bottlenecks of a graph of at least one layer."""
    arrays, layers = graph.incidence, len(graph.layers)
    read = np.flatnonzero(np.diff(arrays.offset))
    last_reader = arrays.reader[arrays.offset[1:][read] - 1]
    producer = arrays.producer[read]
    # A tensor spans the places strictly between its producer and its last reader.
    begins = np.bincount(producer + 1, minlength=layers + 1)
    spans = np.cumsum(begins - np.bincount(last_reader, minlength=layers + 1))[:layers]
    is_unread = np.ones(layers, dtype=np.bool_)
    is_unread[producer[producer >= 0]] = False
    unread = np.flatnonzero(is_unread)
    bottleneck = spans == 0
    bottleneck[unread[0] + 1 :] = False
    ends = np.flatnonzero(bottleneck)
    first = np.concatenate([[0], ends[ends < layers - 1] + 1])
    of_tensor = np.zeros(len(arrays.producer) + 1, dtype=np.intp)
    of_tensor[read] = np.searchsorted(first, last_reader, side="right") - 1
    of_tensor[-1] = len(first) - 1
    return Blocks(first, bottleneck, of_tensor, unread[~bottleneck[unread]])


def boundary_of(graph: Graph, blocks: Blocks, cost: CrossingCost, difference: Array, pinned: Pinned) -> Crossings:
    """One boundary, every block crossing it on its own: bottlenecks are born below, and above for what they read.

    Args:
        graph: Of at least one layer.
        blocks: Its blocks.
        cost: Of crossing the boundary.
        difference: Shape [layers]: what a layer costs more above, without its results.
        pinned: What must be below, and what above.
    """
    arrays = graph.incidence
    returns = np.flatnonzero(arrays.output_producer >= 0)
    results = np.bincount(arrays.output_producer[returns], weights=cost.result[returns], minlength=len(graph.layers))
    born_below = (arrays.producer < 0) | blocks.bottleneck[arrays.producer]
    tensors = len(arrays.producer)
    return Crossings(
        producer=np.append(np.where(born_below, -1, arrays.producer), -1),
        reader=np.concatenate([arrays.reader, blocks.unread]),
        tensor_of_read=np.repeat(np.arange(tensors + 1), np.append(np.diff(arrays.offset), len(blocks.unread))),
        difference=difference + results,
        tensor=np.append(cost.tensor, cost.fixed),
        is_below=pinned.below,
        is_above=pinned.above | (blocks.bottleneck & ~pinned.below),
    )


def block_costs(boundary: Crossings, blocks: Blocks, above: Mask, pinned: Pinned) -> Array:
    """What it costs to cross a boundary in each block, as `above` crosses it there.

    Args:
        boundary: As `boundary_of` makes it.
        blocks: Of the same graph.
        above: Shape [layers]: each block's own choice.
        pinned: What must be below, and what above.

    Returns:
        Shape [blocks + 1]: more than with all below; infinite where a block is not open; the last: not to cross.
    """
    count, layers = len(blocks.first), len(above)
    paid = np.where(boundary.crossing(above), boundary.tensor, 0.0)
    inside = np.add.reduceat(np.where(above, boundary.difference, 0.0), blocks.first)
    inside += np.bincount(blocks.of_tensor, weights=paid, minlength=count)
    closed = count if blocks.bottleneck[layers - 1] else count - 1
    inside[:closed] += boundary.tensor[-1]
    whole = np.add.reduceat(boundary.difference, blocks.first)
    costs = np.append(inside + np.append(np.cumsum(whole[:0:-1])[::-1], 0.0), 0.0)
    below, up = np.flatnonzero(pinned.below), np.flatnonzero(pinned.above)
    if len(below):
        costs[: blocks.containing(below[-1]) + int(blocks.bottleneck[below[-1]])] = np.inf
    if len(up):
        costs[blocks.containing(up[0]) + 1 :] = np.inf
    return costs
