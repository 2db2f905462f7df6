"""Linear combinations of units in place of permutations: how merged units are made of the parents' units, and read by them.

For every group `merge` (m, n) makes the merged units from a parent's units, and `unmerge` (n, m) reads a parent's units off the
merged ones (ZipIt's M and U). A matched pair of units has 1/2 and 1/2 in `merge`. For a permutation P they are I/2 and P/2, I
and P^T. The same form holds ZipIt (Stoica et al. 2023), CCA Merge (Horoi et al. 2024) and OT fusion (Singh & Jaggi 2020).
`merge.py` applies them to the weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from featviz.matching.assignment import Floats
from featviz.symmetry.groups import Index, LayerUnits, PermutationGroups

PARENTS = ("A", "B")
Pair = tuple[Floats, Floats]  # of A, of B


@dataclass(frozen=True)
class LinearCombination:
    """Per group: `merge` (m, n) and `unmerge` (n, m) of A and of B, float64, with m = n.

    scores: per group (m,), how far A's and B's parts of each merged unit correlate; 0 where one part does not vary on the data,
        NaN in groups that own no parameters.
    """

    merge: Mapping[str, Pair]
    unmerge: Mapping[str, Pair]
    scores: Mapping[str, Floats] = field(default_factory=dict)

    def partitions(self, group: str) -> bool:
        """Whether every unit of a parent belongs to exactly one merged unit (ZipIt, permutations)."""
        return all(np.isin(u, (0, 1)).all() and (u.sum(1) == 1).all() for u in self.unmerge[group])


@dataclass(frozen=True)
class Member:
    """A parent's unit in a merged unit: its model ("A" or "B"), its number in the layer, its weight in the mean."""

    model: str
    unit: int
    weight: float


def combination_of_permutations(perms: Mapping[str, Index]) -> LinearCombination:
    """The linear combination that permutes B and averages."""
    merge, unmerge = {}, {}
    for group, perm in perms.items():
        eye = np.eye(len(perm))
        merge[group] = eye / 2, eye[perm] / 2
        unmerge[group] = eye, eye[perm].T
    return LinearCombination(merge, unmerge)


def layer_rows(groups: PermutationGroups, combination: LinearCombination, units: LayerUnits, parent: int) -> Floats:
    """(width, width): how the units of a layer are made of one parent's units of that layer.

    The k-th copy of an element is made of k-th copies. A unit that may not move has 1/2 of itself. A layer that shows only
    some of a group's units (a slice) lacks the others' weights.
    """
    rows = np.zeros((units.width, units.width))
    fixed = np.flatnonzero(units.group < 0)
    rows[fixed, fixed] = 0.5
    for number, copies in _copies_of_elements(units):
        matrix = combination.merge[groups.groups[number].name][parent]
        elements = units.element[copies]
        rows[np.ix_(copies, copies)] = matrix[np.ix_(elements, elements)]
    return rows


def members_of(
    groups: PermutationGroups, combination: LinearCombination, units: LayerUnits, unit: int
) -> tuple[Member, ...]:
    """The units of a layer that make up its merged unit, the largest |weight| first: the row of `layer_rows`."""
    if units.group[unit] < 0:
        return Member("A", unit, 0.5), Member("B", unit, 0.5)
    copies = next(channels for _, channels in _copies_of_elements(units) if unit in channels)
    found = []
    for model, matrix in zip(PARENTS, combination.merge[groups.groups[units.group[unit]].name], strict=True):
        row = matrix[units.element[unit], units.element[copies]]
        found += [Member(model, int(copies[at]), float(row[at])) for at in np.flatnonzero(row)]
    return tuple(sorted(found, key=lambda member: -abs(member.weight)))


def _copies_of_elements(units: LayerUnits) -> Iterator[tuple[int, Index]]:
    """(group, channels) for each copy of a group's elements in a layer."""
    for number in np.unique(units.group[units.group >= 0]).tolist():
        seen: dict[int, int] = {}
        sets: dict[int, list[int]] = {}
        for channel in np.flatnonzero(units.group == number).tolist():
            element = int(units.element[channel])
            seen[element] = seen.get(element, -1) + 1
            sets.setdefault(seen[element], []).append(channel)
        for channels in sets.values():
            yield number, np.array(channels)
