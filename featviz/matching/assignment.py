"""What both matchings share: similarities of one group -> the best assignment, with a score and a margin per unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from featviz.errors import AlignmentError
from featviz.symmetry.groups import Group, Index
from featviz.symmetry.permute import permutation_of_blocks

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Matching:
    """Per group: the permutation, and per unit its similarity to its partner (`scores`) and the lead of that similarity
    over the best other candidate (`margins`, negative where the assignment of all units gave a better one away).

    `objectives`: what each start of the method reached; the best start is the one kept.
    """

    perms: Mapping[str, Index]
    scores: Mapping[str, Floats]
    margins: Mapping[str, Floats]
    objectives: tuple[float, ...] = ()


def assign(similarity: Floats, group: str) -> Index:
    """The permutation with the largest summed similarity (linear assignment): row i of A gets column perm[i] of B.

    Raises:
        AlignmentError: a similarity is NaN or infinite.
    """
    if not np.isfinite(similarity).all():
        raise AlignmentError(
            f"the units of group {group} cannot be compared: a similarity is not finite. "
            "Check both networks' weights, and the data, for NaN and infinities."
        )
    return linear_sum_assignment(similarity, maximize=True)[1].astype(np.int64)


def assign_blocks(similarities: Sequence[Floats], blocks: int, family: str) -> list[Index]:
    """Permutations of a family's groups, blocks exchanged alike: an inner assignment for every pair of blocks, summed over the
    groups, and an outer one over those sums. With one block it is one plain assignment for each group.

    Args:
        similarities: (n, n) for each group, n a multiple of `blocks`.
    """
    total = np.zeros((blocks, blocks))
    inner: list[dict[tuple[int, int], Index]] = []
    for similarity in similarities:
        size = len(similarity) // blocks
        parts = similarity.reshape(blocks, size, blocks, size).transpose(0, 2, 1, 3)
        found = {}
        for j, k in np.ndindex(blocks, blocks):
            order = found[j, k] = assign(parts[j, k], family)
            total[j, k] += parts[j, k][np.arange(size), order].sum()
        inner.append(found)
    outer = assign(total, family) if blocks > 1 else np.zeros(1, dtype=np.int64)
    return [
        permutation_of_blocks(outer, np.stack([found[j, k] for j, k in enumerate(outer.tolist())])) for found in inner
    ]


def scores_of(similarity: Floats, perm: Index) -> tuple[Floats, Floats]:
    """Score (n,) and margin (n,) of an assignment under a similarity (n, n)."""
    rows = np.arange(len(perm))
    score = similarity[rows, perm].copy()
    others = similarity.copy()
    others[rows, perm] = -np.inf
    return score, score - others.max(1)


def block_scores(
    family: Sequence[Group], found: Mapping[str, tuple[Floats, Floats]]
) -> dict[str, tuple[Floats, Floats]]:
    """Score and margin of a family's blocks: the mean over the units in each, given those of the units."""
    if family[0].name != family[0].family:
        return {}
    blocks = family[0].blocks
    parts = [[values.reshape(blocks, -1) for values in found[group.name]] for group in family[1:]]
    scores, margins = (np.concatenate(kind, axis=1).mean(1) for kind in zip(*parts, strict=True))
    return {family[0].name: (scores, margins)}
