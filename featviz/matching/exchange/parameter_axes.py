"""Permutations by parameter axis, as other tools know them: groups and their permutations <-> vectors and `axes_to_perm`.

`axes_to_perm` is the table of Git Re-Basin's PermutationSpec (Ainsworth et al. 2022): for every parameter one name, or None,
for each of its axes; to gather every axis by the vector of its name is to permute B. Axis 1 of a grouped convolution's weight
counts the input channels of all its groups, one group after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from featviz.errors import AlignmentError, near_names, shown
from featviz.symmetry.groups import Group, Index, PermutationGroups
from featviz.symmetry.permute import axis_indices
from featviz.weights.tensors import named_tensors

AxesToPerm = Mapping[str, Sequence[str | None]]
FLAX = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def axes_of_groups(
    groups: PermutationGroups, perms: Mapping[str, Index], model: nn.Module
) -> tuple[dict[str, Index], dict[str, list[str | None]]]:
    """Name -> vector, and parameter -> name per axis, for every parameter and buffer of the network.

    A vector is named after its group where it permutes a whole axis, one coordinate a unit; else (concatenated or flattened
    units) after the first axis that it permutes, `fc.weight:1`.
    """
    tensors, first_names = _tensors(model)
    sizes = {name: tuple(tensors[name].shape) for name in first_names.values()}
    parts: dict[tuple[str, int, int], list[tuple[str, int, bytes]]] = {}
    for group in groups:
        for axis in group.axes:
            part = group.name, group.size, axis.index.tobytes()
            parts.setdefault((axis.parameter, axis.axis, axis.blocks), []).append(part)
    vectors: dict[str, Index] = {}
    named: dict[tuple, str] = {}
    on_axis: dict[tuple[str, int], str] = {}
    for key, vector in axis_indices(groups, perms, sizes).items():
        parameter, axis, _ = key
        group, *rest = parts[key][0]
        whole = rest == [len(vector), np.arange(len(vector)).tobytes()]
        name = named.setdefault((len(vector), *parts[key]), group if whole else f"{parameter}:{axis}")
        vectors[name] = vector
        on_axis[parameter, axis] = name
    axes = {name: [on_axis.get((first_names[name], axis)) for axis in range(t.dim())] for name, t in tensors.items()}
    return vectors, axes


def groups_of_axes(
    groups: PermutationGroups, perms: Mapping[str, object], axes_to_perm: AxesToPerm, model: nn.Module
) -> tuple[dict[str, Index], list[str]]:
    """The permutation of every group that the vectors on the axes state, `B'[i] = B[perm[i]]`, and the groups without any.

    Args:
        perms: name -> vector of whole numbers; None, or a name that is missing, states nothing.
        axes_to_perm: with the network's names, or with flax's (`a/b/kernel` is `a.b.weight`, its axes turned to torch's). None
            states that the axis stays; parameters that are not in it, and axes past its end, follow the others.

    Returns:
        Permutations of all groups, the identity where nothing is stated; and the names of the groups where nothing is.

    Raises:
        AlignmentError: an unknown name or axis; a vector that is no permutation, does not fit its axis, moves what may not
            move, mixes groups or takes blocks apart; or two axes that contradict each other.
    """
    claims = _claims(groups, perms, axes_to_perm, model)
    found = {group.name: _permutation(group, claims) for group in groups}
    stated = {group.name for group in groups for axis in group.axes if (axis.parameter, axis.axis) in claims}
    solved = {name: one[0] for name, one in found.items() if one}
    for family in groups.families():
        _complete_family(family, solved)
    sizes = {name: tuple(tensor.shape) for name, tensor in _tensors(model)[0].items()}
    moved = {key[:2]: index for key, index in axis_indices(groups, solved, sizes).items()}
    for place, claim in claims.items():
        _check(groups, claim, moved.get(place, np.arange(len(claim.vector))), found)
    return solved, [group.name for group in groups if group.axes and group.name not in stated]


@dataclass(frozen=True)
class _Claim:
    """What is said of one axis of a parameter: coordinate i of B' is coordinate `vector[i]` of B."""

    parameter: str
    axis: int
    name: str | None
    vector: Index
    blocks: int

    def __str__(self) -> str:
        said = "that nothing permutes" if self.name is None else f"that {self.name!r} permutes"
        return f"axis {self.axis} of {self.parameter}, {said},"


def _claims(
    groups: PermutationGroups, perms: Mapping[str, object], axes_to_perm: AxesToPerm, model: nn.Module
) -> dict[tuple[str, int], _Claim]:
    tensors, first_names = _tensors(model)
    blocks = {(axis.parameter, axis.axis): axis.blocks for group in groups for axis in group.axes}
    for key, names in axes_to_perm.items():
        if not isinstance(key, str):
            raise AlignmentError(f"axes_to_perm has {shown(key)} for the name of a parameter: give a text.")
        plain = isinstance(names, Sequence) and not isinstance(names, str)
        if not plain or not all(isinstance(name, str | None) for name in names):
            raise AlignmentError(
                f"axes_to_perm has {shown(names)} for {key}: give a name or None for each axis, ('P_0', None)."
            )
    used = {name for names in axes_to_perm.values() for name in names if name is not None}
    for name in perms:
        if name not in used:
            text = name if isinstance(name, str) else shown(name)
            raise AlignmentError(
                f"permutation {shown(name)} is on no axis of axes_to_perm: {near_names(text, map(str, used))}"
            )
    claims: dict[tuple[str, int], _Claim] = {}
    for key, names in axes_to_perm.items():
        parameter, names = _in_torch(key, names)
        if parameter not in tensors:
            raise AlignmentError(f"the network has no parameter {shown(parameter)}: {near_names(parameter, tensors)}")
        shape = tensors[parameter].shape
        for axis, name in enumerate(names):
            if axis >= len(shape) and name is not None:
                raise AlignmentError(
                    f"{parameter} has no axis {axis} for {name!r} to permute: its shape is {tuple(shape)}."
                )
            if axis >= len(shape) or (name is not None and perms.get(name) is None):
                continue
            place = first_names[parameter], axis
            count = blocks.get(place, 1)
            vector = np.arange(shape[axis] * count) if name is None else _vector(name, perms[name])
            if len(vector) != shape[axis] * count:
                raise AlignmentError(
                    f"permutation {name!r} is for {len(vector)} units and axis {axis} of {parameter} has "
                    f"{shape[axis] * count}: give one that fits, or put its name on the axis that it belongs to."
                )
            claim = _Claim(parameter, axis, name, vector, count)
            if not _agree(claim, claims.setdefault(place, claim).vector):
                raise _contradiction(claim, claims[place])
    return claims


def _permutation(group: Group, claims: Mapping[tuple[str, int], _Claim]) -> tuple[Index, _Claim] | None:
    """The permutation of a group as the first vector on one of its axes states it."""
    for axis in group.axes:
        claim = claims.get((axis.parameter, axis.axis))
        if claim is None or claim.name is None:
            continue
        unit_at = np.full(len(claim.vector), -1)
        unit_at[axis.index] = np.arange(group.size)[:, None]
        here = axis.index[:, 0]
        perm = unit_at[claim.vector[here]]
        for place in np.flatnonzero(perm < 0)[:1]:
            raise AlignmentError(
                f"{claim} gets unit {claim.vector[here[place]]} at place {here[place]}, which are not interchangeable: permute "
                f"the {group.size} units of group {group.name} among themselves."
            )
        return perm, claim
    return None


def _complete_family(family: Sequence[Group], solved: dict[str, Index]) -> None:
    """Give every group of a family its permutation, and make sure that blocks stay whole and are exchanged alike."""
    outers: dict[str, Index] = {}
    for group in family:
        if group.axes:
            perm = solved.setdefault(group.name, np.arange(group.size))
            outer = perm.reshape(group.blocks, -1) // (group.size // group.blocks)
            if (outer != outer[:, :1]).any():
                raise AlignmentError(
                    f"the permutation of {group.name} takes apart its {group.blocks} blocks of {group.size // group.blocks} "
                    "units: move heads and convolution groups whole, and units within them."
                )
            outers[group.name] = outer[:, 0]
    for name, outer in outers.items():
        first = next(iter(outers))
        if not np.array_equal(outer, outers[first]):
            raise AlignmentError(
                f"the blocks of {first} and of {name} must be exchanged alike and are not: give both one order of blocks."
            )
    for group in family:
        solved.setdefault(group.name, next(iter(outers.values()), np.arange(group.size)))


def _check(
    groups: PermutationGroups, claim: _Claim, moved: Index, found: Mapping[str, tuple[Index, _Claim] | None]
) -> None:
    """Make sure that an axis moves as is said of it."""
    if _agree(claim, moved):
        return
    (slot, *_) = np.flatnonzero(claim.vector != moved)
    for group in groups:
        for axis in group.axes:
            if (axis.parameter, axis.axis) == (claim.parameter, claim.axis) and (axis.index == slot).any():
                source = found[group.name]
                if source is not None and source[1] is not claim:
                    raise _contradiction(claim, source[1])
                raise AlignmentError(
                    f"{claim} tears the units of group {group.name} apart, of which each has several places there: move them "
                    "together."
                )
    reasons = [pin.reason for pin in groups.pinned if (pin.parameter, pin.axis) == (claim.parameter, claim.axis)]
    raise AlignmentError(
        f"{claim} has units that may not move, {slot} the first ({reasons[0] if reasons else 'they are in no group'}): "
        "leave them at their places."
    )


def _agree(claim: _Claim, moved: Index) -> bool:
    """Whether an axis moves as is said. Nothing on the columns of a grouped convolution: they stay within their blocks."""
    if claim.name is None and claim.blocks > 1:
        columns = len(moved) // claim.blocks
        return np.array_equal(moved % columns, claim.vector % columns)
    return np.array_equal(moved, claim.vector)


def _vector(name: str, given: object) -> Index:
    try:
        vector: NDArray = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (ValueError, TypeError, OverflowError, RecursionError):
        vector = np.zeros(0)
    if vector.ndim != 1 or not np.issubdtype(vector.dtype, np.integer):
        raise AlignmentError(
            f"permutation {name!r} is no vector of whole numbers (shape {vector.shape}, {vector.dtype}): give the indices, "
            "for a matrix its argmax(1)."
        )
    if not np.array_equal(np.sort(vector), np.arange(len(vector))):
        raise AlignmentError(f"{name!r} is no permutation: give every number from 0 to {len(vector) - 1} exactly once.")
    return vector.astype(np.int64)


def _in_torch(key: str, names: Sequence[str | None]) -> tuple[str, Sequence[str | None]]:
    """Flax's `a/b/kernel` (h, w, in, out) as torch's `a.b.weight` (out, in, h, w); torch's names as they are."""
    if "/" not in key:
        return key, names
    module, _, leaf = key.rpartition("/")
    if leaf == "kernel":
        names = *reversed(names[-2:]), *names[:-2]
    return f"{module.replace('/', '.')}.{FLAX.get(leaf, leaf)}", names


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every parameter and buffer by each of its names, and the first name of each, by which groups know it."""
    tensors = named_tensors(model, every_name=True)
    first: dict[int, str] = {}
    return tensors, {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def _contradiction(claim: _Claim, other: _Claim) -> AlignmentError:
    return AlignmentError(
        f"{claim} carries the units of axis {other.axis} of {other.parameter} ({other.name!r}) but moves otherwise: "
        "give both axes one permutation."
    )
