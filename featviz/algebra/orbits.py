"""From a trace of labels to groups: ties make classes, and classes that nothing tells apart are interchangeable.

Two classes are exchangeable if and only if they own as many slots of the same parameter axes and must stay within the same
sets (tags); those orbits are the groups. A class that meets a pinned label may not move.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from featviz.algebra.groups import Group, GroupAxis, Index, LayerUnits, PermutationGroups, Pinned
from featviz.algebra.labels import EQUAL, FIXED, Site, SlotAxis, Trace, varies


def groups_of(trace: Trace) -> PermutationGroups:
    """All groups that a trace allows, the units of every module, and what is pinned."""
    classes, reasons = _classes(trace)
    kinds, coordinates = _slot_table(trace.axes, trace.labels)
    free = np.ones(classes.max() + 1, dtype=bool)
    free[list(reasons)] = False
    members = _orbits(classes, kinds, coordinates, free, _tag_sets(trace, classes))
    place = np.full((classes.max() + 1, 2), -1, dtype=np.int64)
    groups: list[Group] = []
    for orbit, slots in members:
        axes = []
        for kind in dict.fromkeys(kinds[slots[0]].tolist()):
            columns = kinds[slots[0]] == kind
            source = trace.axes[kind]
            if source.parameter.startswith(EQUAL):
                continue
            axes.append(
                GroupAxis(source.parameter, source.axis, source.block, source.blocks, coordinates[slots[:, columns]])
            )
        if axes:
            place[orbit] = np.stack([np.full(len(orbit), len(groups)), np.arange(len(orbit))], 1)
            groups.append(Group(_name(axes[0], groups), len(orbit), tuple(axes)))
    layers = {name: units for name, site in trace.outputs.items() if (units := _units(site, classes, place))}
    reads = {name: units for name, site in trace.inputs.items() if (units := _units(site, classes, place))}
    pinned = []
    for number, axis in enumerate(trace.axes):
        held = [c for c in classes[kinds == number] if not free[c]]
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


def _slot_table(axes: list[SlotAxis], labels: int) -> tuple[Index, Index]:
    """For every label the number of its parameter axis and its coordinate on it."""
    kinds, coordinates = np.full(labels, -1, dtype=np.int64), np.zeros(labels, dtype=np.int64)
    for number, axis in enumerate(axes):
        span = slice(axis.first, axis.first + axis.length)
        kinds[span], coordinates[span] = number, np.arange(axis.length)
    return kinds, coordinates


def _tag_sets(trace: Trace, classes: Index) -> dict[int, tuple[int, ...]]:
    """For every class the sets that it must stay in."""
    sets: dict[int, set[int]] = {}
    for labels, numbers in trace.tags:
        pairs = np.unique(np.stack([classes[labels.numpy()], numbers.numpy()]), axis=1)
        for number, tag in pairs.T.tolist():
            sets.setdefault(number, set()).add(tag)
    return {number: tuple(sorted(tags)) for number, tags in sets.items()}


def _orbits(
    classes: Index, kinds: Index, coordinates: Index, free: NDArray[np.bool_], tags: dict[int, tuple[int, ...]]
) -> list[tuple[Index, Index]]:
    """Exchangeable classes of two or more: (class numbers (n,), their slots (n, slots per class)), slots in parallel."""
    slots = np.flatnonzero((kinds >= 0) & free[classes])
    slots = slots[np.lexsort((coordinates[slots], kinds[slots], classes[slots]))]
    if not len(slots):
        return []
    starts = np.flatnonzero(np.r_[True, np.diff(classes[slots]) > 0])
    alike: dict[tuple, list[Index]] = {}
    for own in np.split(slots, starts[1:]):
        signature = (kinds[own].tobytes(), tags.get(int(classes[own[0]]), ()))
        alike.setdefault(signature, []).append(own)
    orbits = [np.stack(members) for members in alike.values() if len(members) > 1]
    orbits = [slots[np.argsort(coordinates[slots[:, 0]], kind="stable")] for slots in orbits]
    orbits.sort(key=lambda slots: int(slots.min()))
    return [(classes[slots[:, 0]], slots) for slots in orbits]


def _name(axis: GroupAxis, groups: list[Group]) -> str:
    base = axis.parameter.rpartition(".")[0] or axis.parameter
    taken = {group.name for group in groups}
    names = [base, *(f"{base}#{number}" for number in range(2, len(groups) + 3))]
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
