"""Checks of what a file says of groups and their units: ValueError, with what is wrong, for anything that no network leads to.

    groups that were read, permutations and scores per group -> nothing, or a ValueError

A file may be damaged at any byte, and an index out of its range would fail far from here, or permute the wrong weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featviz.errors import shown
from featviz.symmetry.groups import Group, LayerUnits, PermutationGroups
from featviz.symmetry.shared_groups import SharedGroups

MOST_AXES = 64  # of a tensor


def check_groups(groups: PermutationGroups) -> None:
    """Make sure that groups, their axes and the units of all modules have the types and ranges that they must have."""
    names = [group.name for group in groups]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"the groups are called {shown(names)}")
    for group in groups:
        _check_group(group)
    for family in groups.families():
        if len({group.blocks for group in family}) > 1 or (family[0].family and family[0].name != family[0].family):
            raise ValueError(f"the groups of family {shown(family[0].family)} do not belong together")
    sizes = np.array([group.size for group in groups], dtype=np.int64)
    for role, modules in (("layer", groups.layers), ("input of", groups.reads)):
        for name, units in modules.items():
            _check_units(f"{role} {shown(name)}", units, sizes)
    for units in groups.outputs:
        if units is not None:
            _check_units("an output", units, sizes)
    for pin in groups.pinned:
        plain = isinstance(pin.parameter, str) and isinstance(pin.reason, str)
        if not plain or not _is_whole(pin.axis, 0, MOST_AXES) or not _is_whole(pin.count, 0):
            raise ValueError(f"{shown(pin)} is no pinned axis")
    if not all(isinstance(name, str) for name in groups.normalized):
        raise ValueError(f"the parameters with normalized filters are called {shown(groups.normalized)}")
    if not _is_texts(groups.unknown):
        raise ValueError(f"the unknown operators are {shown(groups.unknown)}")


def check_shared(groups: SharedGroups) -> None:
    """Make sure that both networks have the same groups, and that their tensors have names."""
    kinds = [[(group.name, group.size, group.blocks, group.family) for group in one] for one in (groups.a, groups.b)]
    if kinds[0] != kinds[1]:
        raise ValueError("the groups of A are not those of B")
    if not _is_texts(groups.shared):
        raise ValueError(f"the shared tensors are {shown(groups.shared)}")
    if not all(isinstance(name, str) for name in (*groups.private_a, *groups.private_b)):
        raise ValueError("a private tensor has no name")


def check_permutations(groups: PermutationGroups, permutations: Mapping[str, np.ndarray]) -> None:
    """Make sure that every group has a permutation of its units, one that keeps its blocks whole, in a family alike."""
    for family in groups.families():
        first = None
        for group in family:
            perm = permutations[group.name]
            whole = perm.ndim == 1 and np.issubdtype(perm.dtype, np.integer)
            if not whole or not np.array_equal(np.sort(perm), np.arange(group.size)):
                raise ValueError(f"the permutation of group {group.name} is none of {group.size} units")
            blocks = perm.reshape(group.blocks, -1) // (group.size // group.blocks)
            first = blocks[:, 0] if first is None else first
            if (blocks != first[:, None]).any():
                raise ValueError(f"the permutation of group {group.name} takes its blocks apart")


def check_floats(groups: PermutationGroups, what: str, values: Mapping[str, np.ndarray], axes: int = 1) -> None:
    """Make sure that every group has floating-point numbers, (n,) or (n, n)."""
    for group in groups:
        array = values[group.name]
        if array.shape != (group.size,) * axes or not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"the {what} of group {group.name} has shape {array.shape} and type {array.dtype}")


def _check_group(group: Group) -> None:
    whole = _is_whole(group.size, 1) and _is_whole(group.blocks, 1)
    if not whole or group.size % group.blocks or not isinstance(group.family, str | None):
        raise ValueError(f"group {group.name} has {shown(group.size)} units in {shown(group.blocks)} blocks")
    for axis in group.axes:
        index = axis.index
        known = isinstance(axis.parameter, str) and _is_whole(axis.axis, 0, MOST_AXES) and _is_whole(axis.blocks, 1)
        if not known or index.ndim != 2 or len(index) != group.size or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(f"group {group.name} has no index of its units on an axis of {shown(axis.parameter)}")
        if index.size and (index.min() < 0 or len(np.unique(index)) < index.size):
            raise ValueError(f"group {group.name} owns an index of {shown(axis.parameter)} twice, or a negative one")


def _check_units(what: str, units: LayerUnits, sizes: np.ndarray) -> None:
    group, element = units.group, units.element
    known = _is_whole(units.width, 0) and _is_whole(units.axis, -MOST_AXES, MOST_AXES) and isinstance(units.reason, str)
    if not known or group.shape != (units.width,):
        raise ValueError(
            f"the {what} has {shown(units.width)} units on axis {shown(units.axis)}, and {group.shape} are listed"
        )
    if group.size and (group.min() < -1 or group.max() >= len(sizes)):
        raise ValueError(f"a unit of the {what} is in no group of the file")
    owned = group >= 0
    if (element[owned] < 0).any() or (element[owned] >= sizes[group[owned]]).any():
        raise ValueError(f"a unit of the {what} is no unit of its group")


def _is_whole(value: Any, low: int, high: int = 2**62) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high


def _is_texts(values: Any) -> bool:
    """Whether it is a dictionary of texts by text."""
    return isinstance(values, Mapping) and all(isinstance(one, str) for pair in values.items() for one in pair)


def as_numbers(values: Any) -> tuple[float, ...]:
    """A list of finite numbers as floats."""
    if not isinstance(values, Sequence) or not all(
        isinstance(value, (int, float)) and abs(value) < 1e300 for value in values
    ):
        raise ValueError(f"{shown(values)} is no list of numbers")
    return tuple(map(float, values))
