"""Weight matching of units in blocks: attention heads, and the blocks of a grouped convolution.

A family's groups exchange their blocks alike, and units within each block. An inner assignment is made for every pair of a
block of A and a block of B in every group of the family, and an outer one over the sums that those reach.

A parameter that the family permutes along two axes (a grouped convolution's weight) has, for every pair of blocks, an inner
similarity that depends on where the other axis' units are: it counts in a second round, when all of them have been placed once.

Example: 2 heads of 3 queries, 3 keys and 3 values each are a family of 4 groups: the heads (2 units), the queries, the keys and
the values (6 units in 2 blocks each). For each of the 4 pairs (head of A, head of B) three assignments of 3 units are made.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from featviz.matching.assignment import Floats, assign
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.matching.unit_axes import unit_rows
from featviz.symmetry.groups import Group, Index
from featviz.symmetry.permute import permutation_of_blocks, permutation_of_whole_blocks


def best_block_permutations(
    similarities: SimilarityCache, family: tuple[Group, ...], perms: Mapping[str, Index]
) -> dict[str, Index] | None:
    """The best permutations of one family's groups, the others held; None where nothing has changed since the last time."""
    weights = similarities.weights
    blocks = family[0].blocks
    names = [group.name for group in family]
    others = {name: perm for name, perm in perms.items() if name not in names}
    twice = permuted_twice(weights, family)
    found = [similarities.similarity(group, others, without=twice) for group in family]
    if not any(changed for _, changed in found):
        return None
    alone = [similarity.double().numpy() for similarity, _ in found]
    parts = [s.reshape(blocks, group.size // blocks, blocks, -1) for s, group in zip(alone, family, strict=True)]
    total = np.zeros((blocks, blocks))
    inner = {group.name: np.zeros((blocks, blocks, group.size // blocks), dtype=np.int64) for group in family}
    here = np.arange(blocks)
    for shift in range(blocks):  # every block of A meets every block of B once
        outer = (here + shift) % blocks
        trial, score = dict(others), np.zeros(blocks)
        for _ in range(2 if twice else 1):
            score = np.zeros(blocks)
            for group, part in zip(family, parts, strict=True):
                similarity = part[here, :, outer]
                gain = np.zeros_like(similarity)
                if twice:
                    gain = _similarity_within_blocks(weights, group, trial, outer, twice)
                orders = [assign(block, group.name) for block in similarity + gain]
                trial[group.name] = permutation_of_blocks(outer, np.stack(orders))
                inner[group.name][here, outer] = orders
                score += [s[np.arange(len(o)), o].sum() for s, o in zip(similarity, orders, strict=True)]
        total[here, outer] = score + _block_objective(weights, family, trial, twice)
    outer = assign(total, names[0])
    return {name: permutation_of_blocks(outer, orders[here, outer]) for name, orders in inner.items()}


def permuted_twice(weights: ComparedWeights, family: Sequence[Group]) -> list[str]:
    """Parameters that a family permutes along two axes: there what one group gains depends on where the others are."""
    axes = {(axis.parameter, axis.axis) for group in family for axis in group.axes}
    names = [name for name, _ in axes]
    return [name for name in weights.owned(family) if names.count(name) > 1]


def _similarity_within_blocks(
    weights: ComparedWeights, group: Group, perms: Mapping[str, Index], outer: Index, parameters: Iterable[str]
) -> Floats:
    """(blocks, m, m): inner products of the units of A's block j and of B's block `outer[j]`, over some parameters."""
    shape = (group.blocks, group.size // group.blocks, -1)
    moved = torch.from_numpy(permutation_of_whole_blocks(outer, group.size))
    total = torch.zeros(group.blocks, shape[1], shape[1], dtype=torch.float64)
    for rows_a, rows_b in weights.rows(group, perms, outer, set(weights.a) - set(parameters)):
        total += rows_a.reshape(shape) @ rows_b[moved].reshape(shape).mT
    return total.numpy()


def _block_objective(
    weights: ComparedWeights, family: Sequence[Group], perms: Mapping[str, Index], parameters: Iterable[str]
) -> Floats:
    """(blocks,): the part of the objective of each block of A, over some parameters whose groups are all placed."""
    blocks = family[0].blocks
    total = np.zeros(blocks)
    for name in parameters:
        if any(group.name not in perms for group in weights.groups_on[name]):
            continue
        axis = next(a for group in family for a in group.axes if a.parameter == name)
        rows = unit_rows(weights.a[name] * weights.permuted(name, perms), axis)
        total += rows.reshape(blocks, -1).sum(1, dtype=torch.float64).numpy()
    return total
