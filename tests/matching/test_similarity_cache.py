"""Similarities that follow what has moved are those computed anew."""

import numpy as np
import pytest
import torch
from networks import Cardinal, Depthwise, Heads, ResidualMLP, TinyResNet, random_permutations, seeded

from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.similarity_cache import SimilarityCache
from featviz.symmetry.discovery import permutation_groups

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "residual convolutions": (TinyResNet, IMAGE),
    "residual linear layers": (ResidualMLP, torch.rand(1, 10)),
    "grouped convolution": (Cardinal, IMAGE),
    "depthwise convolution": (Depthwise, IMAGE),
    "attention heads": (lambda: Heads("nothing"), IMAGE),
}


def similarity_of_rows(weights, group, perms):
    """Sum over axes of A's rows times B's rows, the other groups permuted."""
    total = torch.zeros(group.size, group.size, dtype=torch.float64)
    for rows_a, rows_b in weights.rows(group, perms):
        total += rows_a.double() @ rows_b.double().T
    return total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_similarity_that_follows_moves_is_the_one_computed_anew(name, dtype):
    make, example = NETWORKS[name]
    model_a, model_b = seeded(make, 0).to(dtype), seeded(make, 1).to(dtype)
    example = example.to(dtype)
    groups = permutation_groups(model_a, example)
    weights = ComparedWeights(model_a, model_b, groups)
    followed = SimilarityCache(weights)
    perms: dict[str, np.ndarray] = {}
    for family in groups.families():  # placed one after the other, as a start does
        for group in family:
            followed.similarity(group, perms)
        perms |= {g.name: p for g in family for p in [random_permutations(groups, 0)[g.name]]}
    for seed in range(1, 6):
        moved = list(groups.families())[seed % len(groups.families())]
        perms = {**perms, **{g.name: random_permutations(groups, seed)[g.name] for g in moved}}
        for group in groups:
            similarity, _ = followed.similarity(group, perms)
            assert similarity.dtype == dtype
            error = 1e-10 if dtype == torch.float64 else 1e-5
            expected = similarity_of_rows(weights, group, perms)
            torch.testing.assert_close(similarity.double(), expected, rtol=error, atol=error)


def test_a_group_whose_neighbours_stay_has_not_changed():
    model_a, model_b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    groups = permutation_groups(model_a, IMAGE)
    cache = SimilarityCache(ComparedWeights(model_a, model_b, groups))
    perms = random_permutations(groups, 0)
    assert all(cache.similarity(group, perms)[1] for group in groups)
    assert not any(cache.similarity(group, perms)[1] for group in groups)
    (first, *_) = groups
    perms = {**perms, first.name: random_permutations(groups, 1)[first.name]}
    changed = {group.name for group in groups if cache.similarity(group, perms)[1]}
    shared = {axis.parameter for axis in first.axes}
    neighbours = {g.name for g in groups if g is not first and shared & {axis.parameter for axis in g.axes}}
    assert changed
    assert changed <= neighbours | {first.name}
