"""What the units of a group own in a parameter: a tensor, an axis of a group -> one row per unit, and back.

Columns of a grouped convolution's weight are counted through its blocks of rows (`GroupAxis`), so that the weight
(blocks * rows, columns, ...) is taken as (blocks * columns, rows, ...).
"""

import numpy as np
import torch
from torch import Tensor

from featviz.symmetry.groups import GroupAxis, PermutationGroups


def axis_first(tensor: Tensor, axis: GroupAxis) -> Tensor:
    """(coordinates of the axis, everything else)."""
    if axis.blocks > 1:
        return tensor.unflatten(0, (axis.blocks, -1)).transpose(1, 2).flatten(0, 1)
    return tensor.movedim(axis.axis, 0)


def axis_back(tensor: Tensor, axis: GroupAxis) -> Tensor:
    """The inverse of `axis_first`."""
    if axis.blocks > 1:
        return tensor.unflatten(0, (axis.blocks, -1)).transpose(1, 2).flatten(0, 1)
    return tensor.movedim(0, axis.axis)


def unit_rows(tensor: Tensor, axis: GroupAxis) -> Tensor:
    """(units, everything that each owns on this axis)."""
    flat = axis_first(tensor, axis)
    flat = flat.flatten(1) if flat.dim() > 1 else flat[:, None]
    if not owns_all_in_order(axis, len(flat)):
        flat = flat[torch.from_numpy(axis.index.reshape(-1))]
    return flat.reshape(len(axis.index), -1)


def owns_all_in_order(axis: GroupAxis, length: int) -> bool:
    """Whether the group's units own all `length` indices of their axis, one unit after the other, as most groups do."""
    own = axis.index.reshape(-1)
    return len(own) == length and bool((np.diff(own) == 1).all())


def combine_rows(tensor: Tensor, weights: Tensor, axis: GroupAxis) -> Tensor:
    """The tensor with unit i's rows replaced by the sum over j of weights[i, j] * unit j's; weights is (units, units)."""
    rows = axis_first(tensor, axis)
    size, copies = axis.index.shape
    own = torch.from_numpy(np.ascontiguousarray(axis.index.reshape(-1)))
    combined = (weights @ rows[own].reshape(size, -1)).reshape(size * copies, *rows.shape[1:])
    return axis_back(rows.index_copy(0, own, combined), axis)


def axes_by_parameter(groups: PermutationGroups) -> dict[str, list[tuple[str, GroupAxis]]]:
    """Parameter -> (group name, axis) of everything that moves in it."""
    found: dict[str, list[tuple[str, GroupAxis]]] = {}
    for group in groups:
        for axis in group.axes:
            found.setdefault(axis.parameter, []).append((group.name, axis))
    return found
