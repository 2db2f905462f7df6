"""Scores and margins by weights: permutations, weights of both networks -> a `Matching` with the cosines of matched units."""

from collections.abc import Iterable, Mapping

from featviz.matching.assignment import Floats, Matching, score_permutations
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.symmetry.groups import Group, Index, PermutationGroups


def score_by_weights(
    weights: ComparedWeights,
    groups: PermutationGroups,
    perms: Mapping[str, Index],
    objectives: Iterable[float] | None = None,
    similarities: SimilarityCache | None = None,
) -> Matching:
    """A matching of these permutations whose scores and margins are cosines of the weights.

    Args:
        objectives: what the starts of the method reached; None: the objective of `perms` alone.
        similarities: of these permutations or of others, where they are at hand: what has not moved is not computed anew.
    """
    objectives = [weights.objective(perms)] if objectives is None else objectives

    def cosine(group: Group) -> Floats:
        known = None if similarities is None or group.blocks > 1 else similarities.similarity(group, perms)[0]
        return weights.cosine(group, perms, known)

    return score_permutations(groups, perms, cosine, objectives)
