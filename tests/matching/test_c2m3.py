"""C2M3: many networks to one common basis by Frank-Wolfe; against plain pairs, brute force and what was planted."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from networks import (
    Cardinal,
    Depthwise,
    Grouped,
    GroupNormStem,
    Heads,
    ResidualMLP,
    TinyCNN,
    TinyResNet,
    random_permutations,
    relative_difference,
    seeded,
)
from torch import nn

import featviz
from featviz.config import AlignConfig
from featviz.matching.multi_network.c2m3 import (
    SumOverPairs,
    argmax_on_unit_interval,
    frank_wolfe,
    interpolate,
    match_from_starts,
    permutation_matrices,
)
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.problem import MatchingProblem
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module

IMAGE = torch.rand(1, 3, 8, 8)
NETWORKS = {
    "residual": (TinyResNet, IMAGE),
    "plain": (TinyCNN, IMAGE),
    "residual MLP": (ResidualMLP, torch.rand(1, 10)),
    "convolution groups": (Cardinal, IMAGE),
    "GroupNorm": (GroupNormStem, IMAGE),
    "heads": (lambda: Heads("a bias table"), IMAGE),
    "depthwise": (Depthwise, IMAGE),
    "grouped, depthwise, transposed": (Grouped, IMAGE),
}


def mlp(seed: int, width: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
    return nn.Sequential(*layers).eval()


def sum_of(make, example, count: int = 3) -> tuple[list[nn.Module], SumOverPairs]:
    models = [seeded(make, seed) for seed in range(count)]
    return models, SumOverPairs(models, permutation_groups(models[0], example))


def drawn(total: SumOverPairs, seed: int = 0) -> list[dict[str, np.ndarray]]:
    return [random_permutations(total.groups, 100 * seed + k) for k in range(total.count)]


def over_pairs(models, groups, perms) -> float:
    """The sum over pairs as weight matching has it, each pair on its own."""
    total = 0.0
    for p, q in itertools.combinations(range(len(models)), 2):
        there = {name: perms[q][name][np.argsort(perm)] for name, perm in perms[p].items()}
        total += ComparedWeights(models[p], models[q], groups).objective(there)
    return total


@pytest.mark.parametrize("name", NETWORKS)
def test_the_objective_at_permutations_is_that_of_weight_matching_summed_over_pairs(name):
    models, total = sum_of(*NETWORKS[name])
    perms = drawn(total)
    assert float(total.objective(permutation_matrices(perms))) == pytest.approx(
        over_pairs(models, total.groups, perms), rel=1e-12
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_line_is_the_objective_and_its_slope_the_gradient(name):
    """Between two soft points, also of groups that lie on two axes of one tensor."""
    _, total = sum_of(*NETWORKS[name])
    a, b, c = (permutation_matrices(drawn(total, seed)) for seed in range(3))
    start, end = interpolate(a, b, 0.3), interpolate(b, c, 0.6)
    line = total.on_segment(start, end)
    for t in (0.0, 0.17, 0.5, 0.83, 1.0):
        assert line(t) == pytest.approx(float(total.objective(interpolate(start, end, t))), rel=1e-9)
    slope = sum(float((g * (end[name] - start[name])).sum()) for name, g in total.gradient(start).items())
    assert line.deriv()(0) == pytest.approx(slope, rel=1e-9)
    grid = np.linspace(0, 1, 1001)
    assert line(argmax_on_unit_interval(line)) >= line(grid).max() - 1e-12 * abs(line(grid)).max()


@pytest.mark.parametrize("name", ["residual", "convolution groups", "heads"])
def test_no_step_lowers_the_objective(name):
    _, total = sum_of(*NETWORKS[name])
    soft, trace = frank_wolfe(total, permutation_matrices(drawn(total)))
    assert len(trace) > 3
    assert (np.diff(trace) >= -1e-12 * trace[-1]).all()
    assert trace[-1] == pytest.approx(float(total.objective(soft)), rel=1e-9)
    for values in soft.values():
        assert values.min() >= 0
        torch.testing.assert_close(values.sum(1), torch.ones_like(values.sum(1)))
        torch.testing.assert_close(values.sum(2), torch.ones_like(values.sum(2)))


def planted_copies(make, example, count: int):
    model = seeded(make)
    groups = permutation_groups(model, example)
    there = [random_permutations(groups, seed) for seed in range(1, count)]
    back = [{name: np.argsort(perm) for name, perm in perms.items()} for perms in there]
    return [model, *(permute_module(model, groups, perms) for perms in there)], groups, back


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_planted_permutations_come_back(name, count):
    models, _, planted = planted_copies(*NETWORKS[name], count)
    found = featviz.align_many(models, NETWORKS[name][1], "c2m3", restarts=1)
    for own, wanted in zip(found.permutations[1:], planted, strict=True):
        assert all((own[group] == perm).all() for group, perm in wanted.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_three_come_back_without_the_start_of_weight_matching(name):
    models, groups, planted = planted_copies(*NETWORKS[name], 3)
    (first, *others), _ = match_from_starts(MatchingProblem("c2m3", tuple(models), groups), AlignConfig())
    for own, wanted in zip(others, planted, strict=True):
        assert all((own[group][np.argsort(first[group])] == perm).all() for group, perm in wanted.items())


def test_the_result_is_at_least_its_start():
    models = [mlp(seed, 6) for seed in range(4)]
    reached = {m: featviz.align_many(models, torch.rand(1, 3), m, restarts=1).objective for m in ("weights", "c2m3")}
    assert reached["c2m3"] >= reached["weights"] > 0


@pytest.mark.parametrize("seed", range(8))
def test_three_networks_against_every_way_to_permute_them(seed):
    """(3!)**4 of them: two groups in two networks, beside the first one's order. One start would not do."""
    models = [mlp(3 * seed + k) for k in range(3)]
    groups = permutation_groups(models[0], torch.rand(1, 3))
    perms, reached = match_from_starts(MatchingProblem("c2m3", tuple(models), groups), AlignConfig())
    assert reached == pytest.approx(over_pairs(models, groups, perms), rel=1e-9)
    orders = [np.array(order) for order in itertools.permutations(range(3))]
    names = [group.name for group in groups]
    choices = [dict(zip(names, pair, strict=True)) for pair in itertools.product(orders, orders)]
    same = choices[0]
    tables = {}
    for p, q in itertools.combinations(range(3), 2):
        pair = ComparedWeights(models[p], models[q], groups)
        tables[p, q] = np.array([pair.objective(choice) for choice in choices])
    number = {tuple(np.concatenate(list(choice.values()))): k for k, choice in enumerate(choices)}
    best = -np.inf
    for (i, one), (j, two) in itertools.product(enumerate(choices), enumerate(choices)):
        between_them = tuple(np.concatenate([two[name][np.argsort(one[name])] for name in same]))
        best = max(best, tables[0, 1][i] + tables[0, 2][j] + tables[1, 2][number[between_them]])
    assert reached == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("name", ["residual", "convolution groups"])
def test_a_merge_in_the_common_basis_is_the_merge_in_the_basis_of_the_first(name):
    """Up to the first one's permutation, which changes no output."""
    make, example = NETWORKS[name]
    models = [seeded(make, seed).double() for seed in range(3)]
    groups = permutation_groups(models[0], example.double())
    found = featviz.align_many(models, example.double(), "c2m3", restarts=2)
    perms, _ = match_from_starts(MatchingProblem("c2m3", tuple(models), groups), AlignConfig(restarts=2))
    there = [permute_module(model, groups, own) for model, own in zip(models, perms, strict=True)]
    with torch.no_grad():
        for parameter, *others in zip(*(model.parameters() for model in there), strict=True):
            parameter.copy_(torch.stack([parameter, *others]).mean(0))
        for buffer, *others in zip(*(model.buffers() for model in there), strict=True):
            buffer.copy_(torch.stack([buffer, *others]).double().mean(0))
    back = {name: np.argsort(perm) for name, perm in perms[0].items()}
    common = tuple({name: perm[back[name]] for name, perm in own.items()} for own in perms)
    found = dataclasses.replace(found, permutations=common)
    merged = featviz.merge_many(models, found, repair="none")
    assert any((own != np.arange(len(own))).any() for own in perms[0].values())
    assert relative_difference(there[0], merged, torch.rand(2, 3, 8, 8)) < 1e-12
    moved = permute_module(there[0], groups, back)
    for one, other in zip(moved.parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(one, other)
