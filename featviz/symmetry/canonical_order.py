"""Which index of one unit corresponds to which index of another: an order of the ids within every unit.

A unit may own several indices of one axis: a flattened layer, `cat([x, x])`, `x + x.flip(1)`. To exchange it with
another unit, each index must go where its counterpart is. Ids that were said to be the same are the edges of a graph;
an edge is typed by the record that made it, and by its position among the record's edges at either end. Ids are
coloured by refinement (Weisfeiler & Leman 1968); where two of a unit still look alike, the first is singled out and
refinement goes on. Units of equal structure are then equal edge by edge in that order. A symmetric unit may get an
order that does not fit: it is then not exchangeable, which is never wrong.

Example, cat([x, x]) of x with ids 1 2, read by a weight with columns 3 4 5 6: edges 1-3, 2-4, 1-5, 2-6. Units {1, 3, 5}
and {2, 4, 6}: 3 and 4 are the first edges at 1 and 2, 5 and 6 the second, so that columns 0 and 1 correspond, and 2 and
3.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from featviz.symmetry.groups import Index
from featviz.symmetry.trace import PINNED, Trace

Hashes = NDArray[np.uint64]
SINGLED_OUT = 64  # how many ids of one unit that look alike are told apart; the rest keeps its order


def canonical_order(trace: Trace, unit_of: Index, axis_of: Index) -> tuple[Index, Hashes]:
    """The rank of every id within its unit (ids,), and a hash of the structure of every unit (units,).

    Args:
        unit_of: (ids,) the unit of every id.
        axis_of: (ids,) the number of the parameter axis that an id belongs to; -1 for the ids of blocks.
    """
    types, one, other = _edges(trace)
    color = _mixed(axis_of.astype(np.uint64))
    for number, (members, own) in enumerate(trace.blocks):
        record = _mixed(np.array([number], dtype=np.uint64))[0]
        color[torch.unique(members).numpy()] += record
        color[own.numpy()] += _mixed(np.array([record]))[0]
    pinned = unit_of == unit_of[PINNED]
    color[pinned] = np.arange(pinned.sum(), dtype=np.uint64)
    forward, backward = _mixed(2 * types), _mixed(2 * types + np.uint64(1))
    for _ in range(SINGLED_OUT):
        color = _refined(color, unit_of, forward, backward, one, other)
        alike = _first_alike(color, unit_of)
        if not len(alike):
            break
        color[alike] = _mixed(color[alike] + np.uint64(1))
    order = np.lexsort((np.arange(len(unit_of)), color, unit_of))
    starts = np.flatnonzero(np.r_[True, np.diff(unit_of[order]) > 0])
    rank = np.empty(len(unit_of), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    structure = np.zeros(unit_of.max() + 1, dtype=np.uint64)
    ends = _mixed(
        forward + _mixed(2 * rank[one].astype(np.uint64)) + _mixed(2 * rank[other].astype(np.uint64) + np.uint64(1))
    )
    np.add.at(structure, unit_of[one], ends)
    return rank, structure


def _edges(trace: Trace) -> tuple[Hashes, Index, Index]:
    """All pairs of ids that are the same, but those with PINNED: type of the edge, one id, the other."""
    numbers = np.repeat(np.arange(len(trace.same)), [pairs.shape[1] for pairs in trace.same])
    one, other = torch.cat([torch.zeros(2, 0, dtype=torch.long), *trace.same], 1).numpy()
    kept = (one != PINNED) & (other != PINNED)
    numbers, one, other = numbers[kept], one[kept], other[kept]
    at_one, at_other = _position(numbers, one, other), _position(numbers, other, one)
    return _mixed(_mixed(_mixed(numbers.astype(np.uint64)) + at_one) + at_other), one, other


def _position(numbers: Index, one: Index, other: Index) -> Hashes:
    """The position of an edge among those of the same record at its id `one`, by the other id."""
    order = np.lexsort((other, one, numbers))
    new = np.r_[True, (np.diff(numbers[order]) != 0) | (np.diff(one[order]) != 0)][: len(order)]
    starts = np.flatnonzero(new)
    position = np.empty(len(order), dtype=np.uint64)
    position[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return position


def _refined(color: Hashes, unit_of: Index, forward: Hashes, backward: Hashes, one: Index, other: Index) -> Hashes:
    """Colour ids by the colours of their neighbours, until no more are told apart, or all of every unit are."""
    count = 0
    while len(_first_alike(color, unit_of)):
        seen = np.zeros_like(color)
        np.add.at(seen, one, _mixed(forward + color[other]))
        np.add.at(seen, other, _mixed(backward + color[one]))
        color = _mixed(color + _mixed(seen))
        found = len(np.unique(color))
        if found == count:
            break
        count = found
    return color


def _first_alike(color: Hashes, unit_of: Index) -> Index:
    """For every unit with ids of one colour, the first id of the first such colour."""
    order = np.lexsort((np.arange(len(unit_of)), color, unit_of))
    same = (np.diff(unit_of[order]) == 0) & (color[order][1:] == color[order][:-1])
    found = order[:-1][same]
    return found[np.unique(unit_of[found], return_index=True)[1]]


def _mixed(values: Hashes) -> Hashes:
    """A bijection on 64 bits that scatters them (splitmix64: Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
