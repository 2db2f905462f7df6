"""Which label of one class answers to which of another: an order within every class, and a code of how it hangs together.

A class may own several coordinates of one axis (a flattened layer, `cat([x, x])`, `x + x.flip(1)`). To exchange it with
another, each must go where its counterpart is. Ties are edges of a graph; an edge has the number of the tie that made it, and
its place among the edges of that tie at either end. Labels are coloured by refinement (Weisfeiler & Leman 1968); where two of
a class still look alike, the first is singled out and refinement goes on. Classes of equal code are then equal edge by edge
in that order: a mismatch, which a symmetric class may suffer, costs an exchange, never correctness.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from featviz.symmetry.groups import Index
from featviz.symmetry.propagation import FIXED, Trace

Hashes = NDArray[np.uint64]
SINGLED_OUT = 64  # labels of one class that may look alike before the rest is left as it is


def canonical_order(trace: Trace, classes: Index, kinds: Index) -> tuple[Index, Hashes]:
    """The place of every label within its class (labels,), and the code of every class (classes,).

    Args:
        kinds: (labels,) what a label is a coordinate of.
    """
    types, one, other = _edges(trace)
    color = _mixed(kinds.astype(np.uint64))
    for number, (members, own) in enumerate(trace.tags):
        tag = _mixed(np.array([number], dtype=np.uint64))[0]
        color[torch.unique(members).numpy()] += tag
        color[own.numpy()] += _mixed(np.array([tag]))[0]
    fixed = classes == classes[FIXED]
    color[fixed] = np.arange(fixed.sum(), dtype=np.uint64)
    forth, back = _mixed(2 * types), _mixed(2 * types + np.uint64(1))
    for _ in range(SINGLED_OUT):
        color = _refined(color, classes, forth, back, one, other)
        alike = _first_alike(color, classes)
        if not len(alike):
            break
        color[alike] = _mixed(color[alike] + np.uint64(1))
    order = np.lexsort((np.arange(len(classes)), color, classes))
    starts = np.flatnonzero(np.r_[True, np.diff(classes[order]) > 0])
    rank = np.empty(len(classes), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    code = np.zeros(classes.max() + 1, dtype=np.uint64)
    ends = _mixed(
        forth + _mixed(2 * rank[one].astype(np.uint64)) + _mixed(2 * rank[other].astype(np.uint64) + np.uint64(1))
    )
    np.add.at(code, classes[one], ends)
    return rank, code


def _edges(trace: Trace) -> tuple[Hashes, Index, Index]:
    """All ties but those with FIXED as edges: type, one label, the other."""
    numbers = np.repeat(np.arange(len(trace.ties)), [pairs.shape[1] for pairs in trace.ties])
    one, other = torch.cat([torch.zeros(2, 0, dtype=torch.long), *trace.ties], 1).numpy()
    kept = (one != FIXED) & (other != FIXED)
    numbers, one, other = numbers[kept], one[kept], other[kept]
    places = [_place(numbers, one, other), _place(numbers, other, one)]
    return _mixed(_mixed(_mixed(numbers.astype(np.uint64)) + places[0]) + places[1]), one, other


def _place(numbers: Index, one: Index, other: Index) -> Hashes:
    """The place of an edge among those of the same tie at its label `one`, by the other label."""
    order = np.lexsort((other, one, numbers))
    new = np.r_[True, (np.diff(numbers[order]) != 0) | (np.diff(one[order]) != 0)][: len(order)]
    starts = np.flatnonzero(new)
    place = np.empty(len(order), dtype=np.uint64)
    place[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return place


def _refined(color: Hashes, classes: Index, forth: Hashes, back: Hashes, one: Index, other: Index) -> Hashes:
    """Colour labels by what they are tied to, until no more are told apart, or all of every class are."""
    count = 0
    while len(_first_alike(color, classes)):
        seen = np.zeros_like(color)
        np.add.at(seen, one, _mixed(forth + color[other]))
        np.add.at(seen, other, _mixed(back + color[one]))
        color = _mixed(color + _mixed(seen))
        found = len(np.unique(color))
        if found == count:
            break
        count = found
    return color


def _first_alike(color: Hashes, classes: Index) -> Index:
    """For every class with labels of one colour, the first label of the first such colour."""
    order = np.lexsort((np.arange(len(classes)), color, classes))
    same = (np.diff(classes[order]) == 0) & (color[order][1:] == color[order][:-1])
    found = order[:-1][same]
    return found[np.unique(classes[found], return_index=True)[1]]


def _mixed(values: Hashes) -> Hashes:
    """A bijection on 64 bits that scatters them (splitmix64: Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
