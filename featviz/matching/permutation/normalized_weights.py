"""The weights of two networks, normalised, and what permutations of B make of them.

weights of A and of B, groups -> what the units of a group own; objective, the sum over tensors of <A, B'>.

A normalisation layer makes the scale of every filter before it arbitrary, so each filter (row of axis 0) is brought to unit
norm first, and vectors (biases, scales, shifts) to a fixed root mean square. Running statistics are left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from featviz.matching.assignment import Floats, Matching, block_order, score_permutations
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_axes import unit_rows
from featviz.symmetry.groups import Group, GroupAxis, Index, PermutationGroups
from featviz.symmetry.permute import AxisIndex, axis_indices, gather, permutation_of_whole_blocks

VECTOR_NORM = 0.1  # root mean square of a normalised bias, scale or shift; filters have norm 1


def normalized(tensor: Tensor) -> Tensor:
    """float64 copy on the CPU: filters at unit norm; vectors at root mean square `VECTOR_NORM`."""
    tensor = tensor.detach().cpu().double()
    if tensor.dim() < 2:
        return VECTOR_NORM * tensor / tensor.square().mean().sqrt().clamp_min(1e-12)
    norm = tensor.flatten(1).norm(dim=1).clamp_min(1e-12)
    return tensor / norm.view(-1, *(1,) * (tensor.dim() - 1))


class NormalizedWeights:
    """Normalised float64 parameters `a` and `b` of both networks, by name, and `groups_on`, the groups that permute each."""

    def __init__(
        self,
        model_a: nn.Module,
        model_b: nn.Module,
        groups: PermutationGroups,
        names_in_b: Mapping[str, str] | None = None,
    ) -> None:
        used: dict[str, list[Group]] = defaultdict(list)
        for group in groups:
            for name in dict.fromkeys(axis.parameter for axis in group.axes):
                used[name].append(group)
        a, b = dict(model_a.named_parameters()), dict(model_b.named_parameters())
        self.groups_on = {name: owners for name, owners in used.items() if name in a}
        self.a = {name: normalized(a[name]) for name in self.groups_on}
        renamed = names_in_b or {}
        self.b = {name: normalized(b[renamed.get(name, name)]) for name in self.groups_on}
        self._sizes = {name: {name: tuple(tensor.shape)} for name, tensor in self.a.items()}

    @classmethod
    def of(cls, problem: MatchingProblem) -> "NormalizedWeights":
        """Of the first two networks of a problem."""
        return cls(problem.model_a, problem.model_b, problem.groups, problem.names_in_b)

    def permuted(self, name: str, perms: Mapping[str, Index]) -> Tensor:
        """Parameter `name` of B'; groups that are not in `perms` stay as they are."""
        return gather(self.b[name], name, axis_indices(self.groups_on[name], perms, self._sizes[name]))

    def objective(self, perms: Mapping[str, Index], names: Iterable[str] | None = None) -> float:
        """Sum over parameters (all, or those named) of <A, B'>."""
        names = self.a if names is None else names
        return sum(float((self.a[name] * self.permuted(name, perms)).sum()) for name in names)

    def cosine(self, group: Group, perms: Mapping[str, Index]) -> Floats:
        """(n, n): inner products of all weights that A's unit i and B's unit j own, over the norms of those, in [-1, 1]."""
        order = block_order(perms[group.name], group.blocks)
        similarity = torch.zeros(group.size, group.size, dtype=torch.float64)
        square_a, square_b = (torch.zeros(group.size, dtype=torch.float64) for _ in range(2))
        for rows_a, rows_b in self.rows(group, perms, order):
            similarity.addmm_(rows_a, rows_b.T)
            square_a += rows_a.square().sum(1)
            square_b += rows_b.square().sum(1)
        scale = (square_a[:, None] * square_b).sqrt().clamp_min(1e-300)
        return (similarity / scale).numpy()

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


def score_by_weights(
    weights: NormalizedWeights,
    groups: PermutationGroups,
    perms: Mapping[str, Index],
    objectives: Iterable[float] | None = None,
) -> Matching:
    """A matching of these permutations whose scores and margins are cosines of the weights.

    Args:
        objectives: what the starts of the method reached; None: the objective of `perms` alone.
    """
    objectives = [weights.objective(perms)] if objectives is None else objectives
    return score_permutations(groups, perms, lambda group: weights.cosine(group, perms), objectives)
