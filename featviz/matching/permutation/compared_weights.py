"""The weights of two networks as weight matching compares them, and what permutations of B make of them.

weights of A and of B, groups -> what the units of a group own; objective, the sum over tensors of <A, B'>.

A batch norm makes the scale of every filter before it arbitrary (`PermutationGroups.normalized`), so each such filter (row of
axis 0) is brought to unit norm first, and the vectors of its units (biases, scales, shifts) to a fixed root mean square. All
other weights are compared as they are: there the sum is the plain inner product. Running statistics are left out.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from featviz.matching.assignment import Floats, block_order
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_axes import owns_all_in_order, unit_rows
from featviz.symmetry.groups import Group, GroupAxis, Index, PermutationGroups
from featviz.symmetry.permute import AxisIndex, axis_indices, gather, permutation_of_whole_blocks

VECTOR_NORM = 0.1  # root mean square of a normalised bias, scale or shift; filters have norm 1
BLOCK = 2**20  # elements that are multiplied at once in float64


def scale_free_parameters(groups: PermutationGroups, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Names of parameters that are compared without their scale: filters before a batch norm, and vectors of their units."""
    units = [g for g in groups if any(a.axis == 0 and a.parameter in groups.normalized for a in g.axes)]
    vectors = {a.parameter for group in units for a in group.axes if len(shapes.get(a.parameter, ())) == 1}
    return groups.normalized | vectors


def comparable_groups(groups: PermutationGroups, scale_free: bool) -> PermutationGroups:
    """The groups, with every filter's scale taken as arbitrary where `scale_free`."""
    if not scale_free:
        return groups
    filters = frozenset(axis.parameter for group in groups for axis in group.axes if axis.axis == 0)
    return replace(groups, normalized=filters)


def compared(tensor: Tensor, dtype: torch.dtype, scale_free: bool) -> Tensor:
    """A parameter on the CPU. Scale-free, filters have unit norm, and vectors the root mean square `VECTOR_NORM`."""
    tensor = tensor.detach().cpu()
    tensor = tensor.clone() if tensor.is_inference() else tensor  # which autograd refuses
    if not scale_free:
        return tensor.to(dtype)
    if tensor.dim() < 2:
        root = tensor.double().square().mean().sqrt().clamp_min(1e-12)
        return (VECTOR_NORM / root * tensor).to(dtype)
    norm = torch.linalg.vector_norm(tensor.flatten(1), dim=1, dtype=torch.float64).clamp_min(1e-12)
    return tensor.to(dtype) / norm.to(dtype).view(-1, *(1,) * (tensor.dim() - 1))


def inner_product(one: Tensor, other: Tensor) -> float:
    """<one, other>, multiplied and summed in float64."""
    pairs = zip(one.flatten().split(BLOCK), other.flatten().split(BLOCK), strict=True)
    return sum(float(torch.dot(x.double(), y.double())) for x, y in pairs)


class ComparedWeights:
    """Parameters `a` and `b` of both networks, by name, and `groups_on`, the groups that permute each.

    They are float64 where a network has float64 weights, else float32.

    Args:
        names_in_b: A's name of a parameter -> B's, where they differ.
        scale_free: True compares all parameters without their scale, False none (the plain inner product); None: those whose
            scale is arbitrary (`scale_free_parameters`).
    """

    def __init__(
        self,
        model_a: nn.Module,
        model_b: nn.Module,
        groups: PermutationGroups,
        names_in_b: Mapping[str, str] | None = None,
        scale_free: bool | None = None,
    ) -> None:
        used: dict[str, list[Group]] = defaultdict(list)
        for group in groups:
            for name in dict.fromkeys(axis.parameter for axis in group.axes):
                used[name].append(group)
        a, b = dict(model_a.named_parameters()), dict(model_b.named_parameters())
        renamed = names_in_b or {}
        self.groups_on = {name: owners for name, owners in used.items() if name in a}
        both = [x for name in self.groups_on for x in (a[name], b[renamed.get(name, name)])]
        self.dtype = torch.float64 if any(x.dtype == torch.float64 for x in both) else torch.float32
        shapes = {name: tuple(a[name].shape) for name in self.groups_on}
        free = scale_free_parameters(groups, shapes) if scale_free is None else self.groups_on if scale_free else ()
        self.a = {name: compared(a[name], self.dtype, name in free) for name in self.groups_on}
        self.b = {name: compared(b[renamed.get(name, name)], self.dtype, name in free) for name in self.groups_on}
        self._sizes = {name: {name: shape} for name, shape in shapes.items()}
        self._by_other_axis: dict[tuple[str, str, int], tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, problem: MatchingProblem, scale_free: bool = False) -> "ComparedWeights":
        """Of the first two networks of a problem.

        Args:
            scale_free: take every filter's scale as arbitrary, as if a batch norm followed each.
        """
        groups = comparable_groups(problem.groups, scale_free)
        return cls(problem.model_a, problem.model_b, groups, problem.names_in_b)

    def permuted(self, name: str, perms: Mapping[str, Index]) -> Tensor:
        """Parameter `name` of B'; groups that are not in `perms` stay as they are."""
        return gather(self.b[name], name, axis_indices(self.groups_on[name], perms, self._sizes[name]))

    def objective(self, perms: Mapping[str, Index], names: Iterable[str] | None = None) -> float:
        """Sum over parameters (all, or those named) of <A, B'>, in float64."""
        names = self.a if names is None else names
        return sum(inner_product(self.a[name], self.permuted(name, perms)) for name in names)

    def norms(self, group: Group, perms: Mapping[str, Index]) -> tuple[Floats, Floats]:
        """(n,) of A's and of B's units: the root of the sum of squares of all weights that they own."""
        square_a, square_b = (np.zeros(group.size) for _ in range(2))
        for axis in self.known_axes(group, perms):
            for weights, square in ((self.a, square_a), (self.b, square_b)):
                rows = unit_rows(weights[axis.parameter], axis)
                square += torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().numpy()
        return np.sqrt(square_a), np.sqrt(square_b)

    def cosine(self, group: Group, perms: Mapping[str, Index], similarity: Tensor | None = None) -> Floats:
        """(n, n): inner products of all weights that A's unit i and B's unit j own, over the norms of those, in [-1, 1].

        Args:
            similarity: the inner products, where they are known.
        """
        if similarity is None:
            order = block_order(perms[group.name], group.blocks)
            similarity = torch.zeros(group.size, group.size, dtype=self.dtype)
            for rows_a, rows_b in self.rows(group, perms, order):
                similarity.addmm_(rows_a, rows_b.T)
        norms_a, norms_b = self.norms(group, perms)
        scale = np.maximum(norms_a[:, None] * norms_b, 1e-300)
        return np.divide(similarity.numpy(), scale, out=scale).clip(-1, 1, out=scale)

    def similarity_of(self, group: Group, perms: Mapping[str, Index], units_a: Index, units_b: Index) -> Floats:
        """(len(units_a), len(units_b)) in float64: inner products of all that these units of A and of B own."""
        total = torch.zeros(len(units_a), len(units_b), dtype=torch.float64)
        for rows_a, rows_b in self.rows(group, perms):
            total.addmm_(rows_a[units_a].double(), rows_b[units_b].double().T)
        return total.numpy()

    def rows(
        self,
        group: Group,
        perms: Mapping[str, Index],
        block_order: Index | None = None,
        without: Iterable[str] = (),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For every known axis of the group: what A's and what B's units own there, (n, ...) each, B's other groups permuted.

        Args:
            block_order: (blocks,) where the group's blocks go: what other groups of the family own follows them.
            without: parameters to leave out.
        """
        moved = (
            None if block_order is None or group.blocks == 1 else permutation_of_whole_blocks(block_order, group.size)
        )
        for axis in self.known_axes(group, perms):
            name = axis.parameter
            if name in without:
                continue
            indices = self.other_axes(axis, perms, moved)
            rows = unit_rows(gather(self.b[name], name, indices), axis)
            yield unit_rows(self.a[name], axis), rows if moved is None else rows[np.argsort(moved)]

    def by_other_axis(self, group: str, axis: GroupAxis, other: int) -> tuple[Tensor, Tensor]:
        """A's and B's parameter of `axis`, (m, k, n) each: m indices of axis `other`, n units of the group, k weights that each
        of them owns at each index.

        What a permutation of axis `other` moves lies in one piece here. The layout is made once; where it is the parameter's
        own, nothing is copied.
        """

        def moved(tensor: Tensor) -> Tensor:
            rows = tensor.movedim((other, axis.axis), (0, 1))
            if not owns_all_in_order(axis, rows.shape[1]):
                rows = rows[:, torch.from_numpy(axis.index.reshape(-1))]
            return rows.reshape(rows.shape[0], len(axis.index), -1).transpose(1, 2).contiguous()

        key = (group, axis.parameter, axis.axis)
        with self._lock:  # starts run in threads
            if key not in self._by_other_axis:
                self._by_other_axis[key] = moved(self.a[axis.parameter]), moved(self.b[axis.parameter])
            return self._by_other_axis[key]

    def comparable(self, family: Sequence[Group], perms: Mapping[str, Index]) -> float:
        """How many weights per unit of a family can be compared while only the groups in `perms` are placed."""
        axes = [axis for group in family for axis in self.known_axes(group, perms)]
        return sum(self.a[axis.parameter].numel() for axis in axes) / sum(group.size for group in family)

    def owned(self, family: Sequence[Group]) -> list[str]:
        """All parameters that a family permutes."""
        return list(dict.fromkeys(a.parameter for group in family for a in group.axes if a.parameter in self.a))

    def other_axes(self, axis: GroupAxis, perms: Mapping[str, Index], own: Index | None = None) -> AxisIndex:
        """How the axes of `axis`'s parameter are permuted, `axis` itself by `own` (None: not at all)."""
        name = axis.parameter
        return axis_indices(self.groups_on[name], perms, self._sizes[name], override=(axis, own))

    def known_axes(self, group: Group, perms: Mapping[str, Index]) -> list[GroupAxis]:
        """A group's axes on parameters whose other axes belong to groups with a permutation in `perms`."""

        def known(axis: GroupAxis) -> bool:
            across = (
                owner.name
                for owner in self.groups_on[axis.parameter]
                if any(o.parameter == axis.parameter and o.axis != axis.axis for o in owner.axes)
            )
            return all(name in perms for name in across)

        return [axis for axis in group.axes if axis.parameter in self.a and known(axis)]
