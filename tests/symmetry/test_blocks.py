"""Whole blocks are exchanged where the symmetry allows it: heads, convolution groups, GroupNorm groups; in both matchings."""

import itertools

import numpy as np
import pytest
import torch
from networks import Attending, Cardinal, GroupNormStem, Heads, Norms, planted, random_permutations, seeded
from torch import Tensor, nn

import featviz
from featviz.config import AlignConfig
from featviz.matching.assignment import assign_blocks
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.weights import match_weights
from featviz.matching.problem import MatchingProblem
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permutation_of_blocks, permutation_of_whole_blocks

IMAGE = (1, 3, 8, 8)


NETWORKS = {
    "convolution groups": Cardinal,
    "GroupNorm": GroupNormStem,
    "GroupNorm on a residual stream": Norms,
    "heads": lambda: Heads("nothing"),
    "heads that own a bias": lambda: Heads("a bias table"),
    "nn.MultiheadAttention": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Transposed(), nn.TransformerEncoderLayer(8, 4, 6, batch_first=True, dropout=0),
        nn.Flatten(), nn.Linear(32, 3),
    ),
}  # fmt: skip


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mT


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_planted_permutation_of_blocks_is_recovered(name, method, noise):
    shape = (1, 12, 8, 8) if NETWORKS[name] is Norms else IMAGE
    shape = (1, 3, *shape[2:])
    model = seeded(NETWORKS[name], 1)
    other, groups, truth = planted(model, torch.rand(shape), 2, noise)
    assert any(group.blocks > 1 for group in groups)
    data = [torch.randn(16, *shape[1:], generator=torch.Generator().manual_seed(i)) for i in range(20)]
    alignment = featviz.align(model, other, torch.rand(shape), method, data if method == "activations" else None)
    for group, perm in truth.items():
        scores = alignment.scores[group]
        alive = scores > 0  # a unit that is dead on this data is matched by exclusion
        assert (alignment.permutations[group] == perm)[alive].all(), group
        assert alive.mean() > 0.5
        assert scores[alive].min() > 0.9


def test_blocks_are_moved_whole():
    groups = permutation_groups(seeded(Cardinal), torch.rand(IMAGE))
    perms = random_permutations(groups, 5)
    (blocks,) = (group for group in groups if group.name == group.family)
    members = [group for group in groups if group.family == blocks.name and group is not blocks]
    assert len(members) == 2
    for group in members:
        size = group.size // group.blocks
        assert (perms[group.name].reshape(-1, size) // size == perms[blocks.name][:, None]).all()
    outer = np.array([2, 0, 1])
    assert permutation_of_whole_blocks(outer, 6).tolist() == [4, 5, 0, 1, 2, 3]
    assert permutation_of_blocks(outer, np.array([[1, 0], [0, 1], [1, 0]])).tolist() == [5, 4, 0, 1, 3, 2]


def test_assignment_of_blocks_equals_brute_force():
    generator = np.random.default_rng(0)
    for _ in range(5):
        similarities = [generator.normal(size=(6, 6)), generator.normal(size=(9, 9))]
        found = assign_blocks(similarities, 3, "f")
        total = sum(s[np.arange(len(s)), perm].sum() for s, perm in zip(similarities, found, strict=True))
        best = -np.inf
        for outer in itertools.permutations(range(3)):
            value = 0.0
            for similarity in similarities:
                size = len(similarity) // 3
                for here, there in enumerate(outer):
                    part = similarity[here * size :, there * size :]
                    value += max(part[np.arange(size), list(p)].sum() for p in itertools.permutations(range(size)))
            best = max(best, value)
        assert total == pytest.approx(best)


@pytest.mark.parametrize("make", [lambda: Cardinal(2, 4, 2), lambda: nn.Sequential(Attending(3, 2, 2), nn.Flatten())])
def test_no_allowed_permutation_beats_weight_matching(make):
    """Against brute force over all permutations that keep blocks whole."""
    for seed in range(3):
        a, b = seeded(make, seed), seeded(make, seed + 10)
        groups = permutation_groups(a, torch.rand(IMAGE))
        evidence = ComparedWeights(a, b, groups)
        matching = match_weights(MatchingProblem("weights", (a, b), groups), AlignConfig(restarts=80))
        choices = []
        for family in groups.families():
            outers = itertools.permutations(range(family[0].blocks))
            choices.append([perms for outer in outers for perms in allowed(family, np.array(outer))])
        best = max(
            evidence.objective({k: v for part in chosen for k, v in part.items()})
            for chosen in itertools.product(*choices)
        )
        assert evidence.objective(matching.perms) == pytest.approx(best, rel=1e-9)


def allowed(family, outer):
    """Every choice of inner permutations for a family whose blocks go to `outer`."""
    per_group = []
    for group in family:
        orders = list(itertools.permutations(range(group.size // group.blocks)))
        inner = itertools.product(orders, repeat=group.blocks)
        per_group.append([(group.name, permutation_of_blocks(outer, np.array(orders))) for orders in inner])
    return [dict(chosen) for chosen in itertools.product(*per_group)]
