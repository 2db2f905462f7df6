"""Similarities of weights during a coordinate descent, kept and brought up to date by what has moved.

group, permutations of the other groups -> similarity (n, n) of A's and B's units: inner products of all that they own.

The similarity of a group is a sum over the axes that it owns. On the axis of a convolution's outputs it is
sum over inputs k of A[i, k] B[j, perm[k]]: if the permutation of the inputs changes at few k, only those terms change, and

    similarity += A[:, changed] (B[:, perm_new[changed]] - B[:, perm_old[changed]])^T

is the same sum for a fraction of the products. Late sweeps move few units, and a group whose neighbours have not moved at all
has nothing new to assign.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.unit_axes import unit_rows
from featviz.symmetry.groups import Group, GroupAxis, Index
from featviz.symmetry.permute import AxisIndex, gather

CHUNK = 2**21  # elements of B gathered at once: 8 MiB of float32 stay in the cache, and are not allocated anew


class SimilarityCache:
    """The similarity of every group for the permutations at which it was last asked for, in the weights' precision.

    Args:
        weights: of both networks.
    """

    def __init__(self, weights: ComparedWeights) -> None:
        self.weights = weights
        self._total: dict[str, Tensor] = {}
        self._indices: dict[tuple[str, str, int], AxisIndex] = {}  # of an axis' term: how the other axes were permuted
        self._terms: dict[tuple[str, str, int], Tensor] = {}  # of axes that are always computed as a whole

    def similarity(self, group: Group, perms: Mapping[str, Index], without: Iterable[str] = ()) -> tuple[Tensor, bool]:
        """The similarity (n, n), and whether it has changed since this group was last asked for.

        Args:
            perms: of the other groups; parameters shared with a group that is not in it do not count.
            without: parameters that do not count either, always the same for one group.
        """
        changed = group.name not in self._total
        if changed:
            self._total[group.name] = torch.zeros(group.size, group.size, dtype=self.weights.dtype)
        total = self._total[group.name]
        vectors = []
        for axis in self.weights.known_axes(group, perms):
            if axis.parameter not in without:
                changed |= self._update(total, group.name, axis, perms, vectors)
        if vectors:  # biases, scales and shifts: one product for all of them
            rows_a, rows_b = (torch.cat(side, 1) for side in zip(*vectors, strict=True))
            total.addmm_(rows_a, rows_b.T)
        return total, changed

    def _update(
        self,
        total: Tensor,
        group: str,
        axis: GroupAxis,
        perms: Mapping[str, Index],
        vectors: list[tuple[Tensor, Tensor]],
    ) -> bool:
        """Bring one axis' term of the sum up to date; whether it has changed. Rows of vectors are put into `vectors`."""
        key = (group, axis.parameter, axis.axis)
        old = self._indices.get(key)
        new = self._indices[key] = self.weights.other_axes(axis, perms)
        new.pop(
            (axis.parameter, axis.axis, axis.blocks), None
        )  # another group's part of this axis: rows that are not here
        if old is not None and all(np.array_equal(index, old[at]) for at, index in new.items()):
            return False
        if axis.blocks == 1 and len(new) == 1 and next(iter(new))[2] == 1:
            ((_, other, _), index), *_ = new.items()
            weights = self.weights.by_other_axis(group, axis, other)
            _add_changes(total, *weights, index, None if old is None else next(iter(old.values())))
        elif self.weights.a[axis.parameter].dim() == 1:
            vectors.append(
                (unit_rows(self.weights.a[axis.parameter], axis), unit_rows(self.weights.b[axis.parameter], axis))
            )
        else:
            self._replace_term(total, key, axis, new)
        return True

    def _replace_term(self, total: Tensor, key: tuple[str, str, int], axis: GroupAxis, indices: AxisIndex) -> None:
        """Compute the term of an axis anew, and put it in the place of the old one."""
        name = axis.parameter
        rows_b = unit_rows(gather(self.weights.b[name], name, indices), axis)
        term = unit_rows(self.weights.a[name], axis) @ rows_b.T
        total += term if key not in self._terms else term - self._terms[key]
        if indices:  # a term that depends on no other group is never replaced
            self._terms[key] = term


def _add_changes(total: Tensor, a: Tensor, b: Tensor, new: Index, old: Index | None) -> None:
    """Add to (n, n) what a parameter's term changes where the permutation of its other axis goes from `old` to `new`.

    Args:
        a, b: (m, k, n), as of `ComparedWeights.by_other_axis`.
        new, old: (m,); without `old` the whole term is added.
    """
    changed = np.arange(len(new)) if old is None else np.flatnonzero(new != old)
    step = max(1, CHUNK // (a.shape[1] * a.shape[2]))
    for first in range(0, len(changed), step):
        here = changed[first : first + step]
        rows_b = b.index_select(0, torch.from_numpy(new[here]))
        if old is not None:
            rows_b -= b.index_select(0, torch.from_numpy(old[here]))
        rows_a = a[first : first + step] if old is None else a.index_select(0, torch.from_numpy(here))
        total.addmm_(rows_a.flatten(0, 1).T, rows_b.flatten(0, 1))
