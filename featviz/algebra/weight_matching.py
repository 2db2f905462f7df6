"""Weight matching (Ainsworth, Hayase & Srinivasa 2022, "Git Re-Basin"): coordinate descent over the groups.

weights of A and of B -> one permutation per group that maximises sum over tensors of <A, permuted B>. With the other
groups held, the best permutation of one group is a linear assignment, so no step lowers the objective.

A normalisation layer makes the scale of every filter before it arbitrary, so each filter (row of axis 0) is brought to
unit norm first, and vectors (biases, scales, shifts) to a fixed root mean square. Running statistics are no evidence.

Single starts get stuck, and the identity is a poor start. A start here is *progressive*: a tensor counts only once all
other groups on it have been placed, so that evidence grows from the input and the output, whose order is known. That
alone recovers a planted permutation of a residual MLP (git-re-basin issue 8); further starts take the groups in random
order, and the best objective is kept.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from featviz.algebra.groups import Group, GroupAxis, Index, PermutationGroups
from featviz.algebra.matching import Floats, Matching, assign, scores_of
from featviz.algebra.permutation import axis_indices, gather
from featviz.config import AlignConfig

VECTOR_WEIGHT = 0.1  # root mean square of a normalised bias, scale or shift; filters have norm 1


class Evidence:
    """Normalised float64 parameters of both networks, and which groups each belongs to."""

    def __init__(self, model_a: nn.Module, model_b: nn.Module, groups: PermutationGroups) -> None:
        used: dict[str, list[Group]] = defaultdict(list)
        for group in groups:
            for name in dict.fromkeys(axis.parameter for axis in group.axes):
                used[name].append(group)
        a, b = dict(model_a.named_parameters()), dict(model_b.named_parameters())
        self.groups_on = {name: owners for name, owners in used.items() if name in a}
        self.a = {name: normalised(a[name]) for name in self.groups_on}
        self.b = {name: normalised(b[name]) for name in self.groups_on}
        self.sizes = {name: {name: tuple(tensor.shape)} for name, tensor in self.a.items()}

    def similarity(self, group: Group, perms: Mapping[str, Index]) -> Floats:
        """Inner products (n, n) of what each unit of A and of B owns; groups not in `perms` are unknown, and the tensors
        that they share with this one do not count."""
        inner = torch.zeros(group.size, group.size, dtype=torch.float64)
        for rows_a, rows_b in self._rows(group, perms):
            inner.addmm_(rows_a, rows_b.T)
        return inner.numpy()

    def cosine(self, group: Group, perms: Mapping[str, Index]) -> Floats:
        """`similarity` over the norms of what the units own, in [-1, 1]."""
        square_a, square_b = (torch.zeros(group.size, dtype=torch.float64) for _ in range(2))
        for rows_a, rows_b in self._rows(group, perms):
            square_a += rows_a.square().sum(1)
            square_b += rows_b.square().sum(1)
        scale = (square_a[:, None] * square_b).sqrt().clamp_min(1e-300)
        return self.similarity(group, perms) / scale.numpy()

    def _rows(self, group: Group, perms: Mapping[str, Index]) -> Iterator[tuple[Tensor, Tensor]]:
        """Per known axis: what the units of A, and of B with the other groups permuted, own there."""
        for axis in self._known_axes(group, perms):
            name = axis.parameter
            indices = axis_indices(self.groups_on[name], perms, self.sizes[name], skip=axis)
            yield unit_rows(self.a[name], axis), unit_rows(gather(self.b[name], name, indices), axis)

    def weight(self, group: Group, perms: Mapping[str, Index]) -> int:
        """How many numbers about this group can be compared while only the groups in `perms` are placed."""
        return sum(self.a[axis.parameter].numel() for axis in self._known_axes(group, perms))

    def objective(self, perms: Mapping[str, Index], names: list[str] | None = None) -> float:
        """Sum over tensors (all, or those named) of <A, permuted B>."""
        total = 0.0
        for name in self.a if names is None else names:
            indices = axis_indices(self.groups_on[name], perms, self.sizes[name])
            total += float((self.a[name] * gather(self.b[name], name, indices)).sum())
        return total

    def _known_axes(self, group: Group, perms: Mapping[str, Index]) -> list[GroupAxis]:
        counts: dict[str, int] = defaultdict(int)
        for axis in group.axes:
            counts[axis.parameter] += axis.block is None
        return [
            axis
            for axis in group.axes
            if axis.parameter in self.a
            and all(
                other.name in perms if other is not group else counts[axis.parameter] < 2 or group.name in perms
                for other in self.groups_on[axis.parameter]
            )
        ]

    def twice(self, group: Group) -> list[str]:
        """Tensors that this group permutes along two axes: there the assignment is a linearisation."""
        names = [axis.parameter for axis in group.axes if axis.parameter in self.a and axis.block is None]
        return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def normalised(tensor: Tensor) -> Tensor:
    """float64 copy on the CPU: filters at unit norm; vectors at root mean square VECTOR_WEIGHT."""
    tensor = tensor.detach().cpu().double()
    if tensor.dim() < 2:
        return VECTOR_WEIGHT * tensor / tensor.square().mean().sqrt().clamp_min(1e-12)
    norm = tensor.flatten(1).norm(dim=1).clamp_min(1e-12)
    return tensor / norm.view(-1, *(1,) * (tensor.dim() - 1))


def unit_rows(tensor: Tensor, axis: GroupAxis) -> Tensor:
    """(units, everything each owns on this axis)."""
    if axis.block is not None:
        rows = tensor.shape[0] // axis.blocks
        tensor = tensor[axis.block * rows : (axis.block + 1) * rows]
    flat = tensor.movedim(axis.axis, 0).flatten(1) if tensor.dim() > 1 else tensor[:, None]
    own = axis.index.reshape(-1)
    if len(own) < len(flat) or (np.diff(own) != 1).any():  # most groups own a whole axis, in order
        flat = flat[torch.from_numpy(own)]
    return flat.reshape(len(axis.index), -1)


def match_weights(
    model_a: nn.Module,
    model_b: nn.Module,
    groups: PermutationGroups,
    config: AlignConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Matching:
    """Match every group by the weights alone.

    Args:
        config: seed, number of starts (`restarts`), sweeps at most per start, relative tolerance.
        progress: called with (starts done, starts).

    Raises:
        AlignmentError: the weights are not finite.
    """
    evidence = Evidence(model_a, model_b, groups)
    best: dict[str, Index] = {}
    objectives: list[float] = []
    for start in range(max(1, config.restarts)):
        generator = np.random.default_rng([config.seed, start])
        perms = _progressive(evidence, groups, generator if start else None)
        perms = _descend(evidence, groups, perms, config, generator)
        objectives.append(evidence.objective(perms))
        if objectives[-1] >= max(objectives):
            best = perms
        if progress:
            progress(start + 1, max(1, config.restarts))
    scores, margins = {}, {}
    for group in groups:
        scores[group.name], margins[group.name] = scores_of(evidence.cosine(group, best), best[group.name])
    return Matching(best, scores, margins, tuple(objectives))


def _progressive(
    evidence: Evidence, groups: PermutationGroups, generator: np.random.Generator | None
) -> dict[str, Index]:
    """Place the groups one by one, always one with much known evidence (at random among those with any, given a generator)."""
    perms: dict[str, Index] = {}
    waiting = list(groups)
    while waiting:
        weights = np.array([evidence.weight(group, perms) / group.size for group in waiting], dtype=float)
        if generator is not None and weights.sum() > 0:
            chosen = int(generator.choice(len(waiting), p=weights / weights.sum()))
        else:
            chosen = int(weights.argmax())
        group = waiting.pop(chosen)
        perms[group.name] = assign(evidence.similarity(group, perms), group.name)
    return perms


def _descend(
    evidence: Evidence,
    groups: PermutationGroups,
    perms: dict[str, Index],
    config: AlignConfig,
    generator: np.random.Generator,
) -> dict[str, Index]:
    """Sweep over the groups in random order until a sweep gains less than the relative tolerance."""
    rows = {group.name: np.arange(group.size) for group in groups}
    scale = max(abs(evidence.objective(perms)), 1e-12)
    for _ in range(config.sweeps):
        gained = 0.0
        for number in generator.permutation(len(groups)):
            group = groups.groups[number]
            similarity = evidence.similarity(group, perms)
            perm = assign(similarity, group.name)
            gain = float((similarity[rows[group.name], perm] - similarity[rows[group.name], perms[group.name]]).sum())
            if evidence.twice(group):
                owned = list(dict.fromkeys(a.parameter for a in group.axes if a.parameter in evidence.a))
                gain = evidence.objective({**perms, group.name: perm}, owned) - evidence.objective(perms, owned)
            if gain > 0:
                perms[group.name] = perm
                gained += gain
        if gained <= config.tolerance * scale:
            break
    return perms
