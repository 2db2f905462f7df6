"""Controls: permutations that are found without looking at the units, which a matching has to beat.

Scores and margins are those of the weights.
"""

import numpy as np

from featviz.config.matching_options import MethodOptions
from featviz.matching.problem import MatchingProblem
from featviz.symmetry.groups import Index, PermutationGroups
from featviz.symmetry.permute import random_permutations


def identity(groups: PermutationGroups) -> dict[str, Index]:
    """Every unit is its own partner."""
    return {group.name: np.arange(group.size) for group in groups}


def match_identity(problem: MatchingProblem, options: MethodOptions) -> dict[str, Index]:
    """Method "identity": unit i of A is unit i of B."""
    del options
    return identity(problem.groups)


def match_random(problem: MatchingProblem, options: MethodOptions) -> dict[str, Index]:
    """Method "random": one permutation of every group, drawn uniformly from those that are allowed (blocks stay whole)."""
    del options
    return random_permutations(problem.groups, np.random.default_rng(problem.seed))
