"""Optimal-transport fusion (Singh & Jaggi 2020, "Model Fusion via Optimal Transport"), based on activations.

correlations -> the transport plan (n, n) between A's and B's units -> B's units as weighted means at A's places.

The cost of a pair is 1 - correlation, in [0, 2]; both marginals are uniform. `entropy` e regularises the plan: it minimises
<plan, cost> - e * H(plan) (Cuturi 2013). At 0 an optimal plan is an assignment, that of activation matching; the larger, the
softer. n * plan has row and column sums 1: its rows make B's units at A's places, its transpose reads them off.

A soft plan averages B's units, which are not alike, and so leaves less of B: on the bundled pair rows of T have a mean norm of
0.85 at 0.01, 0.57 at 0.05 and 0.13 at 1. The merge then is largely A, and its accuracy says little about the merging.
"""

import numpy as np
from scipy.special import logsumexp

from featviz.config.matching_options import TransportOptions
from featviz.matching.assignment import Floats, assign
from featviz.matching.linear.combination import LinearCombination, Pair
from featviz.matching.linear.combine import combine_groups
from featviz.matching.linear.statistics import UnitStatistics
from featviz.matching.problem import MatchingProblem

ITERATIONS, TOLERANCE = 10000, 1e-9


def match_transport(problem: MatchingProblem, options: TransportOptions) -> LinearCombination:
    """Method "ot". For what is raised see `combine_groups`."""
    return combine_groups(problem, lambda statistics, group: transport_units(statistics, options.entropy, group))


def transport_units(statistics: UnitStatistics, entropy: float, group: str) -> tuple[Pair, Pair]:
    """(merge of A and B, unmerge of A and B): (I/2, T/2), (I, T^T) with T = n * plan."""
    n = statistics.size
    similarity = statistics.correlation[:n, n:]
    eye = np.eye(n)
    plan = eye[assign(similarity, group)] if entropy == 0 else n * transport_plan(1 - similarity, entropy)
    return (eye / 2, plan / 2), (eye, plan.T)


def transport_plan(cost: Floats, entropy: float) -> Floats:
    """The plan (n, n) with marginals 1/n, by Sinkhorn's iteration on logarithms: no entropy is too small for exp.

    Small entropies converge slowly; after `ITERATIONS` the columns' marginals are exact, the rows' nearly so.
    """
    n = len(cost)
    kernel, marginal = -cost / entropy, -np.log(n)
    f, g, plan = np.zeros(n), np.zeros(n), np.zeros((n, n))
    for _ in range(ITERATIONS):
        f = marginal - logsumexp(kernel + g, axis=1)
        g = marginal - logsumexp(kernel + f[:, None], axis=0)
        plan = np.exp(kernel + f[:, None] + g)
        if np.abs(n * plan.sum(1) - 1).max() < TOLERANCE:
            break
    return plan
