"""ZipIt (Stoica et al. 2023, "ZipIt! Merging Models from Different Tasks without Training"), over whole networks.

correlations (2n, 2n) -> a partition of the 2n units of A and B into n clusters, each merged to its mean.

Greedy: merge the pair of highest correlation, also two units of one network, until n are left. A cluster is as similar to
another as its least similar members (their minimum), times `alpha` for every merge it has seen (paper, section 4.3), so that
large clusters are discouraged; at alpha 0 a cluster takes no more. At most a share `beta` of n/2 merges happens within each
network. With alpha 0 and beta 0 the clusters are cross pairs: a permutation, found greedily. Where these rules forbid every
pair that is left, the most similar pair of all is merged. Units that never vary have no correlation; those of A are merged
with those of B, as they come.
"""

import numpy as np

from featviz.config.matching_options import ZipItOptions
from featviz.matching.assignment import Floats
from featviz.matching.linear.combination import LinearCombination, Pair
from featviz.matching.linear.combine import combine_groups
from featviz.matching.problem import MatchingProblem


def match_zipit(problem: MatchingProblem, options: ZipItOptions) -> LinearCombination:
    """Method "zipit". For what is raised see `combine_groups`."""
    return combine_groups(
        problem, lambda statistics, group: zip_units(statistics.correlation, options.alpha, options.beta)
    )


def zip_units(correlation: Floats, alpha: float, beta: float) -> tuple[Pair, Pair]:
    """(merge of A and B, unmerge of A and B), each (n, n).

    Merged unit i has A's unit i as its first member of A; clusters of B's units alone take the places that are left.
    """
    n = len(correlation) // 2
    dead = correlation.diagonal() == 0
    similarity = correlation.copy()
    similarity[:n, n:][np.outer(dead[:n], dead[n:])] = 1
    similarity[n:, :n] = similarity[:n, n:].T
    clusters = zip_clusters(similarity, alpha, beta)
    first = {min(cluster): cluster for cluster in clusters}
    alone = iter([first[unit] for unit in sorted(first) if unit >= n])
    member = np.zeros((2 * n, n))
    for place in range(n):
        member[first[place] if place in first else next(alone), place] = 1
    merge = (member / member.sum(0)).T
    return (merge[:, :n], merge[:, n:]), (member[:n], member[n:])


def zip_clusters(correlation: Floats, alpha: float, beta: float) -> list[list[int]]:
    """n clusters of the 2n units (B's from n on)."""
    n = len(correlation) // 2
    clusters = [[unit] for unit in range(2 * n)]
    origin = np.repeat([0, 1], n)  # of a cluster: 0 and 1 for units of one network alone, 2 for both
    plain = np.array(correlation, dtype=np.float64)  # least correlation of the members
    value = plain.copy()  # and what the merges have left of it
    budget = [int(n // 2 * beta + 1e-9)] * 2
    dropped, closed = np.zeros((2, 2 * n), dtype=bool)
    for _ in range(n):
        merged = dropped[:, None] | dropped | np.eye(2 * n, dtype=bool)
        spent = np.array([*(left <= 0 for left in budget), False])[origin]
        ruled_out = merged | (spent[:, None] & (origin[:, None] == origin)) | closed[:, None] | closed
        pairs = np.where(merged, -np.inf, plain) if ruled_out.all() else np.where(ruled_out, -np.inf, value)
        one, other = sorted(divmod(int(pairs.argmax()), 2 * n))
        if origin[one] == origin[other] < 2:
            budget[origin[one]] -= 1
        origin[one] = origin[one] if origin[one] == origin[other] else 2
        clusters[one] += clusters[other]
        for matrix, factor in ((plain, 1.0), (value, alpha)):
            matrix[one] = matrix[:, one] = factor * np.minimum(matrix[one], matrix[other])
        closed[one], dropped[other] = alpha == 0, True
    return [sorted(cluster) for cluster, gone in zip(clusters, dropped, strict=True) if not gone]
