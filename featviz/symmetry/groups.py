"""Permutation groups of a network: which units may be exchanged, and what moves with each. Types alone.

Unit i of a group owns indices of parameter axes (`GroupAxis.index[i]`); a channel of a module is an element of a group
(`LayerUnits`). `discovery.py` finds them, `permute.py` applies permutations to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class GroupAxis:
    """The indices of one parameter axis that are permuted with a group.

    Attributes:
        index: (size, multiplicity); row i holds the indices that unit i owns. A unit of a map that is flattened
            owns several columns of the linear layer after it.
        blocks: 1, or, for axis 1 of a grouped convolution's weight, its number of groups. Its columns are then numbered
            through all groups: index `c` is column `c % n` in the rows of group `c // n`, with n columns.
    """

    parameter: str
    axis: int
    blocks: int
    index: Index


@dataclass(frozen=True)
class Group:
    """Units that may be exchanged with each other, named after the first module that produces them.

    Attributes:
        size: the number of units.
        axes: the parameter axes that are permuted with them.
        blocks: 1, or the number of blocks of equal size, one after the other: units may be exchanged within a
            block, and whole blocks with each other (the coordinates of attention heads, and the heads).
        family: of groups in blocks, the name of the group of the blocks themselves (one unit for each; it may own no
            parameter). The blocks of all groups of a family are permuted alike.
    """

    name: str
    size: int
    axes: tuple[GroupAxis, ...]
    blocks: int = 1
    family: str | None = None


@dataclass(frozen=True)
class LayerUnits:
    """The units along axis `axis` of one module's tensor: unit u is element `element[u]` of group number `group[u]`; -1
    where it may not move. `reason` says why (the first of) those may not; it is "" where it is not known, or none is.
    """

    width: int
    axis: int
    group: Index
    element: Index
    reason: str = ""


@dataclass(frozen=True)
class Pinned:
    """How many indices of a parameter axis may not be permuted, and why the first of them may not."""

    parameter: str
    axis: int
    count: int
    reason: str


@dataclass(frozen=True)
class PermutationGroups:
    """All groups of a network, the units of its modules, and what may not be permuted.

    Attributes:
        layers: module name -> the units of its output.
        reads: module name -> the units of its first input.
        pinned: parameter axes with indices that may not be permuted.
        unknown: operator without a rule -> the module where it first occurred.
        outputs: the units of each tensor that the network returns (`free_outputs`); None where they are not along one
        axis.
        normalized: names of the parameters whose filters (rows of axis 0) a batch norm rescales: their scale is arbitrary.
    """

    groups: tuple[Group, ...]
    layers: Mapping[str, LayerUnits]
    reads: Mapping[str, LayerUnits]
    pinned: tuple[Pinned, ...]
    unknown: Mapping[str, str]
    outputs: tuple[LayerUnits | None, ...] = ()
    normalized: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"PermutationGroups({len(self)} groups of {self.free_units} units, {len(self.layers)} modules)"

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def families(self) -> list[tuple[Group, ...]]:
        """Groups whose blocks are permuted together; the group of the blocks first. A group without blocks is alone."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.family or group.name, []).append(group)
        return [tuple(members) for members in found.values()]

    @property
    def free_units(self) -> int:
        """How many units may be permuted: the elements of groups that own parameters."""
        return sum(group.size for group in self.groups if group.axes)

    @property
    def sizes(self) -> dict[str, int]:
        """Group name -> number of units."""
        return {group.name: group.size for group in self.groups}

    def keeping(self, numbers: Sequence[int], reason: str) -> "PermutationGroups":
        """The groups of these numbers alone; units of the others may not be permuted, for this reason."""
        renumbered = np.full(len(self.groups) + 1, -1, dtype=np.int64)
        renumbered[list(numbers)] = np.arange(len(numbers))

        def of(units: LayerUnits) -> LayerUnits:
            group = renumbered[units.group]
            lost = reason if ((group < 0) & (units.group >= 0)).any() else ""
            element = np.where(group < 0, -1, units.element)
            return replace(units, group=group, element=element, reason=units.reason or lost)

        return replace(
            self,
            groups=tuple(self.groups[number] for number in numbers),
            layers={name: of(units) for name, units in self.layers.items()},
            reads={name: of(units) for name, units in self.reads.items()},
            outputs=tuple(of(units) if units else None for units in self.outputs),
        )

    def modules(self, group: str) -> list[str]:
        """The modules whose output carries units of this group, in the order of the forward pass."""
        number = [g.name for g in self.groups].index(group)
        return [name for name, units in self.layers.items() if (units.group == number).any()]
