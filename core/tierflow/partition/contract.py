"""The same problem with fewer layers: those whose side is given are left out, those that no optimum separates merged.

Two rules merge, both strict, so that all merges hold at once and ties stay as they are. Where a layer p is below the
boundary and its reader c is above,

- raising p costs at most its inputs and its own time and saves its outputs, if c alone reads them;
- lowering c costs at most its outputs and saves its own time and those inputs that it alone reads, if all that it
  reads comes from p, or from below.

A pair that one of the two improves is never apart.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tierflow.graph import Places
from tierflow.partition.crossings import Crossings


def without_given(crossings: Crossings) -> tuple[Crossings, Places]:
    """Leaves out what must be below, and puts all that must be above into one layer.

    Returns:
        The smaller problem, whose layer 0 is above, and, shape [layers], the layer of it that each layer has become
        part of, -1 where it is below. Tensors that cross, or never cross, in any case are left out.
    """
    is_free = ~(crossings.is_below | crossings.is_above)
    label = np.where(is_free, np.cumsum(is_free), np.where(crossings.is_above, 0, -1))
    producer = np.where(crossings.producer < 0, -1, label[crossings.producer])
    reader = label[crossings.reader]
    is_paid = np.zeros(len(producer), dtype=np.bool_)
    is_paid[crossings.tensor_of_read[reader == 0]] = True
    matters = (producer != 0) & ~(is_paid & (producer < 0))
    kept = (reader >= 0) & matters[crossings.tensor_of_read]
    is_left = np.zeros(len(producer), dtype=np.bool_)
    is_left[crossings.tensor_of_read[kept]] = True
    count = int(is_free.sum()) + 1
    small = Crossings(
        producer=producer[is_left],
        reader=reader[kept],
        tensor_of_read=(np.cumsum(is_left) - 1)[crossings.tensor_of_read[kept]],
        difference=np.append(0.0, crossings.difference[is_free]),
        tensor=crossings.tensor[is_left],
        is_below=np.zeros(count, dtype=np.bool_),
        is_above=np.arange(count) == 0,
    )
    return small, label


def contracted(crossings: Crossings) -> tuple[Crossings, Places]:
    """Merges what belongs together.

    Returns:
        The smaller problem, and, shape [layers], the layer of it that each layer has become part of.
    """
    layers = len(crossings.difference)
    tail, head = _pairs(crossings)
    starts = np.zeros(layers + 1, dtype=np.int32)
    np.cumsum(np.bincount(tail, minlength=layers), out=starts[1:])
    merges = csr_array((np.ones(len(tail)), head[np.argsort(tail, kind="stable")], starts), shape=(layers, layers))
    count, label = connected_components(merges, directed=False)
    producer = np.where(crossings.producer < 0, -1, label[crossings.producer])
    reader = label[crossings.reader]
    kept = reader != producer[crossings.tensor_of_read]
    small = Crossings(
        producer=producer,
        reader=reader[kept],
        tensor_of_read=crossings.tensor_of_read[kept],
        difference=np.bincount(label, weights=crossings.difference, minlength=count).astype(np.float64, copy=False),
        tensor=crossings.tensor,
        is_below=np.bincount(label, weights=crossings.is_below, minlength=count) > 0,
        is_above=np.bincount(label, weights=crossings.is_above, minlength=count) > 0,
    )
    return small, label


def _pairs(crossings: Crossings) -> tuple[Places, Places]:
    """The pairs of layers that no optimum separates."""
    layers, reads, reader = len(crossings.difference), crossings.tensor_of_read, crossings.reader
    origin = crossings.producer[reads]
    made = np.flatnonzero(origin >= 0)
    per_read = crossings.tensor[reads]
    readers = np.bincount(reads, minlength=len(crossings.producer))
    source = np.flatnonzero((readers > 0) & (crossings.producer >= 0))

    received = np.bincount(reader, weights=per_read, minlength=layers)
    received_alone = np.bincount(reader, weights=per_read * (readers == 1)[reads], minlength=layers)
    sent = np.bincount(crossings.producer[source], weights=crossings.tensor[source], minlength=layers)
    sole_reader = _sole(origin[made], reader[made], layers)
    sole_origin = _sole(reader[made], origin[made], layers)
    rises = (sole_reader >= 0) & ~crossings.is_below & (received + crossings.difference < sent)
    falls = (sole_origin >= 0) & ~crossings.is_above & (sent - crossings.difference < received_alone)
    up, down = np.flatnonzero(rises), np.flatnonzero(falls)
    return np.concatenate([up, down]), np.concatenate([sole_reader[up], sole_origin[down]])


def _sole(group: Places, value: Places, groups: int) -> Places:
    """Shape [groups]: the value that is a group's only one, -1 where there is none or another."""
    found = np.full(groups, -1)
    found[group] = value
    found[group[found[group] != value]] = -1
    return found
