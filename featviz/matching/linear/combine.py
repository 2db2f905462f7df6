"""Shared by the methods that combine units: statistics of every group, a method's step for one group -> `LinearCombination`."""

from collections.abc import Callable

import numpy as np

from featviz.matching.assignment import Floats
from featviz.matching.linear.combination import LinearCombination, Pair
from featviz.matching.linear.merge import check_combinable
from featviz.matching.linear.statistics import UnitStatistics, unit_statistics
from featviz.matching.problem import MatchingProblem


def combine_groups(
    problem: MatchingProblem, combine: Callable[[UnitStatistics, str], tuple[Pair, Pair]]
) -> LinearCombination:
    """Combine the units of every group. Groups that own no parameters are averaged as they are.

    Args:
        combine: (statistics of one group, its name) -> ((merge_a, merge_b), (unmerge_a, unmerge_b)), each (n, n).

    Raises:
        AlignmentError: no data, units that cannot be combined, or covariances that the method cannot use.
    """
    check_combinable(problem.model_a, problem.groups, None, problem.method)
    statistics = unit_statistics(problem)
    merge: dict[str, Pair] = {}
    unmerge: dict[str, Pair] = {}
    scores: dict[str, Floats] = {}
    for group in problem.groups:
        name = group.name
        if name in statistics:
            merge[name], unmerge[name] = combine(statistics[name], name)
            scores[name] = statistics[name].part_correlations(*merge[name])
        else:
            eye = np.eye(group.size)
            merge[name], unmerge[name], scores[name] = (eye / 2, eye / 2), (eye, eye), np.full(group.size, np.nan)
    combination = LinearCombination(merge, unmerge, scores)
    check_combinable(problem.model_a, problem.groups, combination, problem.method)
    return combination
