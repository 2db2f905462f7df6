"""MatchMany (Ainsworth et al. 2022, algorithm 3): network by network, the others held.

No step lowers the sum over all pairs, to which the paper's mean of the other networks is proportional.

By activations the value of a pair is the sum of its matched units' correlations, measured for all pairs in one pass; by weights
it is the inner product of the weights (`compared_weights.py`).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from featviz.config.matching_options import ActivationOptions, WeightMatchingOptions
from featviz.errors import AlignmentError
from featviz.matching.assignment import Floats, assign_family, groups_of_units
from featviz.matching.multi_network.alignment import Perms, relative_permutations
from featviz.matching.permutation import weights as pair_weights
from featviz.matching.permutation.baselines import identity
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_activations import activation_sites, measure_moments
from featviz.symmetry.groups import Group
from featviz.symmetry.permute import permute_module

SWEEPS = 100
Correlations = Mapping[tuple[int, int], Floats]  # (network, network) -> (n, n), both ways round


def match_correlations(problem: MatchingProblem, options: ActivationOptions) -> tuple[list[Perms], float]:
    """Method "activations", family by family: correlations of a group do not depend on the order of the others.

    Returns:
        The permutations of every network, and the sum over pairs of networks and units of correlations.

    Raises:
        AlignmentError: no data, an activation that is not finite, or a group that no module shows.
    """
    groups, count = problem.groups, len(problem.models)
    sites = activation_sites(problem.model_a, groups)
    unseen = next((group.name for group in groups if group.name != group.family and not sites[group.name]), None)
    if unseen is not None:
        raise AlignmentError(f"no module shows the units of group {unseen}: use method='weights'.")
    pairs = list(itertools.combinations(range(count), 2))
    moments = measure_moments(problem, sites, pairs, options.positions, torch.float32)
    generator = np.random.default_rng(problem.seed)
    perms: list[Perms] = [{} for _ in range(count)]
    total = 0.0
    for family in groups.families():
        correlations = {
            group.name: {
                pair: np.mean([own.correlation(*pair).cpu().numpy() for own in moments[group.name]], axis=0)
                for pair in itertools.permutations(range(count), 2)
            }
            for group in groups_of_units(family)
        }
        total += _ascend(family, correlations, perms, generator)
    return perms, total


def _ascend(
    family: Sequence[Group],
    correlations: Mapping[str, Correlations],
    perms: list[Perms],
    generator: np.random.Generator,
) -> float:
    """Place one family of all networks, each beginning at its best match with the first; the sum over pairs that is reached."""
    count = len(perms)

    def place(network: int, others: Sequence[int]) -> None:
        similarities = {
            name: np.sum([own[other, network][perms[other][name]] for other in others], axis=0)
            for name, own in correlations.items()
        }
        perms[network] |= assign_family(family, similarities)

    def reached() -> float:
        return sum(
            float(own[p, q][perms[p][name], perms[q][name]].sum())
            for name, own in correlations.items()
            for p, q in itertools.combinations(range(count), 2)
        )

    perms[0] |= {group.name: np.arange(group.size) for group in family}
    for network in range(1, count):
        place(network, [0])
    best = reached()
    for _ in range(SWEEPS):
        for network in generator.permutation(count).tolist():
            place(network, [other for other in range(count) if other != network])
        now = reached()
        if now <= best + 1e-9 * abs(best):
            break
        best = now
    return max(best, reached())


def match_weights(problem: MatchingProblem, options: WeightMatchingOptions) -> tuple[list[Perms], float]:
    """Method "weights": every network against the sum of the others, from its own permutation on; kept where the sum rises.

    Returns:
        The permutations of every network, and the sum over pairs of inner products.
    """
    models, groups = problem.models, problem.groups
    generator = np.random.default_rng(problem.seed)
    pairs = _pairs_of_weights(problem, bool(options.scale_free))
    perms: list[Perms] = [identity(groups)]
    for model in models[1:]:
        pair = MatchingProblem("weights", (models[0], model), groups, seed=problem.seed)
        perms.append(dict(pair_weights.match_weights(pair, options).perms))
    best = _sum_over_pairs(pairs, perms)
    once = replace(options, restarts=1)
    for sweep in range(SWEEPS):
        before = best
        for network in generator.permutation(len(models)).tolist():
            others = [
                permute_module(m, groups, p) for k, (m, p) in enumerate(zip(models, perms, strict=True)) if k != network
            ]
            kept = perms[network]
            pair = MatchingProblem("weights", (_mean(others), models[network]), groups, seed=problem.seed + sweep)
            perms[network] = dict(pair_weights.match_weights(pair, once, start=kept).perms)
            now = _sum_over_pairs(pairs, perms)
            if now <= best:
                perms[network] = kept
            else:
                best = now
        if problem.progress:
            problem.progress(sweep + 1, 0)
        if best <= before + options.tolerance * abs(before):
            break
    return perms, best


def weight_objective(problem: MatchingProblem, perms: Sequence[Perms]) -> float:
    """Sum over pairs of networks of the inner product of their weights as they are compared, all permuted."""
    return _sum_over_pairs(_pairs_of_weights(problem), perms)


def _pairs_of_weights(problem: MatchingProblem, scale_free: bool = False) -> dict[tuple[int, int], ComparedWeights]:
    models = problem.models
    pairs = itertools.combinations(range(len(models)), 2)
    return {(p, q): ComparedWeights.of(replace(problem, models=(models[p], models[q])), scale_free) for p, q in pairs}


def _sum_over_pairs(pairs: Mapping[tuple[int, int], ComparedWeights], perms: Sequence[Perms]) -> float:
    return sum(weights.objective(relative_permutations(perms[p], perms[q])) for (p, q), weights in pairs.items())


def _mean(models: Sequence[nn.Module]) -> nn.Module:
    """The first network with the mean of all weights in place of its own; it is a private copy."""
    with torch.no_grad():
        for name, weight in models[0].named_parameters():
            weight.copy_(torch.stack([model.get_parameter(name) for model in models]).mean(0))
    return models[0]
