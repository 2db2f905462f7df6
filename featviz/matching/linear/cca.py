"""CCA Merge (Horoi et al. 2024, "Harmony in Diversity"): B's units transformed linearly into A's basis, and averaged.

With regularised covariances S_A, S_B and the cross covariance S_AB, canonical correlation analysis is one singular value
decomposition: S_A^-1/2 S_AB S_B^-1/2 = U D V^T, W_A = S_A^-1/2 U, W_B = S_B^-1/2 V. Both networks agree best in the
canonical directions, so B's units are brought there and back into A's basis. On row vectors that is W_B W_A^-1; on B's
units as a column

    T = S_A^1/2 U V^T S_B^-1/2,    T^-1 = S_B^1/2 V U^T S_A^-1/2.

Both are closed forms: no matrix is inverted but the two square roots, whose eigenvalues are at least `gamma` times the mean
eigenvalue. The condition of T is therefore at most about n / gamma; dead units cost nothing. At gamma 0 a covariance
without full rank is refused.
"""

import numpy as np

from featviz.config.matching_options import CCAOptions
from featviz.errors import AlignmentError
from featviz.matching.assignment import Floats
from featviz.matching.linear.combination import LinearCombination, Pair
from featviz.matching.linear.combine import combine_groups
from featviz.matching.linear.statistics import UnitStatistics
from featviz.matching.problem import MatchingProblem

SMALLEST = 1e-10  # eigenvalue over the largest below which a covariance has no full rank


def match_cca(problem: MatchingProblem, options: CCAOptions) -> LinearCombination:
    """Method "cca". For what is raised see `combine_groups` and `cca_units`."""
    return combine_groups(problem, lambda statistics, group: cca_units(statistics, options.gamma, group))


def cca_units(statistics: UnitStatistics, gamma: float, group: str) -> tuple[Pair, Pair]:
    """(merge of A and B, unmerge of A and B): (I/2, T/2), (I, T^-1).

    Raises:
        AlignmentError: gamma is too small for the covariances of this group.
    """
    n = statistics.size
    root_a, inverse_a = _roots(statistics.covariance[:n, :n], gamma, group)
    root_b, inverse_b = _roots(statistics.covariance[n:, n:], gamma, group)
    left, _, right = np.linalg.svd(inverse_a @ statistics.covariance[:n, n:] @ inverse_b)
    turn = left @ right
    there, back = root_a @ turn @ inverse_b, root_b @ turn.T @ inverse_a
    eye = np.eye(n)
    return (eye / 2, there / 2), (eye, back)


def _roots(covariance: Floats, gamma: float, group: str) -> tuple[Floats, Floats]:
    """S^1/2 and S^-1/2 of S = covariance + gamma * its mean eigenvalue * I."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0) + gamma * max(float(values.mean()), 1e-30)
    if values.min() <= SMALLEST * values.max():
        raise AlignmentError(
            f"method 'cca' cannot invert the covariance of group {group} (units that never vary, or too little data): "
            f"give a gamma above {gamma:g}, or more data."
        )
    return (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
