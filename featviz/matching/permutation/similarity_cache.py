"""Similarities of weights during a coordinate descent, kept and brought up to date by what has moved.

group, permutations of the other groups -> similarity (n, n) of A's and B's units, as `NormalizedWeights.similarity` gives it.

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

from featviz.matching.permutation.normalized_weights import NormalizedWeights
from featviz.matching.unit_axes import unit_rows
from featviz.symmetry.groups import Group, GroupAxis, Index
from featviz.symmetry.permute import AxisIndex, gather


class SimilarityCache:
    """The similarity of every group for the permutations at which it was last asked for.

    Args:
        weights: of both networks.
        dtype: of the products and sums. float32 is twice as fast as float64 and errs by about 1e-6 of a similarity.
    """

    def __init__(self, weights: NormalizedWeights, dtype: torch.dtype = torch.float64) -> None:
        self.weights, self.dtype = weights, dtype
        self.rounding = (
            0.0 if dtype == torch.float64 else 1e-7
        )  # of the objective, relative: a smaller gain may be none
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
        total = self._total.setdefault(group.name, torch.zeros(group.size, group.size, dtype=self.dtype))
        for axis in self.weights.known_axes(group, perms):
            if axis.parameter not in without:
                changed |= self._update(total, group.name, axis, perms)
        return total, changed

    def _update(self, total: Tensor, group: str, axis: GroupAxis, perms: Mapping[str, Index]) -> bool:
        """Bring one axis' term of the sum up to date; whether it has changed."""
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
            self._add_changed_columns(total, axis, other, index, None if old is None else next(iter(old.values())))
        else:
            self._replace_term(total, key, axis, new)
        return True

    def _add_changed_columns(self, total: Tensor, axis: GroupAxis, other: int, new: Index, old: Index | None) -> None:
        """Add the change of the term of an axis whose parameter is permuted along one other axis, from `old` to `new`."""
        a, b = self.weights.a[axis.parameter], self.weights.b[axis.parameter]
        if old is None:
            rows_a, rows_b = a, b.index_select(other, torch.from_numpy(new))
        else:
            changed = np.flatnonzero(new != old)
            rows_a = a.index_select(other, torch.from_numpy(changed))
            before, after = (b.index_select(other, torch.from_numpy(index[changed])) for index in (old, new))
            rows_b = after - before
        total.addmm_(unit_rows(rows_a, axis).to(self.dtype), unit_rows(rows_b, axis).to(self.dtype).T)

    def _replace_term(self, total: Tensor, key: tuple[str, str, int], axis: GroupAxis, indices: AxisIndex) -> None:
        """Compute the term of an axis anew, and put it in the place of the old one."""
        name = axis.parameter
        rows_b = unit_rows(gather(self.weights.b[name], name, indices), axis)
        term = unit_rows(self.weights.a[name], axis).to(self.dtype) @ rows_b.to(self.dtype).T
        total += term if key not in self._terms else term - self._terms[key]
        if indices:  # a term that depends on no other group is never replaced
            self._terms[key] = term
