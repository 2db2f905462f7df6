"""Weight matching (Ainsworth, Hayase & Srinivasa 2022, "Git Re-Basin"): coordinate descent over the groups.

weights of A and of B -> one permutation per group that maximises sum over tensors of <A, permuted B>. With the other
groups held, the best permutation of one group is a linear assignment, so no step lowers the objective. Groups in blocks
(attention heads, the blocks of a grouped convolution) take an inner assignment for every pair of blocks and an outer one.
Where a tensor is permuted on two axes at once a step is accepted only if the true objective rises.

A normalisation layer makes the scale of every filter before it arbitrary, so each filter (row of axis 0) is brought to
unit norm first, and vectors (biases, scales, shifts) to a fixed root mean square. Running statistics are no evidence.

Single starts get stuck, and the identity is a poor start. A start here is *progressive*: a tensor counts only once all
other groups on it have been placed, so that evidence grows from the input and the output, whose order is known. That
alone recovers a planted permutation of a residual MLP (git-re-basin issue 8). Further starts take the groups in random order,
every fourth begins at random permutations, one may begin at given ones (activation matching's); the best objective is kept.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from featviz.config import AlignConfig
from featviz.matching.assignment import Floats, Matching, assign, block_scores, scores_of
from featviz.symmetry.groups import Group, GroupAxis, Index, PermutationGroups
from featviz.symmetry.permute import (
    axis_indices,
    gather,
    permutation_of_blocks,
    permutation_of_whole_blocks,
    random_permutations,
)

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

    def similarity(
        self, group: Group, perms: Mapping[str, Index], outer: Index | None = None, without: Iterable[str] = ()
    ) -> Floats:
        """Inner products (n, n) of what each unit of A and of B owns; groups not in `perms` are unknown, and the tensors
        that they share with this one do not count, nor those named in `without`.

        Args:
            outer: where the group's blocks go, if they go anywhere: what else is known of the family follows them.
        """
        inner = torch.zeros(group.size, group.size, dtype=torch.float64)
        for rows_a, rows_b in self._rows(group, perms, outer, without):
            inner.addmm_(rows_a, rows_b.T)
        return inner.numpy()

    def block_similarity(self, group: Group, perms: Mapping[str, Index], outer: Index, only: Iterable[str]) -> Floats:
        """Inner products (blocks, m, m) of the units of A's block j and of B's block `outer[j]`, over the tensors `only`."""
        shape = (group.blocks, group.size // group.blocks, -1)
        moved = torch.from_numpy(permutation_of_whole_blocks(outer, group.size))
        inner = torch.zeros(group.blocks, shape[1], shape[1], dtype=torch.float64)
        for rows_a, rows_b in self._rows(group, perms, outer, set(self.a) - set(only)):
            inner += rows_a.reshape(shape) @ rows_b[moved].reshape(shape).mT
        return inner.numpy()

    def cosine(self, group: Group, perms: Mapping[str, Index]) -> Floats:
        """`similarity` over the norms of what the units own, in [-1, 1]."""
        outer = perms[group.name].reshape(group.blocks, -1)[:, 0] // (group.size // group.blocks)
        square_a, square_b = (torch.zeros(group.size, dtype=torch.float64) for _ in range(2))
        for rows_a, rows_b in self._rows(group, perms, outer):
            square_a += rows_a.square().sum(1)
            square_b += rows_b.square().sum(1)
        scale = (square_a[:, None] * square_b).sqrt().clamp_min(1e-300)
        return self.similarity(group, perms, outer) / scale.numpy()

    def _rows(
        self, group: Group, perms: Mapping[str, Index], outer: Index | None, without: Iterable[str] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Per known axis: what the units of A, and of B with the other groups permuted, own there."""
        moved = None if outer is None or group.blocks == 1 else permutation_of_whole_blocks(outer, group.size)
        for axis in self._known_axes(group, perms):
            name = axis.parameter
            if name in without:
                continue
            indices = axis_indices(self.groups_on[name], perms, self.sizes[name], override=(axis, moved))
            rows = unit_rows(gather(self.b[name], name, indices), axis)
            yield unit_rows(self.a[name], axis), rows if moved is None else rows[np.argsort(moved)]

    def weight(self, group: Group, perms: Mapping[str, Index]) -> int:
        """How many numbers about this group can be compared while only the groups in `perms` are placed."""
        return sum(self.a[axis.parameter].numel() for axis in self._known_axes(group, perms))

    def objective(self, perms: Mapping[str, Index], names: Iterable[str] | None = None) -> float:
        """Sum over tensors (all, or those named) of <A, permuted B>."""
        total = 0.0
        for name in self.a if names is None else names:
            indices = axis_indices(self.groups_on[name], perms, self.sizes[name])
            total += float((self.a[name] * gather(self.b[name], name, indices)).sum())
        return total

    def block_objective(self, family: Sequence[Group], perms: Mapping[str, Index], names: Iterable[str]) -> Floats:
        """What each block of A (blocks,) has in common with the block of B at its place, over the tensors named."""
        blocks = family[0].blocks
        total = np.zeros(blocks)
        for name in names:
            indices = axis_indices(self.groups_on[name], perms, self.sizes[name])
            if any(group.name not in perms for group in self.groups_on[name]):
                continue
            axis = next(a for group in family for a in group.axes if a.parameter == name)
            rows = unit_rows(self.a[name] * gather(self.b[name], name, indices), axis)
            total += rows.reshape(blocks, -1).sum(1).numpy()
        return total

    def _known_axes(self, group: Group, perms: Mapping[str, Index]) -> list[GroupAxis]:
        """A group's axes on tensors whose other axes have been placed."""

        def known(axis: GroupAxis) -> bool:
            across = (
                owner.name
                for owner in self.groups_on[axis.parameter]
                if any(o.parameter == axis.parameter and o.axis != axis.axis for o in owner.axes)
            )
            return all(name in perms for name in across)

        return [axis for axis in group.axes if axis.parameter in self.a and known(axis)]

    def shared(self, family: Sequence[Group]) -> list[str]:
        """Tensors that a family permutes along two axes: there what one group gains depends on where the others are."""
        places = {(axis.parameter, axis.axis) for group in family for axis in group.axes}
        names = [name for name, _ in places]
        return [name for name in self.owned(family) if names.count(name) > 1]

    def owned(self, family: Sequence[Group]) -> list[str]:
        """All tensors that a family permutes."""
        return list(dict.fromkeys(a.parameter for group in family for a in group.axes if a.parameter in self.a))


def normalised(tensor: Tensor) -> Tensor:
    """float64 copy on the CPU: filters at unit norm; vectors at root mean square VECTOR_WEIGHT."""
    tensor = tensor.detach().cpu().double()
    if tensor.dim() < 2:
        return VECTOR_WEIGHT * tensor / tensor.square().mean().sqrt().clamp_min(1e-12)
    norm = tensor.flatten(1).norm(dim=1).clamp_min(1e-12)
    return tensor / norm.view(-1, *(1,) * (tensor.dim() - 1))


def unit_rows(tensor: Tensor, axis: GroupAxis) -> Tensor:
    """(units, everything each owns on this axis)."""
    if axis.blocks > 1:  # (blocks, rows, columns, ...) -> (blocks, columns, everything else)
        tensor = tensor.unflatten(0, (axis.blocks, -1)).transpose(1, 2).flatten(0, 1)
        flat = tensor.flatten(1)
    else:
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
    start: Mapping[str, Index] | None = None,
) -> Matching:
    """Match every group by the weights alone.

    Args:
        config: seed, number of starts (`restarts`), sweeps at most per start, relative tolerance.
        progress: called with (starts done, starts).
        start: one more start, from these permutations.

    Raises:
        AlignmentError: the weights are not finite.
    """
    evidence = Evidence(model_a, model_b, groups)
    best: dict[str, Index] = {}
    objectives: list[float] = []
    starts = max(1, config.restarts) + (start is not None)
    for number in range(starts):
        generator = np.random.default_rng([config.seed, number])
        if start is not None and number == starts - 1:
            perms = dict(start)
        elif number % 4 == 3:
            perms = random_permutations(groups, generator)
        else:
            perms = progressive(evidence, groups.families(), {}, generator if number else None)
        perms = descend(evidence, groups.families(), perms, config, generator)
        objectives.append(evidence.objective(perms))
        if objectives[-1] >= max(objectives):
            best = perms
        if progress:
            progress(number + 1, starts)
    return scored(evidence, groups, best, objectives)


def scored(
    evidence: Evidence, groups: PermutationGroups, perms: Mapping[str, Index], objectives: Iterable[float]
) -> Matching:
    """A matching of these permutations, with the scores and margins of the weights."""
    found: dict[str, tuple[Floats, Floats]] = {}
    for family in groups.families():
        found |= weight_scores(evidence, family, perms)
    scores, margins = ({name: pair[kind] for name, pair in found.items()} for kind in (0, 1))
    return Matching(perms, scores, margins, tuple(objectives))


def weight_scores(
    evidence: Evidence, family: Sequence[Group], perms: Mapping[str, Index]
) -> dict[str, tuple[Floats, Floats]]:
    """Score and margin of every unit of a family: cosines of what it owns; a block has its units' mean."""
    units = [group for group in family if group.name != group.family]
    found = {group.name: scores_of(evidence.cosine(group, perms), perms[group.name]) for group in units}
    return found | block_scores(family, found)


def progressive(
    evidence: Evidence,
    families: Sequence[tuple[Group, ...]],
    perms: Mapping[str, Index],
    generator: np.random.Generator | None = None,
) -> dict[str, Index]:
    """Place families one by one beside those in `perms`, always one with much known evidence (at random among those with
    any, given a generator)."""
    perms = dict(perms)
    waiting = list(families)
    while waiting:
        weights = np.array([_weight(evidence, family, perms) for family in waiting], dtype=float)
        if generator is not None and weights.sum() > 0:
            chosen = int(generator.choice(len(waiting), p=weights / weights.sum()))
        else:
            chosen = int(weights.argmax())
        perms |= _place(evidence, waiting.pop(chosen), perms)
    return perms


def _weight(evidence: Evidence, family: Sequence[Group], perms: Mapping[str, Index]) -> float:
    return sum(evidence.weight(group, perms) for group in family) / sum(group.size for group in family)


def _place(evidence: Evidence, family: tuple[Group, ...], perms: Mapping[str, Index]) -> dict[str, Index]:
    """The best permutations of one family's groups, the others held."""
    blocks = family[0].blocks
    if blocks == 1:
        (group,) = family
        return {group.name: assign(evidence.similarity(group, perms), group.name)}
    names = [group.name for group in family]
    others = {name: perm for name, perm in perms.items() if name not in names}
    shared = evidence.shared(family)
    alone = [evidence.similarity(group, others, without=shared) for group in family]
    parts = [s.reshape(blocks, group.size // blocks, blocks, -1) for s, group in zip(alone, family, strict=True)]
    total = np.zeros((blocks, blocks))
    inner = {group.name: np.zeros((blocks, blocks, group.size // blocks), dtype=np.int64) for group in family}
    here = np.arange(blocks)
    for shift in range(blocks):  # every block of A meets every block of B once
        outer = (here + shift) % blocks
        trial, score = dict(others), np.zeros(blocks)
        for _ in range(2 if shared else 1):  # what is shared is known when all have been placed once
            score = np.zeros(blocks)
            for group, part in zip(family, parts, strict=True):
                similarity = part[here, :, outer]
                gain = np.zeros_like(similarity)
                if shared:
                    gain = evidence.block_similarity(group, trial, outer, shared)
                orders = [assign(block, group.name) for block in similarity + gain]
                trial[group.name] = permutation_of_blocks(outer, np.stack(orders))
                inner[group.name][here, outer] = orders
                score += [s[np.arange(len(o)), o].sum() for s, o in zip(similarity, orders, strict=True)]
        total[here, outer] = score + evidence.block_objective(family, trial, shared)
    outer = assign(total, names[0])
    return {name: permutation_of_blocks(outer, orders[here, outer]) for name, orders in inner.items()}


def descend(
    evidence: Evidence,
    families: Sequence[tuple[Group, ...]],
    perms: dict[str, Index],
    config: AlignConfig,
    generator: np.random.Generator,
) -> dict[str, Index]:
    """Sweep over the families in random order until a sweep gains less than the relative tolerance."""
    scale = max(abs(evidence.objective(perms)), 1e-12)
    for _ in range(config.sweeps):
        gained = 0.0
        for number in generator.permutation(len(families)):
            placed = _place(evidence, families[number], perms)
            if all(np.array_equal(perm, perms[name]) for name, perm in placed.items()):
                continue
            owned = evidence.owned(families[number])
            gain = evidence.objective({**perms, **placed}, owned) - evidence.objective(perms, owned)
            if gain > 0:
                perms |= placed
                gained += gain
        if gained <= config.tolerance * scale:
            break
    return perms
