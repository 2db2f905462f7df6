"""Permutation groups of a network: which units may be exchanged, and what moves with each. Types alone.

A group's unit i owns coordinates of parameter axes (`GroupAxis.index[i]`); a module's channel is an element of a group
(`LayerUnits`). `discovery.py` finds them, `permutation.py` applies permutations to them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class GroupAxis:
    """The coordinates of one parameter axis that move with a group.

    `index` (size, multiplicity): row i is what unit i owns. The columns of a grouped convolution's weight count on from
    block to block of its rows: coordinate `c` is column `c % n` of block `c // n`, with n columns and `blocks` blocks.
    """

    parameter: str
    axis: int
    blocks: int
    index: Index


@dataclass(frozen=True)
class Group:
    """Units that are interchangeable with each other, named after the first parameter that produces them.

    Where only units of one block are (the coordinates of an attention head), and whole blocks are, too, the group holds
    `blocks` blocks of equal size, one after the other. The groups whose blocks must be exchanged alike name the same `family`:
    the group of the blocks themselves, one unit to a block, which need own nothing.
    """

    name: str
    size: int
    axes: tuple[GroupAxis, ...]
    blocks: int = 1
    family: str | None = None


@dataclass(frozen=True)
class LayerUnits:
    """The units of one module's output: unit u is element `element[u]` of group `group[u]` (-1: it may not move)."""

    width: int
    axis: int
    group: Index
    element: Index


@dataclass(frozen=True)
class Pinned:
    """Slots of a parameter axis that may not move, and why."""

    parameter: str
    axis: int
    count: int
    reason: str


@dataclass(frozen=True)
class PermutationGroups:
    """All groups of a network, the units of its modules, and what could not be set free.

    `layers` and `reads` hold the units of every named module's output and of its first input; `unknown` names the
    operators without a rule and the module where each first occurred.
    """

    groups: tuple[Group, ...]
    layers: Mapping[str, LayerUnits]
    reads: Mapping[str, LayerUnits]
    pinned: tuple[Pinned, ...]
    unknown: Mapping[str, str]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def families(self) -> list[tuple[Group, ...]]:
        """Groups that must be permuted together; first among them that of the blocks, where there are blocks."""
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.family or group.name, []).append(group)
        return [tuple(members) for members in found.values()]

    @property
    def free_units(self) -> int:
        """How many units may move: elements of groups that own parameters."""
        return sum(group.size for group in self.groups if group.axes)

    @property
    def sizes(self) -> dict[str, int]:
        return {group.name: group.size for group in self.groups}

    def modules(self, group: str) -> list[str]:
        """The modules whose output carries units of this group, in the order of the forward pass."""
        number = [g.name for g in self.groups].index(group)
        return [name for name, units in self.layers.items() if (units.group == number).any()]
