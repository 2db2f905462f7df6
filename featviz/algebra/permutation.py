"""Apply permutations to parameters: groups, one index vector per group -> permuted tensors.

The one convention: `B'[i] = B[perm[i]]`, so `perm[i]` is the unit of B that stands at place i.
"""

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from featviz.algebra.groups import Group, GroupAxis, Index

AxisIndex = dict[tuple[str, int, int | None, int], Index]  # parameter, axis, block, number of blocks


def axis_indices(
    groups: Iterable[Group],
    perms: Mapping[str, Index],
    sizes: Mapping[str, tuple[int, ...]],
    skip: GroupAxis | None = None,
) -> AxisIndex:
    """For every axis (or block of one) of the parameters in `sizes` the coordinates to gather, without the axis `skip`."""
    indices: AxisIndex = {}
    for group in groups:
        perm = perms.get(group.name)
        if perm is None:
            continue
        for axis in group.axes:
            if axis is skip or axis.parameter not in sizes:
                continue
            key = (axis.parameter, axis.axis, axis.block, axis.blocks)
            if key not in indices:
                indices[key] = np.arange(sizes[axis.parameter][axis.axis])
            indices[key][axis.index] = axis.index[perm]
    return indices


def gather(tensor: Tensor, parameter: str, indices: AxisIndex) -> Tensor:
    """The tensor with every axis gathered; the blocks of a grouped convolution's inputs one by one."""
    own = {key[1:]: index for key, index in indices.items() if key[0] == parameter}
    for (axis, block, _), index in own.items():
        if block is None:
            tensor = tensor.index_select(axis, torch.from_numpy(index).to(tensor.device))
    for (axis, block, blocks), index in own.items():
        if block is not None:
            rows = tensor.shape[0] // blocks
            span = slice(block * rows, (block + 1) * rows)
            part = tensor[span].index_select(axis, torch.from_numpy(index).to(tensor.device))
            tensor = torch.cat([tensor[: span.start], part, tensor[span.stop :]])
    return tensor


def permute_module(model: nn.Module, groups: Iterable[Group], perms: Mapping[str, Index]) -> nn.Module:
    """A copy of the network with every group permuted; tensors that modules share stay shared.

    Raises:
        KeyError: a group's parameter is missing from the network.
    """
    permuted = copy.deepcopy(model)
    tensors = dict([*permuted.named_parameters(), *permuted.named_buffers()])
    sizes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    indices = axis_indices(groups, perms, sizes)
    with torch.no_grad():
        for name in {key[0] for key in indices}:
            tensors[name].copy_(gather(tensors[name], name, indices))
    return permuted
