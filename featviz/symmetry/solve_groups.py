"""From a trace to permutation groups: ids that are the same are one unit, and units that look alike are exchangeable.

1. *Units.* Ids joined by `same_unit` are one unit (connected components). A unit with a pinned id is pinned.
2. *Groups.* Two units are exchangeable if they own indices of the same parameter axes, are joined there in the same way
   (`canonical_order`), and lie in the same blocks.
3. *Blocks.* A block that holds a pinned unit is pinned. Blocks that share units, and these units, make a *component*:
   an attention head with its queries, keys and values. Components that look alike, block by block and unit by unit, may
   be exchanged as a whole; their groups hold the units of all of them, component after component, and form a family.

Worked example, Linear(3, 2) -> ReLU -> Linear(2, 3). Ids of the first weight: rows 1 2, columns 3 4 5, bias 6 7; of the
second: rows 8 9 10, columns 11 12, bias 13 14 15.

    same_unit: 1-6 2-7 (bias), 1-11 2-12 (the second layer reads), 8-13 9-14 10-15; pinned: 8 9 10 (output), 3 4 5 (input)
    units: {1, 6, 11} and {2, 7, 12}; both own an index of the first weight's axis 0, of its bias, of the second's axis 1
    group: 2 units, with index 0 and 1 of these three axes
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from featviz.symmetry.canonical_order import canonical_order
from featviz.symmetry.groups import Group, GroupAxis, Index, LayerUnits, PermutationGroups, Pinned
from featviz.symmetry.trace import OUTPUT, PINNED, ModuleTensor, Trace
from featviz.symmetry.unit_tracer import NO_PARAMETER, axes_of

Owned = dict[int, tuple[tuple[int, ...], Index]]  # unit -> the numbers of its parameter axes, and its ids on them
Signature = tuple  # what tells units apart: the axes they own indices of, the blocks they lie in, the blocks they are


def groups_of(trace: Trace) -> PermutationGroups:
    """All groups that a trace allows, the units of every module, and what is pinned."""
    unit_of, reasons = _units(trace)
    axis_of = np.full(trace.count, -1, dtype=np.int64)
    for number, axis in enumerate(trace.axes):
        axis_of[axis.first_id : axis.first_id + axis.length] = number
    rank, structure = canonical_order(trace, unit_of, axis_of)
    owned = _owned_indices(unit_of, axis_of, rank)
    _pin_constant_tables(trace, owned, reasons)
    families = _Families(trace, unit_of, reasons, owned, rank, structure).all()
    groups, element_of = _named_groups(trace, families, owned, len(structure))
    return PermutationGroups(
        tuple(groups),
        _layers(trace.outputs, unit_of, element_of, reasons),
        _layers(trace.inputs, unit_of, element_of, reasons),
        _pinned_axes(trace, unit_of, reasons),
        trace.unknown,
        tuple(layer_units(tensor, unit_of, element_of, reasons) for tensor in trace.results),
        trace.normalized,
    )


def _units(trace: Trace) -> tuple[Index, dict[int, str]]:
    """The unit of every id, and why a unit is pinned where it is."""
    pairs = torch.cat([torch.zeros(2, 1, dtype=torch.long), *trace.same], 1).numpy()
    one, other = pairs[:, (pairs != PINNED).all(0)]
    ones = np.ones(len(one), dtype=np.int8)
    graph = coo_matrix((ones, (one, other)), shape=(trace.count, trace.count))
    unit_of = connected_components(graph, directed=False)[1].astype(np.int64)
    reasons = {int(unit_of[PINNED]): "fixed"}
    for ids, why in trace.pinned:
        for unit in unit_of[ids.numpy()].tolist():
            reasons.setdefault(unit, why)
    joined_with_pinned = pairs[:, (pairs == PINNED).any(0)].max(0)
    for unit in unit_of[joined_with_pinned].tolist():
        reasons.setdefault(unit, "joined with a fixed element")
    return unit_of, reasons


def _owned_indices(unit_of: Index, axis_of: Index, rank: Index) -> Owned:
    """For every unit the parameter axes that it owns indices of, and its ids there, in an order that is parallel in all
    units.
    """
    ids = np.flatnonzero(axis_of >= 0)
    ids = ids[np.lexsort((rank[ids], axis_of[ids], unit_of[ids]))]
    starts = np.flatnonzero(np.diff(unit_of[ids])) + 1
    parts = np.split(ids, starts) if len(ids) else []
    return {int(unit_of[part[0]]): (tuple(axis_of[part].tolist()), part) for part in parts}


def _pin_constant_tables(trace: Trace, owned: Owned, reasons: dict[int, str]) -> None:
    """Pin units of buffers that one learned parameter reads and none makes, like the columns after a fixed table of
    positions.
    """
    for unit, (axes, _) in owned.items():
        learned = {axis for axis in axes if trace.axes[axis].parameter not in trace.buffers}
        if len(learned) < 2 and len(learned) < len(set(axes)):
            reasons.setdefault(unit, "a constant table")


@dataclass
class _Family:
    """Groups that are permuted together. A group is an array (components, units): units are exchanged within a row, and
    whole rows with each other.

    `several`: whether there are several components; then the first group holds a block of each, one to a row.
    """

    groups: list[Index]
    several: bool = False

    @property
    def units(self) -> list[int]:
        return [unit for group in self.groups for unit in group.reshape(-1).tolist()]

    def sort(self, first: Index) -> None:
        """Order units within rows, and rows, by their first owned id: `first` of every unit."""
        keys = [first[group] for group in self.groups]
        orders = [np.argsort(key, axis=1, kind="stable") for key in keys]
        rows = np.argsort(np.min([key.min(1) for key in keys], axis=0), kind="stable")
        self.groups = [np.take_along_axis(g, order, 1)[rows] for g, order in zip(self.groups, orders, strict=True)]


class _Families:
    """Groups of exchangeable units: those in no block that could move, those within one component, those of like
    components.
    """

    def __init__(
        self,
        trace: Trace,
        unit_of: Index,
        reasons: dict[int, str],
        owned: Owned,
        rank: Index,
        structure: NDArray[np.uint64],
    ) -> None:
        self.unit_of, self.reasons, self.owned, self.rank, self.structure = unit_of, reasons, owned, rank, structure
        self.inside, self.is_block, self.pinned = self._memberships(trace)
        # unit -> (rank of its id there, the block's id)
        self.lies_in: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for unit, block_id, position in self.inside.tolist():
            self.lies_in[unit].append((position, block_id))

    def all(self) -> list[_Family]:
        """Every family, in the order of its first id."""
        components = self._components()
        in_component = {unit for members in components for unit in members}
        alone: dict[Signature, list[int]] = defaultdict(list)
        for unit in self.owned:
            if not self.pinned[unit] and unit not in in_component:
                alone[self._signature(unit, {})].append(unit)
        families = [_Family([np.array([units])]) for units in alone.values() if len(units) > 1]
        alike: dict[frozenset, list[dict[Signature, list[int]]]] = defaultdict(list)
        for members in components:
            by_signature = self._by_signature(members)
            alike[frozenset((key, len(units)) for key, units in by_signature.items())].append(by_signature)
        for parts in alike.values():
            groups = [np.array([part[key] for part in parts]) for key in parts[0]]
            if len(parts) > 1:
                families.append(_Family(groups, several=True))
            else:
                families += [_Family([group]) for group in groups if group.size > 1]
        first = np.full(len(self.pinned), len(self.unit_of))  # a unit that owns nothing comes last
        for unit, (_, ids) in self.owned.items():
            first[unit] = ids.min()
        for family in families:
            family.sort(first)
        return sorted(families, key=lambda family: int(first[family.units].min()))

    def _memberships(self, trace: Trace) -> tuple[Index, dict[int, list[tuple[int, int]]], NDArray[np.bool_]]:
        """Which unit lies in which block, (n, 3): a unit, the id of a block that one of its ids lies in, that id's
        rank; which blocks a unit is: number of the record, and rank; and which units are pinned (`reasons` grows).
        """
        inside = np.zeros((0, 3), dtype=np.int64)
        is_block: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, (members, own) in enumerate(trace.blocks):
            blocks = np.broadcast_to(own.numpy()[:, None], members.shape)
            found = np.stack([self.unit_of[members.numpy()], blocks, self.rank[members.numpy()]], -1)
            inside = np.concatenate([inside, np.unique(found.reshape(-1, 3), axis=0)])
            for block_id in own.tolist():
                is_block[int(self.unit_of[block_id])].append((number, int(self.rank[block_id])))
        pinned = np.zeros(self.unit_of.max() + 1, dtype=bool)
        pinned[list(self.reasons)] = True
        while len(stuck := inside[pinned[inside[:, 0]] & ~pinned[self.unit_of[inside[:, 1]]], 1]):
            for unit in self.unit_of[stuck].tolist():  # a block that holds a pinned unit is pinned
                pinned[unit] = True
                self.reasons.setdefault(unit, "a set that holds a fixed unit")
        return inside, is_block, pinned

    def _components(self) -> list[list[int]]:
        """Units that are linked by blocks that may move, and these blocks."""
        pairs = np.stack([self.inside[:, 0], self.unit_of[self.inside[:, 1]]], 1)
        pairs = pairs[~self.pinned[pairs[:, 1]]]
        ones = np.ones(len(pairs), dtype=np.int8)
        graph = coo_matrix((ones, tuple(pairs.T)), shape=(len(self.pinned), len(self.pinned)))
        component = connected_components(graph, directed=False)[1]
        found: dict[int, list[int]] = defaultdict(list)
        for unit in np.unique(pairs).tolist():
            found[int(component[unit])].append(unit)
        return list(found.values())

    def _by_signature(self, members: list[int]) -> dict[Signature, list[int]]:
        """The units of one component by what tells them apart; its blocks come first."""
        blocks = sorted((u for u in members if self.is_block.get(u)), key=lambda u: (sorted(self.is_block[u]), u))
        position = {unit: number for number, unit in enumerate(blocks)}
        found: dict[Signature, list[int]] = defaultdict(list)
        for unit in [*blocks, *(unit for unit in members if unit not in position)]:
            found[self._signature(unit, position)].append(unit)
        return found

    def _signature(self, unit: int, position: dict[int, int]) -> Signature:
        """What tells a unit from others.

        Args:
            position: the blocks of its component; all other blocks are pinned, and told apart by their ids.
        """
        movable, pinned = [], []
        for rank, block_id in self.lies_in[unit]:
            at = position.get(int(self.unit_of[block_id]))
            if at is None:
                pinned.append((rank, block_id))
            else:
                movable.append((rank, at, int(self.rank[block_id])))
        axes = self.owned[unit][0] if unit in self.owned else ()
        own_blocks = tuple(sorted(self.is_block[unit])) if unit in position else ()
        where = tuple(sorted(pinned)), tuple(sorted(movable))
        return (axes, int(self.structure[unit])), *where, own_blocks, position.get(unit)


def _named_groups(trace: Trace, families: list[_Family], owned: Owned, units: int) -> tuple[list[Group], Index]:
    """The groups that own parameters and those of their blocks; the group and element of every unit, (units, 2)."""
    element_of = np.full((units, 2), -1, dtype=np.int64)
    groups: list[Group] = []
    for family in families:
        found = [(members, _axes(trace, members, owned)) for members in family.groups]
        named = [axes for _, axes in found if axes]
        if not named:
            continue
        blocks = len(family.groups[0]) if family.several else 1
        outer = None
        for number, (members, axes) in enumerate(found):
            is_outer = family.several and number == 0
            if not axes and not is_outer:
                continue
            first = axes[0].parameter if axes else f"{named[0][0].parameter.rpartition('.')[0]}.blocks."
            name = group_name(first, [group.name for group in groups])
            outer = name if is_outer else outer
            flat = members.reshape(-1)
            element_of[flat] = np.stack([np.full(len(flat), len(groups)), np.arange(len(flat))], 1)
            groups.append(Group(name, len(flat), axes, blocks, outer))
    return groups, element_of


def _axes(trace: Trace, members: Index, owned: Owned) -> tuple[GroupAxis, ...]:
    """The parameter axes of a group, with the indices that each of its units owns there."""
    flat = members.reshape(-1).tolist()
    if flat[0] not in owned:
        return ()
    numbers, _ = owned[flat[0]]
    ids = np.stack([owned[unit][1] for unit in flat])
    unblocked = {(axis.parameter, axis.axis) for axis in trace.axes if axis.blocks == 1}
    found = []
    for number in dict.fromkeys(numbers):
        axis = trace.axes[number]
        twice = axis.blocks > 1 and (axis.parameter, axis.axis) in unblocked
        if not axis.parameter.startswith(NO_PARAMETER) and not twice:
            columns = np.array(numbers) == number
            found.append(GroupAxis(axis.parameter, axis.axis, axis.blocks, ids[:, columns] - axis.first_id))
    return tuple(found)


def group_name(parameter: str, taken: Collection[str]) -> str:
    """The module of a group's first parameter, numbered where another group has that name."""
    base = (parameter.rpartition(".")[0] or parameter).partition(".parametrizations.")[0]
    names = [base, *(f"{base}#{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _pinned_axes(trace: Trace, unit_of: Index, reasons: dict[int, str]) -> tuple[Pinned, ...]:
    """For every parameter axis how many of its indices may not move, and why the first of them may not."""
    found = []
    for axis in trace.axes:
        pinned = [unit for unit in unit_of[axis.first_id : axis.first_id + axis.length].tolist() if unit in reasons]
        if pinned and not axis.parameter.startswith(NO_PARAMETER):
            found.append(Pinned(axis.parameter, axis.axis, len(pinned), reasons[pinned[0]]))
    return tuple(found)


def _layers(
    tensors: dict[str, ModuleTensor], unit_of: Index, element_of: Index, reasons: dict[int, str]
) -> dict[str, LayerUnits]:
    """Group and element of each unit of every module whose units lie along one axis."""
    found = {name: layer_units(tensor, unit_of, element_of, reasons) for name, tensor in tensors.items()}
    return {name: units for name, units in found.items() if units is not None}


def layer_units(tensor: ModuleTensor, unit_of: Index, element_of: Index, reasons: dict[int, str]) -> LayerUnits | None:
    """Group and element of each unit along the tensor's channel axis; None where units are not along one axis."""
    axis = tensor.channel_axis
    if not tensor.shape or tensor.shape[axis] < 1:
        return None
    group, element = np.full((2, tensor.shape[axis]), -1, dtype=np.int64)
    pinned: list[str] = []
    for ids in tensor.ids:
        if axes_of(ids) - {axis}:
            if axis in axes_of(ids):
                return None
            continue
        flat = ids.reshape(-1).numpy()
        found = element_of[unit_of[flat]]
        found[flat == PINNED] = -1
        group, element = found[:, 0].copy(), found[:, 1].copy()
        pinned += [reasons[unit] for unit in unit_of[flat].tolist() if unit in reasons]
    reason = OUTPUT if OUTPUT in pinned else next(iter(pinned), "")
    return LayerUnits(tensor.shape[axis], axis, group, element, reason)
