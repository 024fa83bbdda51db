"""The cheapest way over a boundary: which layers are above it, by one minimum cut (Ishikawa's construction).

A vertex per layer is on the source's side where the layer is above the boundary.

- What a layer costs more above than below is an edge to the sink; what it costs less, one from the source.
- A tensor that one layer reads is an edge from the reader to its producer; one that several read has a vertex of its
  own that every reader holds and that feeds the producer, so that it is paid once.
- Infinite edges keep a reader above its producer, and what is coupled above what it needs.

Several boundaries are cut in one call, as layers of one larger graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tierflow.graph import Mask, Places
from tierflow.partition.flow import FlowNetwork, minimum_cut
from tierflow.partition.problem import Array

_SOURCE, _SINK, _FIRST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Crossings:
    """What is above or below, and what that costs.

    Attributes:
        producer: Shape [tensors]: the layer that makes it, -1 where it is always below.
        reader: Shape [reads]: the layer that reads.
        tensor_of_read: Shape [reads]: what it reads, ascending.
        difference: Shape [layers]: what a layer above costs more than one below.
        tensor: Shape [tensors]: what a tensor that crosses costs.
        is_below: Shape [layers]: must be below.
        is_above: Shape [layers]: must be above, as must its readers.
    """

    producer: Places
    reader: Places
    tensor_of_read: Places
    difference: Array
    tensor: Array
    is_below: Mask
    is_above: Mask

    def crossing(self, above: Mask) -> Mask:
        """Which tensors cross: shape [tensors], from which layers are above: shape [layers]."""
        wanted = np.zeros(len(self.producer), dtype=np.bool_)
        wanted[self.tensor_of_read[above[self.reader]]] = True
        return wanted & ~(above[self.producer] & (self.producer >= 0))

    def cost(self, above: Mask) -> float:
        """What a choice costs more than all below."""
        return float(self.difference[above].sum() + self.tensor[self.crossing(above)].sum())


def united(parts: Sequence[Crossings]) -> Crossings:
    """Several problems over graphs of the same size as one, their layers one after another."""
    layers, tensors = len(parts[0].difference), len(parts[0].producer)
    return Crossings(
        producer=np.concatenate(
            [np.where(part.producer < 0, -1, part.producer + n * layers) for n, part in enumerate(parts)]
        ),
        reader=np.concatenate([part.reader + n * layers for n, part in enumerate(parts)]),
        tensor_of_read=np.concatenate([part.tensor_of_read + n * tensors for n, part in enumerate(parts)]),
        difference=np.concatenate([part.difference for part in parts]),
        tensor=np.concatenate([part.tensor for part in parts]),
        is_below=np.concatenate([part.is_below for part in parts]),
        is_above=np.concatenate([part.is_above for part in parts]),
    )


def cheapest(crossings: Crossings, *, tolerance: float, coupled: Places | None = None) -> tuple[Mask, float]:
    """The cheapest choice; of equal ones that with the fewest layers above.

    Args:
        crossings: What is to be chosen.
        tolerance: Distance to the optimum with which to be content.
        coupled: Shape [2, pairs]: layers of the first row are above only where those of the second are.

    Returns:
        Shape [layers], which are above; and an upper bound of the distance to the optimum.
    """
    # Two choices that are always open: as many above as may be, and as few. What must be below has only such origins.
    known = min(crossings.cost(~crossings.is_below), crossings.cost(crossings.is_above))
    base = float(np.minimum(crossings.difference, 0.0).sum())
    network = flow_network(crossings, coupled)
    cut = minimum_cut(network, at_most=(known - base) * (1 + 1e-9), tolerance=tolerance)
    return cut.source_side[_FIRST : _FIRST + len(crossings.difference)], cut.capacity - cut.lower_bound


def flow_network(crossings: Crossings, coupled: Places | None = None) -> FlowNetwork:
    """The network whose cuts are the choices; what is above is on the source's side. See `cheapest`."""
    layers = len(crossings.difference)
    reads = np.bincount(crossings.tensor_of_read, minlength=len(crossings.producer))
    single, shared = np.flatnonzero(reads == 1), np.flatnonzero(reads > 1)
    is_shared = reads[crossings.tensor_of_read] > 1
    origin = crossings.producer[crossings.tensor_of_read]
    made = np.flatnonzero(origin >= 0)
    own = _FIRST + layers + np.arange(len(shared))
    feeds = np.where(crossings.producer < 0, _SINK, crossings.producer + _FIRST)
    to_sink = np.where(crossings.is_below, np.inf, np.maximum(crossings.difference, 0.0))
    from_source = np.where(crossings.is_above, np.inf, np.maximum(-crossings.difference, 0.0))
    dearer, cheaper = np.flatnonzero(to_sink), np.flatnonzero(from_source)
    edges: list[tuple[Places, Places, Array]] = [
        (dearer + _FIRST, np.full(len(dearer), _SINK), to_sink[dearer]),
        (np.full(len(cheaper), _SOURCE), cheaper + _FIRST, from_source[cheaper]),
        (crossings.reader[~is_shared] + _FIRST, feeds[single], crossings.tensor[single]),
        (crossings.reader[is_shared] + _FIRST, np.repeat(own, reads[shared]), np.full(int(is_shared.sum()), np.inf)),
        (own, feeds[shared], crossings.tensor[shared]),
        (origin[made] + _FIRST, crossings.reader[made] + _FIRST, np.full(len(made), np.inf)),
    ]
    if coupled is not None:
        edges.append((coupled[0] + _FIRST, coupled[1] + _FIRST, np.full(coupled.shape[1], np.inf)))
    return FlowNetwork(
        _FIRST + layers + len(shared),
        np.concatenate([tail for tail, _, _ in edges]),
        np.concatenate([head for _, head, _ in edges]),
        np.concatenate([capacity for _, _, capacity in edges]),
    )
