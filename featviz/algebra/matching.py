"""What both matchings share: similarities of one group -> the best assignment, with a score and a margin per unit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from featviz.algebra.groups import Index
from featviz.errors import AlignmentError

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


def scores_of(similarity: Floats, perm: Index) -> tuple[Floats, Floats]:
    """Score (n,) and margin (n,) of an assignment under a similarity (n, n)."""
    rows = np.arange(len(perm))
    score = similarity[rows, perm].copy()
    others = similarity.copy()
    others[rows, perm] = -np.inf
    return score, score - others.max(1)
