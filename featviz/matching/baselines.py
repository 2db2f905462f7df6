"""Controls: permutations that are found without looking, which a matching has to beat.

two networks -> the identity, or one random permutation of every group; scores and margins are those of the weights.
"""

import numpy as np
from torch import nn

from featviz.matching.assignment import Matching
from featviz.matching.weights import Evidence, scored
from featviz.symmetry.groups import Index, PermutationGroups
from featviz.symmetry.permute import random_permutations


def identity(groups: PermutationGroups) -> dict[str, Index]:
    """Every unit at its own place."""
    return {group.name: np.arange(group.size) for group in groups}


def match_identity(model_a: nn.Module, model_b: nn.Module, groups: PermutationGroups) -> Matching:
    """Unit i of A is unit i of B."""
    evidence, perms = Evidence(model_a, model_b, groups), identity(groups)
    return scored(evidence, groups, perms, [evidence.objective(perms)])


def match_random(model_a: nn.Module, model_b: nn.Module, groups: PermutationGroups, seed: int) -> Matching:
    """One permutation of every group, drawn evenly from those that are allowed (blocks stay blocks)."""
    evidence, perms = Evidence(model_a, model_b, groups), random_permutations(groups, np.random.default_rng(seed))
    return scored(evidence, groups, perms, [evidence.objective(perms)])
