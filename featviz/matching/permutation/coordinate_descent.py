"""Coordinate descent over the groups: the algorithm of weight matching (Ainsworth et al. 2022, algorithm 1).

permutations -> permutations with a sum over parameters of <A, B'> that is at least as large. With the other groups held, the
best permutation of one group is a linear assignment: similarity[i, j] is the inner product of all that A's unit i and B's unit
j own. Where a parameter has the group on two axes, or a family has blocks (`weight_blocks.py`), a step is taken only if the sum
rises.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from featviz.config.matching_options import WeightMatchingOptions
from featviz.matching.assignment import assign
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.matching.permutation.weight_blocks import best_block_permutations, permuted_twice
from featviz.symmetry.groups import Group, Index, PermutationGroups

Perms = dict[str, Index]
SIZE = 512  # units; larger groups take part in fewer sweeps
NEAR = 1e-5  # of the mean similarity of matched units: more than float32 products and sums are wrong by


def coordinate_descent(
    similarities: SimilarityCache,
    groups: PermutationGroups,
    perms: Perms,
    options: WeightMatchingOptions,
    generator: np.random.Generator,
) -> Perms:
    """Sweep over the families in random order until a sweep over all of them gains less than the relative tolerance.

    The time of an assignment grows with about the cube of a group's size, what it gains does not: a family of n units takes
    part in every (n / `SIZE`)**2-th sweep, and in the sweep after one that gained nothing.
    """
    perms = dict(perms)
    families = groups.families()
    intervals = [max(1, round((max(group.size for group in family) / SIZE) ** 2)) for family in families]
    scale = max(abs(similarities.weights.objective(perms)), 1e-12)
    over_all = True
    for sweep in range(options.sweeps):
        gained = 0.0
        for number in generator.permutation(len(families)):
            if not over_all and sweep % intervals[number]:
                continue
            found = best_permutations(similarities, families[number], perms)
            gain = 0.0 if found is None else gain_of(similarities, families[number], perms, found)
            if found is not None and gain > torch.finfo(similarities.weights.dtype).eps * scale:
                perms |= found
                gained += gain
        idle = gained <= options.tolerance * scale
        if idle and over_all:
            break
        over_all = idle
    return perms


def best_permutations(
    similarities: SimilarityCache, family: tuple[Group, ...], perms: Mapping[str, Index]
) -> Perms | None:
    """The best permutations of one family's groups, the others held; None where nothing has changed since the last time."""
    if family[0].blocks > 1:
        return best_block_permutations(similarities, family, perms)
    (group,) = family
    similarity, changed = similarities.similarity(group, perms)
    return {group.name: assign(similarity.numpy(), group.name)} if changed else None


def gain_of(similarities: SimilarityCache, family: tuple[Group, ...], perms: Perms, found: Perms) -> float:
    """By how much the objective rises where a family's permutations become those found for it."""
    if all(np.array_equal(perm, perms[name]) for name, perm in found.items()):
        return 0.0
    weights = similarities.weights
    if family[0].blocks > 1 or permuted_twice(weights, family):
        owned = weights.owned(family)
        return weights.objective({**perms, **found}, owned) - weights.objective(perms, owned)
    (group,) = family
    similarity, _ = similarities.similarity(group, perms)
    new, old = (similarity[np.arange(group.size), order[group.name]].double().sum() for order in (found, perms))
    return float(new - old)


def match_near_ties(similarities: SimilarityCache, groups: PermutationGroups, perms: Perms) -> Perms:
    """Match again, in float64, units whose exchange changes the objective by less than float32 similarities can tell.

    Args:
        perms: where coordinate descent has ended. Groups in blocks, or on two axes of a parameter, stay as they are.
    """
    perms = dict(perms)
    weights = similarities.weights
    for family in groups.families():
        if weights.dtype == torch.float64 or family[0].blocks > 1 or permuted_twice(weights, family):
            continue
        (group,) = family
        similarity, _ = similarities.similarity(group, perms)
        tied = _near_ties(similarity, perms[group.name])
        if len(tied):
            partners = perms[group.name][tied]
            exact = weights.similarity_of(group, perms, tied, partners)
            order = assign(exact, group.name)
            if exact[np.arange(len(tied)), order].sum() > np.trace(exact):
                perms[group.name] = perms[group.name].copy()
                perms[group.name][tied] = partners[order]
    return perms


def _near_ties(similarity: Tensor, perm: Index) -> Index:
    """The units of A that could exchange partners with another at a loss within the rounding of float32 similarities."""
    matched = similarity[:, torch.from_numpy(perm)]
    own = matched.diagonal().clone()
    loss = own[:, None] + own - matched - matched.T
    loss.fill_diagonal_(torch.inf)
    return (loss.amin(1) < NEAR * own.abs().mean()).nonzero().flatten().numpy()


def place_progressively(
    similarities: SimilarityCache,
    families: Sequence[tuple[Group, ...]],
    perms: Mapping[str, Index],
    generator: np.random.Generator | None = None,
) -> Perms:
    """Place families one by one beside those in `perms`, each time the one of which most weights can be compared.

    Args:
        generator: of the choice, in proportion to the number of weights, in place of the largest.
    """
    perms = dict(perms)
    waiting = list(families)
    while waiting:
        known = np.array([similarities.weights.comparable(family, perms) for family in waiting], dtype=float)
        if generator is not None and known.sum() > 0:
            chosen = int(generator.choice(len(waiting), p=known / known.sum()))
        else:
            chosen = int(known.argmax())
        perms |= best_permutations(similarities, waiting.pop(chosen), perms) or {}
    return perms
