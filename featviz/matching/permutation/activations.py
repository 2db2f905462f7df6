"""Activation matching (Li et al. 2015; Jordan et al. 2022): pair the units whose activations correlate most.

data through A and B once -> Pearson correlation (n, n) of every pair of units of a group -> its assignment.

A group is compared at all its sites (`unit_activations.py`), and the correlations of several sites are averaged. A unit that
never varies correlates with nothing: its correlation is 0, and so are its score and margin. A group without a site is matched
by its weights, once all others are placed.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from featviz.config.matching_options import ActivationOptions
from featviz.matching.assignment import Floats, Matching, assign_family, groups_of_units, score_permutations
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.coordinate_descent import place_progressively
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_activations import activation_sites, measure_moments
from featviz.moments import Moments
from featviz.symmetry.groups import Group, Index

Statistic = Callable[[Moments], Tensor]  # of A's and B's units at one site -> (n, n)


def match_correlations(problem: MatchingProblem, options: ActivationOptions) -> Matching:
    """Method "activations": assign by Pearson's correlation.

    Raises:
        AlignmentError: there is no data, or an activation is not finite.
    """
    return match_activations(problem, options, Moments.correlation, Moments.correlation)


def match_inner_products(problem: MatchingProblem, options: ActivationOptions) -> Matching:
    """Method "inner": assign by E[a b], nothing subtracted, as Git Re-Basin does (Ainsworth et al. 2022, section 3.1).

    Scores and margins are the cosines, since the product itself has the units' scale.
    """
    return match_activations(problem, options, Moments.inner_product, Moments.cosine)


def match_activations(
    problem: MatchingProblem, options: ActivationOptions, assigned: Statistic, scored: Statistic
) -> Matching:
    """Match every group by its activations on the problem's data, in one pass.

    Args:
        assigned: what the assignment maximises. scored: what scores and margins are read from, in [-1, 1].

    Raises:
        AlignmentError: there is no data, or an activation is not finite.
    """
    groups = problem.groups
    sites = activation_sites(problem.model_a, groups)
    moments = measure_moments(problem, sites, [(0, 1)], options.positions, torch.float32)

    def over_sites(group: Group, statistic: Statistic) -> Floats:
        return np.mean([statistic(own).cpu().numpy() for own in moments[group.name]], axis=0)

    perms: dict[str, Index] = {}
    unseen = []
    for family in groups.families():
        units = groups_of_units(family)
        if all(sites[group.name] for group in units):
            perms |= assign_family(family, {group.name: over_sites(group, assigned) for group in units})
        else:
            unseen.append(family)
    by_weights = {group.name for family in unseen for group in family}
    weights = ComparedWeights.of(problem) if unseen else None
    if weights is not None:
        perms = place_progressively(SimilarityCache(weights), unseen, perms)

    def similarity(group: Group) -> Floats:
        if weights is not None and group.name in by_weights:
            return weights.cosine(group, perms)
        return over_sites(group, scored)

    return score_permutations(groups, perms, similarity)
