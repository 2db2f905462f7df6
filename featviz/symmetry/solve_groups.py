"""From a trace of labels to groups: ties make classes, and classes that nothing tells apart are interchangeable.

Classes are exchangeable if they own slots of the same parameter axes, tied in the same way, and lie in the same sets (tags);
those orbits are the groups. A class that meets a pinned label may not move, and neither may a set that holds one.

Sets that share members, and their members, make a *component*: a head with its queries, keys and values. Components that
look alike, set by set and member by member, are exchangeable as a whole: they make a family, whose groups hold the members
of all its components, block after block.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from featviz.symmetry.canonical_order import canonical_order
from featviz.symmetry.groups import Group, GroupAxis, Index, LayerUnits, PermutationGroups, Pinned
from featviz.symmetry.propagation import EQUAL, FIXED, Site, Trace, varies

Signature = tuple  # what tells a class from others: its slots' axes, the sets it lies in, the sets it stands for


def groups_of(trace: Trace) -> PermutationGroups:
    """All groups that a trace allows, the units of every module, and what is pinned."""
    classes, reasons = _classes(trace)
    kinds = np.full(trace.labels, -1, dtype=np.int64)
    for number, axis in enumerate(trace.axes):
        kinds[axis.first : axis.first + axis.length] = number
    rank, code = canonical_order(trace, classes, kinds)
    slots = _slots_of(classes, kinds, rank)
    for number, (own, _) in slots.items():
        learned = {kind for kind in own if trace.axes[kind].parameter not in trace.buffers}
        if len(learned) < 2 and len(learned) < len(set(own)):  # read by a parameter, made by none
            reasons.setdefault(number, "a constant table")
    owned = {number: (axes, int(code[number])) for number, (axes, _) in slots.items()}
    families = _families(trace, classes, reasons, owned, rank, code)
    first = {number: int(labels.min()) for number, (_, labels) in slots.items()}
    for family in families:
        family.sort(first)
    families.sort(key=lambda family: min(first.get(number, trace.labels) for number in family.numbers))
    place = np.full((classes.max() + 1, 2), -1, dtype=np.int64)
    groups: list[Group] = []
    for family in families:
        found = [(members, _axes(trace, members, slots)) for members in family.orbits]
        named = [axes for _, axes in found if axes]
        if not named:
            continue
        blocks = len(family.orbits[0]) if family.sets else 1
        outer = None
        for number, (members, axes) in enumerate(found):
            is_outer = family.sets and number == 0
            if not axes and not is_outer:
                continue
            name = _name(axes[0].parameter if axes else f"{named[0][0].parameter.rpartition('.')[0]}.blocks.", groups)
            outer = name if is_outer else outer
            flat = members.reshape(-1)
            place[flat] = np.stack([np.full(len(flat), len(groups)), np.arange(len(flat))], 1)
            groups.append(Group(name, len(flat), axes, blocks, outer))
    layers = {name: units for name, site in trace.outputs.items() if (units := _units(site, classes, place))}
    reads = {name: units for name, site in trace.inputs.items() if (units := _units(site, classes, place))}
    pinned = []
    for axis in trace.axes:
        held = [c for c in classes[axis.first : axis.first + axis.length].tolist() if c in reasons]
        if held and not axis.parameter.startswith(EQUAL):
            pinned.append(Pinned(axis.parameter, axis.axis, len(held), reasons[held[0]]))
    return PermutationGroups(tuple(groups), layers, reads, tuple(pinned), trace.unknown)


def _classes(trace: Trace) -> tuple[Index, dict[int, str]]:
    """The class of every label under the ties, and why a class is pinned where it is."""
    ties = torch.cat([torch.zeros(2, 1, dtype=torch.long), *trace.ties], 1).numpy()
    one, other = ties[:, (ties != FIXED).all(0)]
    ones = np.ones(len(one), dtype=np.int8)
    graph = coo_matrix((ones, (one, other)), shape=(trace.labels, trace.labels))
    classes = connected_components(graph, directed=False)[1].astype(np.int64)
    reasons = {int(classes[FIXED]): "fixed"}
    for labels, why in trace.pins:
        for number in classes[labels.numpy()].tolist():
            reasons.setdefault(number, why)
    meets_fixed = ties[:, (ties == FIXED).any(0)].max(0)
    for number in classes[meets_fixed].tolist():
        reasons.setdefault(number, "joined with a fixed element")
    return classes, reasons


def _slots_of(classes: Index, kinds: Index, rank: Index) -> dict[int, tuple[tuple[int, ...], Index]]:
    """For every class with slots the axes that they lie on and their labels, in an order that is parallel in all classes."""
    slots = np.flatnonzero(kinds >= 0)
    slots = slots[np.lexsort((rank[slots], kinds[slots], classes[slots]))]
    starts = np.flatnonzero(np.diff(classes[slots])) + 1
    parts = np.split(slots, starts) if len(slots) else []
    return {int(classes[part[0]]): (tuple(kinds[part].tolist()), part) for part in parts}


@dataclass
class _Family:
    """Orbits (blocks, members): classes that exchange within a row, and whole rows with each other.

    `sets`: whether there are several rows; then the first orbit holds a set of each, one to a row.
    """

    orbits: list[Index]
    sets: bool = False

    @property
    def numbers(self) -> list[int]:
        return [number for orbit in self.orbits for number in orbit.reshape(-1).tolist()]

    def sort(self, first: dict[int, int]) -> None:
        """Order members, and rows, by the first slot that they own."""
        never = len(first) + max(first.values(), default=0) + 1
        keys = [np.vectorize(lambda number: first.get(int(number), never))(orbit) for orbit in self.orbits]
        orders = [np.argsort(key, axis=1, kind="stable") for key in keys]
        rows = np.argsort(np.min([key.min(1) for key in keys], axis=0), kind="stable")
        self.orbits = [np.take_along_axis(o, order, 1)[rows] for o, order in zip(self.orbits, orders, strict=True)]


def _families(
    trace: Trace, classes: Index, reasons: dict[int, str], owned: dict[int, tuple[tuple[int, ...], int]], rank: Index,
    code: NDArray[np.uint64],
) -> list[_Family]:  # fmt: skip
    """Orbits of free classes: those in no set that could move, those within one component, those of like components."""
    pairs, stands, pinned = _memberships(trace, classes, reasons, rank)
    inside: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for member, label, place in pairs.tolist():
        inside[member].append((place, label))

    movable = np.stack([pairs[:, 0], classes[pairs[:, 1]]], 1)[~pinned[classes[pairs[:, 1]]]]
    ones = np.ones(len(movable), dtype=np.int8)
    graph = coo_matrix((ones, tuple(movable.T)), shape=(len(pinned), len(pinned)))
    component = connected_components(graph, directed=False)[1]
    components: dict[int, list[int]] = defaultdict(list)
    for number in np.unique(movable).tolist():
        components[int(component[number])].append(number)

    def signature(number: int, local: dict[int, int]) -> Signature:
        around, fixed = [], []
        for place, label in inside[number]:
            at = local.get(int(classes[label]))
            if at is None:
                fixed.append((place, label))
            else:
                around.append((place, at, int(rank[label])))
        tags = tuple(sorted(stands[number])) if number in local else ()
        return (
            owned.get(number, ((), int(code[number]))),
            tuple(sorted(fixed)),
            tuple(sorted(around)),
            tags,
            local.get(number),
        )

    alone: dict[Signature, list[int]] = defaultdict(list)
    for number in owned:
        if not pinned[number] and int(component[number]) not in components:
            alone[signature(number, {})].append(number)
    families = [_Family([np.array([members])]) for members in alone.values() if len(members) > 1]

    alike: dict[frozenset, list[dict[Signature, list[int]]]] = defaultdict(list)
    for members in components.values():
        sets = sorted((n for n in members if stands.get(n)), key=lambda n: (sorted(stands[n]), n))
        local = {number: place for place, number in enumerate(sets)}
        by_signature: dict[Signature, list[int]] = defaultdict(list)
        for number in [*sets, *(n for n in members if n not in local)]:
            by_signature[signature(number, local)].append(number)
        alike[frozenset((key, len(found)) for key, found in by_signature.items())].append(by_signature)
    for parts in alike.values():
        orbits = [np.array([part[key] for part in parts]) for key in parts[0]]
        if len(parts) > 1:
            families.append(_Family(orbits, sets=True))
        else:
            families += [_Family([orbit]) for orbit in orbits if orbit.size > 1]
    return families


def _memberships(
    trace: Trace, classes: Index, reasons: dict[int, str], rank: Index
) -> tuple[Index, dict[int, list[tuple[int, int]]], NDArray[np.bool_]]:
    """Who lies in which set, (n, 3): a class, the label of a set that one of its labels lies in, that label's rank; which
    sets a class stands for: tags, and the ranks of its labels there; and which classes are pinned (`reasons` grows)."""
    pairs = np.zeros((0, 3), dtype=np.int64)
    stands: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, (members, own) in enumerate(trace.tags):
        inside_of = np.broadcast_to(own.numpy()[:, None], members.shape)
        pair = np.stack([classes[members.numpy()], inside_of, rank[members.numpy()]], -1)
        pairs = np.concatenate([pairs, np.unique(pair.reshape(-1, 3), axis=0)])
        for label in own.tolist():
            stands[int(classes[label])].append((number, int(rank[label])))
    pinned = np.zeros(classes.max() + 1, dtype=bool)
    pinned[list(reasons)] = True
    while len(held := pairs[pinned[pairs[:, 0]] & ~pinned[classes[pairs[:, 1]]], 1]):
        for number in classes[held].tolist():  # a set that holds a fixed unit stays
            pinned[number] = True
            reasons.setdefault(number, "a set that holds a fixed unit")
    return pairs, stands, pinned


def _axes(trace: Trace, members: Index, slots: dict[int, tuple[tuple[int, ...], Index]]) -> tuple[GroupAxis, ...]:
    """The parameter axes of an orbit, with the coordinates that each of its classes owns there."""
    flat = members.reshape(-1).tolist()
    if flat[0] not in slots:
        return ()
    kinds, _ = slots[flat[0]]
    owned = np.stack([slots[number][1] for number in flat])
    used = {(axis.parameter, axis.axis) for axis in trace.axes if axis.blocks == 1}
    found = []
    for kind in dict.fromkeys(kinds):
        axis = trace.axes[kind]
        shadowed = axis.blocks > 1 and (axis.parameter, axis.axis) in used
        if not axis.parameter.startswith(EQUAL) and not shadowed:
            columns = np.array(kinds) == kind
            found.append(GroupAxis(axis.parameter, axis.axis, axis.blocks, owned[:, columns] - axis.first))
    return tuple(found)


def _name(parameter: str, groups: Iterable[Group]) -> str:
    """The module of a parameter, numbered where another group has its name."""
    base = parameter.rpartition(".")[0] or parameter
    taken = {group.name for group in groups}
    names = [base, *(f"{base}#{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _units(site: Site, classes: Index, place: Index) -> LayerUnits | None:
    """Group and element of each unit along the site's channel axis; None where units are not one axis."""
    if not site.shape or site.shape[site.channel_axis] < 1:
        return None
    width = site.shape[site.channel_axis]
    group, element = np.full(width, -1, dtype=np.int64), np.full(width, -1, dtype=np.int64)
    for factor in site.factors:
        if varies(factor) - {site.channel_axis}:
            if site.channel_axis in varies(factor):
                return None
            continue
        labels = factor.reshape(-1).numpy()
        found = place[classes[labels]]
        found[labels == FIXED] = -1
        group, element = found[:, 0].copy(), found[:, 1].copy()
    return LayerUnits(width, site.channel_axis, group, element)
