"""Weight matching (Ainsworth, Hayase & Srinivasa 2022, "Git Re-Basin"): coordinate descent from several starts.

weights of A and of B -> one permutation per group with a large sum over parameters of <A, B'>.

Single starts get stuck, and the identity is a poor start. A start here is *progressive*: a parameter counts only once all other
groups on it have been placed, so that what is known grows from the input and the output, whose order is fixed. That alone
recovers a planted permutation of a residual MLP (git-re-basin issue 8). Further starts take the groups in random order, every
fourth begins at random permutations, and one at activation matching's where there is data; the best sum is kept.
"""

from collections.abc import Mapping

import numpy as np
import torch

from featviz.config.matching_options import MethodOptions, WeightMatchingOptions
from featviz.matching.assignment import Matching
from featviz.matching.permutation.activations import match_correlations
from featviz.matching.permutation.coordinate_descent import Perms, coordinate_descent, place_progressively
from featviz.matching.permutation.normalized_weights import NormalizedWeights, score_by_weights
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.matching.problem import MatchingProblem
from featviz.symmetry.groups import Index
from featviz.symmetry.permute import random_permutations


def match_weights(
    problem: MatchingProblem, options: WeightMatchingOptions, start: Mapping[str, Index] | None = None
) -> Matching:
    """Method "weights".

    Args:
        start: permutations from which one more start begins; None: activation matching's, where there is data.

    Raises:
        AlignmentError: the weights are not finite.
    """
    if start is None and problem.data is not None:
        start = match_correlations(problem, MethodOptions()).perms
    groups = problem.groups
    weights = NormalizedWeights.of(problem)
    best: Perms = {}
    objectives: list[float] = []
    total = options.restarts + (start is not None)
    for number in range(total):
        generator = np.random.default_rng([problem.seed, number])
        similarities = SimilarityCache(weights, torch.float32)
        if number == options.restarts:
            perms = dict(start or {})
        elif number % 4 == 3:
            perms = random_permutations(groups, generator)
        else:
            perms = place_progressively(similarities, groups.families(), {}, generator if number else None)
        perms = coordinate_descent(similarities, groups, perms, options, generator)
        objectives.append(weights.objective(perms))
        if objectives[-1] >= max(objectives):
            best = perms
        if problem.progress:
            problem.progress(number + 1, total)
    # What float32 could not tell apart is decided in float64.
    best = coordinate_descent(SimilarityCache(weights), groups, best, options, np.random.default_rng(problem.seed))
    objectives[int(np.argmax(objectives))] = weights.objective(best)
    return score_by_weights(weights, groups, best, objectives)
