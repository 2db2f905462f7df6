"""Sinkhorn re-basin (Peña et al. 2023): weight matching, refined by gradient ascent on doubly stochastic matrices.

two networks -> logits (n, n) per group -> doubly stochastic matrices S -> sum over parameters of <A, S B>, raised by Adam for
all groups at once while the temperature falls -> permutations by assignment, and coordinate descent from there.

Over permutations the inner product orders as the distance |A - B'|^2 does. Over doubly stochastic matrices it is the better
guide: with one group free it is linear, so that its best point is a permutation, where the distance prefers a mean of many
units. The result is kept only if its objective is above that of weight matching: this method never loses to its start.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from featviz.config.matching_options import SinkhornOptions
from featviz.matching.assignment import Matching
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.coordinate_descent import coordinate_descent
from featviz.matching.permutation.doubly_stochastic import (
    Matrices,
    averaged_parameter,
    nearest_permutations,
    permutation_matrix,
    refuse_blocks,
    sinkhorn_normalize,
)
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.matching.permutation.weight_scores import score_by_weights
from featviz.matching.permutation.weights import match_weights
from featviz.matching.problem import MatchingProblem, Progress
from featviz.symmetry.groups import Index

START = 0.1  # share of weight matching's permutation in the first matrix; the rest is spread over all units


def match_sinkhorn(problem: MatchingProblem, options: SinkhornOptions) -> Matching:
    """Method "sinkhorn".

    Returns:
        The matching; `objectives` are those of weight matching's starts and, last, what the refinement reached.

    Raises:
        AlignmentError: a group has blocks, or the weights are not finite.
    """
    refuse_blocks(problem.groups, "method 'sinkhorn'")
    start = match_weights(replace(problem, method="weights", data=None, progress=None), options)
    weights = ComparedWeights.of(problem, bool(options.scale_free))
    perms = dict(start.perms) | ascend(weights, dict(start.perms), options, problem.progress)
    generator = np.random.default_rng([problem.seed, options.restarts])
    perms = coordinate_descent(SimilarityCache(weights), problem.groups, perms, options, generator)
    reached, objective = weights.objective(start.perms), weights.objective(perms)
    best = perms if objective > reached else start.perms
    return score_by_weights(weights, problem.groups, best, (*start.objectives, objective))


def ascend(
    weights: ComparedWeights, perms: dict[str, Index], options: SinkhornOptions, progress: Progress
) -> dict[str, Index]:
    """Gradient ascent by Adam from near some permutations; the permutations that are nearest to where it ends."""
    logits = {
        name: (START * permutation_matrix(perm) + (1 - START) / len(perm)).log().requires_grad_()
        for name, perm in perms.items()
    }
    first, last = options.sinkhorn_temperature
    matrices: dict[str, Tensor] = {}
    if logits and options.sinkhorn_steps:
        adam = torch.optim.Adam(logits.values(), lr=options.sinkhorn_lr, maximize=True)
        for step in range(options.sinkhorn_steps):
            temperature = first * (last / first) ** (step / max(1, options.sinkhorn_steps - 1))
            adam.zero_grad()
            matrices = {name: sinkhorn_normalize(value / temperature) for name, value in logits.items()}
            objective(weights, matrices).backward()
            adam.step()
            if progress:
                progress(step + 1, options.sinkhorn_steps)
    return nearest_permutations(matrices)


def objective(weights: ComparedWeights, matrices: Matrices) -> Tensor:
    """Sum over parameters of <A, S B>."""
    total = torch.zeros((), dtype=torch.float64)
    for name, owners in weights.groups_on.items():
        total = total + (weights.a[name] * averaged_parameter(weights.b[name].double(), name, owners, matrices)).sum()
    return total
