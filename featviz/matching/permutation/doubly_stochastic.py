"""Doubly stochastic matrices in place of permutations, through which gradients flow.

parameters, one matrix (n, n) per group -> parameters whose units are weighted means of B's. Row i of a matrix says from which
units unit i is made; the matrix of a permutation, `eye(n)[perm]`, does what `B'[i] = B[perm[i]]` does. Only for groups without
blocks: weighted means of block permutations are not matrices of this kind.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from featviz.errors import AlignmentError
from featviz.matching.assignment import assign
from featviz.matching.unit_axes import combine_rows
from featviz.symmetry.groups import Group, Index, PermutationGroups

Matrices = Mapping[str, Tensor]  # group -> doubly stochastic (n, n), float64


def refuse_blocks(groups: PermutationGroups, what: str) -> None:
    """Raises:
    AlignmentError: a group has blocks, with its name.
    """
    blocked = next((group for group in groups if group.blocks > 1 or group.family), None)
    if blocked:
        raise AlignmentError(
            f"{what} cannot average units in blocks, and group {blocked.name} has {blocked.blocks}: use method='weights'."
        )


def permutation_matrix(perm: Index) -> Tensor:
    """The matrix (n, n) of a permutation."""
    return torch.eye(len(perm), dtype=torch.float64)[torch.from_numpy(perm)]


def nearest_permutations(matrices: Matrices) -> dict[str, Index]:
    """The permutations with the largest sum of entries of the matrices."""
    return {name: assign(value.detach().numpy(), name) for name, value in matrices.items()}


def sinkhorn_normalize(logits: Tensor, iterations: int = 20) -> Tensor:
    """exp(logits) (n, n) scaled to rows and columns that sum to 1, in the log domain (Sinkhorn & Knopp 1967).

    The rows come last: they sum to 1 exactly, the columns as far as `iterations` bring them.
    """
    for _ in range(iterations):
        logits = logits - logits.logsumexp(0, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


def averaged_parameter(tensor: Tensor, parameter: str, owners: Iterable[Group], matrices: Matrices) -> Tensor:
    """A parameter with the units on every axis averaged by the matrices of the groups that own coordinates of it."""
    for group in owners:
        for axis in group.axes:
            if axis.parameter == parameter:
                tensor = combine_rows(tensor, matrices[group.name], axis)
    return tensor
