"""Merges that are no permutations: for every group how merged units are made of the parents' units, and read by them.

    merged tensor = sum over parents p of  merge_p (on axes that produce units) . W_p . split_p (on axes that consume them)

`merge` (m, n) carries the weights of the parents' units, so a matched pair has 1/2 and 1/2; `split` (n, m) says how a parent's
unit is read off the merged ones. A tensor that produces no units of a group is a plain mean of what is left. For a
permutation (merge I/2 and P/2, split I and P^T) this is exactly "permute and average". The same form holds ZipIt (Stoica et
al. 2023), CCA Merge (Horoi et al. 2024) and OT fusion (Singh & Jaggi 2020).

BatchNorm's scales, shifts and running means are mixed as a bias is; variances with |merge|, so that they stay positive.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from featviz.errors import AlignmentError
from featviz.isolation import copy_of
from featviz.matching.assignment import Floats
from featviz.symmetry.groups import GroupAxis, Index, LayerUnits, PermutationGroups
from featviz.tensors import named_tensors

PARENTS = ("A", "B")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Pair = tuple[Floats, Floats]  # of A, of B


@dataclass(frozen=True)
class Mixing:
    """Per group: `merge` (m, n) and `split` (n, m) of A and of B, float64, with m = n."""

    merge: Mapping[str, Pair]
    split: Mapping[str, Pair]

    def partitions(self, group: str) -> bool:
        """Whether every unit of a parent belongs to exactly one merged unit (ZipIt, permutations)."""
        return all(np.isin(s, (0, 1)).all() and (s.sum(1) == 1).all() for s in self.split[group])


@dataclass(frozen=True)
class Member:
    """A parent's unit in a merged unit: its model ("A" or "B"), its number in the layer, its weight in the mean."""

    model: str
    unit: int
    weight: float


def of_permutations(perms: Mapping[str, Index]) -> Mixing:
    """The mixing that permutes B and averages."""
    merge, split = {}, {}
    for group, perm in perms.items():
        eye = np.eye(len(perm))
        merge[group] = eye / 2, eye[perm] / 2
        split[group] = eye, eye[perm].T
    return Mixing(merge, split)


def mix_modules(model_a: nn.Module, model_b: nn.Module, groups: PermutationGroups, mixing: Mixing) -> nn.Module:
    """The merged network; integer buffers are A's, tensors that modules share stay shared."""
    merged = copy_of(model_a)
    others = named_tensors(model_b)
    on = axes_by_parameter(groups)
    with torch.no_grad():
        for name, tensor in named_tensors(merged).items():
            if tensor.is_floating_point() or tensor.is_complex():
                owner = module_of(merged, name)
                parts = [
                    parent_share(source, parent, on.get(name, []), owner, name, mixing)
                    for parent, source in enumerate((tensor, others[name]))
                ]
                tensor.copy_(parts[0] + parts[1])
    return merged


def parent_share(
    tensor: Tensor,
    parent: int,
    axes: list[tuple[str, GroupAxis]],
    owner: nn.Module,
    name: str,
    mixing: Mixing,
    share: float = 0.5,
) -> Tensor:
    """One parent's part of a merged tensor, at double precision; `share` of what belongs to no group's units."""
    result = tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)
    shared = False
    for place in sorted({axis.axis for _, axis in axes}):
        consumes = direction(owner, name, tensor, place) == "consumes"
        matrix = np.eye(tensor.shape[place]) * (1 if consumes or shared else share)
        for group, axis in axes:
            if axis.axis == place:
                block = mixing.split[group][parent].T if consumes else mixing.merge[group][parent]
                for column in axis.index.T:
                    matrix[np.ix_(column, column)] = block
        shared = shared or not consumes
        if name.endswith("running_var"):
            matrix = np.abs(matrix)
        weights = torch.from_numpy(matrix).to(result)
        first = result.movedim(place, 0)
        result = (weights @ first.reshape(len(first), -1)).view(first.shape).movedim(0, place)
    return result if shared else result * share


def check_mixable(model: nn.Module, groups: PermutationGroups, mixing: Mixing | None, method: str) -> None:
    """Make sure that units can be mixed wherever they stand; without a mixing only what no mixing could do is looked at.

    Raises:
        AlignmentError: naming the method, the parameter and the group.
    """
    remedy = "use method 'weights' or 'activations'"
    tensors = named_tensors(model)
    for group in groups:
        for axis in group.axes:
            name, tensor = axis.parameter, tensors[axis.parameter]
            owner, roles = module_of(model, name), _roles(model, name, tensor, axis.axis)
            where = f"method {method!r} cannot merge {name} (group {group.name})"
            if group.blocks > 1 or group.family or axis.blocks > 1:
                raise AlignmentError(f"{where}: its units stand in blocks that only move as wholes; {remedy}.")
            if None in roles or len(roles) > 1:
                kind = type(owner).__name__
                raise AlignmentError(
                    f"{where}: whether axis {axis.axis} of {kind}'s tensor makes units or reads them is not known; {remedy}."
                )
            depthwise = isinstance(owner, CONVOLUTIONS) and owner.groups > 1 and tensor.dim() > 1
            if depthwise and mixing is not None and not mixing.partitions(group.name):
                raise AlignmentError(f"{where}: a depthwise kernel has no linear combination of channels; {remedy}.")


def direction(owner: nn.Module, name: str, tensor: Tensor, axis: int) -> str | None:
    """Whether an axis of a module's tensor "produces" units or "consumes" them; None where that is not known."""
    place = axis % tensor.dim()
    if tensor.dim() == 1:
        return "produces"
    if isinstance(owner, (nn.Linear, *CONVOLUTIONS)) and name.rpartition(".")[2] == "weight":
        return "produces" if place == 0 else "consumes" if place == 1 else None
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        return "produces" if place == tensor.dim() - 1 else None
    return "produces" if tensor.numel() == tensor.shape[place] else None  # a scale or shift per unit


def _roles(model: nn.Module, name: str, tensor: Tensor, axis: int) -> set[str | None]:
    """What an axis is for, in every module that has the tensor (a tied embedding makes units and reads them)."""
    named = named_tensors(model, every_name=True).items()
    return {direction(module_of(model, other), other, tensor, axis) for other, same in named if same is tensor}


def axes_by_parameter(groups: PermutationGroups) -> dict[str, list[tuple[str, GroupAxis]]]:
    """Parameter -> (group name, axis) of everything that moves in it."""
    found: dict[str, list[tuple[str, GroupAxis]]] = {}
    for group in groups:
        for axis in group.axes:
            found.setdefault(axis.parameter, []).append((group.name, axis))
    return found


def module_of(model: nn.Module, parameter: str) -> nn.Module:
    return model.get_submodule(parameter.rpartition(".")[0])


def layer_rows(groups: PermutationGroups, mixing: Mixing, units: LayerUnits, parent: int) -> Floats:
    """(width, width): how the units of a layer are made of one parent's units of that layer.

    The k-th copy of an element is made of k-th copies. A unit that may not move has 1/2 of itself. A layer that shows only
    some of a group's units (a slice) lacks the others' weights.
    """
    rows = np.zeros((units.width, units.width))
    fixed = np.flatnonzero(units.group < 0)
    rows[fixed, fixed] = 0.5
    for number, copies in _copies(units):
        matrix = mixing.merge[groups.groups[number].name][parent]
        elements = units.element[copies]
        rows[np.ix_(copies, copies)] = matrix[np.ix_(elements, elements)]
    return rows


def members_of(groups: PermutationGroups, mixing: Mixing, units: LayerUnits, unit: int) -> tuple[Member, ...]:
    """The units of a layer that make up its merged unit, the largest |weight| first: the row of `layer_rows`."""
    if units.group[unit] < 0:
        return Member("A", unit, 0.5), Member("B", unit, 0.5)
    copies = next(channels for _, channels in _copies(units) if unit in channels)
    found = []
    for model, matrix in zip(PARENTS, mixing.merge[groups.groups[units.group[unit]].name], strict=True):
        row = matrix[units.element[unit], units.element[copies]]
        found += [Member(model, int(copies[at]), float(row[at])) for at in np.flatnonzero(row)]
    return tuple(sorted(found, key=lambda member: -abs(member.weight)))


def _copies(units: LayerUnits) -> Iterator[tuple[int, Index]]:
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
