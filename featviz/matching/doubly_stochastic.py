"""Soft permutations: doubly stochastic matrices in place of permutations, through which gradients flow.

parameters, one matrix (n, n) per group -> softly permuted parameters. Row i of a matrix says from which units place i is
mixed, so that the matrix of a permutation, `eye(n)[perm]`, does what `B'[i] = B[perm[i]]` does. Only for groups without blocks:
the mixtures of block permutations are no matrices of this kind.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from featviz.errors import AlignmentError
from featviz.matching.assignment import assign
from featviz.symmetry.groups import Group, GroupAxis, Index, PermutationGroups

Soft = Mapping[str, Tensor]  # group -> (n, n), float64


def refuse_blocks(groups: PermutationGroups, what: str) -> None:
    """Raises:
    AlignmentError: a group has blocks, with its name.
    """
    blocked = next((group for group in groups if group.blocks > 1 or group.family), None)
    if blocked:
        raise AlignmentError(
            f"{what} cannot mix units in blocks, and group {blocked.name} has {blocked.blocks}: use method='weights'."
        )


def matrix(perm: Index) -> Tensor:
    """The matrix (n, n) of a permutation."""
    return torch.eye(len(perm), dtype=torch.float64)[torch.from_numpy(perm)]


def project(soft: Soft) -> dict[str, Index]:
    """The permutations with the largest share in soft ones."""
    return {name: assign(value.detach().numpy(), name) for name, value in soft.items()}


def sinkhorn(logits: Tensor, iterations: int = 20) -> Tensor:
    """exp(logits) (n, n) scaled to rows and columns that sum to 1, in the log domain (Sinkhorn & Knopp 1967).

    The rows come last: they sum to 1 exactly, the columns as far as `iterations` bring them.
    """
    for _ in range(iterations):
        logits = logits - logits.logsumexp(0, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


def softly_permuted(tensor: Tensor, parameter: str, owners: Iterable[Group], soft: Soft) -> Tensor:
    """A parameter with every axis mixed by the matrices of the groups that own coordinates of it."""
    for group in owners:
        for axis in group.axes:
            if axis.parameter == parameter:
                tensor = mixed(tensor, soft[group.name], axis)
    return tensor


def mixed(tensor: Tensor, weights: Tensor, axis: GroupAxis) -> Tensor:
    """Coordinate index[i, m] becomes the sum over j of weights[i, j] * coordinate index[j, m]."""
    if axis.blocks > 1:  # (blocks * rows, columns, ...) -> (blocks * columns, rows, ...)
        flat = tensor.unflatten(0, (axis.blocks, -1)).transpose(1, 2).flatten(0, 1)
    else:
        flat = tensor.movedim(axis.axis, 0)
    size, copies = axis.index.shape
    own = torch.from_numpy(np.ascontiguousarray(axis.index.reshape(-1)))
    rows = (weights @ flat[own].reshape(size, -1)).reshape(size * copies, *flat.shape[1:])
    flat = flat.index_copy(0, own, rows)
    if axis.blocks > 1:
        return flat.unflatten(0, (axis.blocks, -1)).transpose(1, 2).flatten(0, 1)
    return flat.movedim(0, axis.axis)
