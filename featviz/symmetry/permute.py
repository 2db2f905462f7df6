"""Apply permutations to parameters: groups, one index vector per group -> permuted tensors.

The one convention: `B'[i] = B[perm[i]]`: `perm[i]` is the unit of B that becomes unit i of B'.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from featviz.isolation import copy_of
from featviz.symmetry.groups import Group, GroupAxis, Index, LayerUnits, PermutationGroups
from featviz.weights.tensors import named_tensors

AxisIndex = dict[tuple[str, int, int], Index]  # parameter, axis, number of blocks


def permutation_of_blocks(outer: Index, inner: Index) -> Index:
    """Permutation of a group in blocks: unit i of block j becomes unit `inner[j, i]` of block `outer[j]`.

    Args:
        outer: (blocks,) permutation of the blocks.
        inner: (blocks, size of a block), a permutation in each row.
    """
    return (outer[:, None] * inner.shape[1] + inner).reshape(-1)


def permutation_of_whole_blocks(outer: Index, size: int) -> Index:
    """Permutation of a group of `size` units whose blocks are exchanged as they are."""
    return permutation_of_blocks(outer, np.tile(np.arange(size // len(outer)), (len(outer), 1)))


def random_permutations(groups: PermutationGroups, generator: np.random.Generator) -> dict[str, Index]:
    """One permutation of every group, drawn at random from those that are allowed."""
    perms: dict[str, Index] = {}
    for family in groups.families():
        outer = generator.permutation(family[0].blocks)
        for group in family:
            inner = [generator.permutation(group.size // group.blocks) for _ in outer]
            perms[group.name] = permutation_of_blocks(outer, np.stack(inner))
    return perms


def axis_indices(
    groups: Iterable[Group],
    perms: Mapping[str, Index],
    sizes: Mapping[str, tuple[int, ...]],
    override: tuple[GroupAxis, Index | None] | None = None,
) -> AxisIndex:
    """For every axis of the parameters in `sizes` the indices to gather; axes that no group moves are left out.

    Args:
        perms: the permutation of each group by its name; a group without one stays as it is.
        sizes: the shapes of the parameters to permute, by name.
        override: an axis, and the permutation for it in place of its group's (None leaves the axis as it is).
    """
    indices: AxisIndex = {}
    for group in groups:
        for axis in group.axes:
            perm = override[1] if override and axis is override[0] else perms.get(group.name)
            if perm is None or axis.parameter not in sizes:
                continue
            key = (axis.parameter, axis.axis, axis.blocks)
            if key not in indices:
                indices[key] = np.arange(sizes[axis.parameter][axis.axis] * axis.blocks)
            indices[key][axis.index] = axis.index[perm]
    return indices


def gather(tensor: Tensor, parameter: str, indices: AxisIndex) -> Tensor:
    """The tensor with its rows gathered, then the other axes, then a grouped convolution's columns within each block.

    Args:
        parameter: the tensor's name in `indices`.
    """
    own = sorted((key[2], key[1], index) for key, index in indices.items() if key[0] == parameter)
    for blocks, axis, index in own:
        if blocks == 1 and axis == tensor.dim() - 1:  # `gather` is up to 7 times as fast here: it runs in threads
            tensor = tensor.gather(axis, torch.from_numpy(index).to(tensor.device).expand_as(tensor))
        elif blocks == 1:
            tensor = tensor.index_select(axis, torch.from_numpy(index).to(tensor.device))
        else:  # the rows were gathered with their blocks
            rows, columns = tensor.shape[:2]
            within = torch.from_numpy(index % columns).to(tensor.device).view(blocks, columns)
            within = within.repeat_interleave(rows // blocks, 0).view(rows, columns, *(1,) * (tensor.dim() - 2))
            tensor = tensor.take_along_dim(within, 1)
    return tensor


def layer_permutation(units: LayerUnits, groups: Sequence[Group], perms: Mapping[str, Index]) -> Index:
    """Where each unit of a layer comes from, (width,): unit u of the permuted network is unit `result[u]` of the
    network.

    Args:
        groups: all groups of the network, as `units.group` counts them.
        perms: the permutation of each group by its name; a group without one stays as it is.
    """
    result = np.arange(units.width)
    for number in np.unique(units.group[units.group >= 0]).tolist():
        perm = perms.get(groups[number].name)
        at = np.flatnonzero(units.group == number)
        elements = np.unique(units.element[at])
        if perm is None or not np.isin(perm[elements], elements).all():
            continue
        at = at[np.argsort(units.element[at], kind="stable")].reshape(len(elements), -1)
        result[at] = at[np.searchsorted(elements, perm[elements])]
    return result


def permute_module(model: nn.Module, groups: Iterable[Group], perms: Mapping[str, Index]) -> nn.Module:
    """A copy of the network with every group permuted; tensors that modules share stay shared.

    Raises:
        KeyError: a group's parameter is missing from the network.
    """
    tensors = named_tensors(model)
    sizes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    indices = axis_indices(groups, perms, sizes)
    permuted: dict[int, object] = {}
    for name in {key[0] for key in indices}:
        tensor = tensors[name]
        gathered = gather(tensor.detach(), name, indices)
        if gathered.stride() != tensor.stride():  # the layout of a network in channels_last stays
            gathered = torch.empty_like(tensor.detach()).copy_(gathered)
        if isinstance(tensor, nn.Parameter):
            gathered = type(tensor)(gathered, tensor.requires_grad)
        permuted[id(tensor)] = gathered
    return copy_of(model, permuted)
