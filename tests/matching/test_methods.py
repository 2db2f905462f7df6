"""Controls, inner products, Sinkhorn re-basin and more than two networks, each against a few plain lines on small networks."""

import itertools

import numpy as np
import pytest
import torch
from networks import TinyCNN, TinyResNet, planted, random_permutations, relative_difference, seeded
from scipy.optimize import linear_sum_assignment
from torch import nn

import featviz
from featviz.config import AlignConfig
from featviz.errors import AlignmentError
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module

X = torch.rand(1, 3, 8, 8)


def batches(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(8, 3, 8, 8, generator=generator) for _ in range(count)]


def mlp(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_the_controls_are_what_they_say():
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    same = featviz.align(a, b, X, "identity")
    assert all((perm == np.arange(len(perm))).all() for perm in same.permutations.values())
    one, again, other = (featviz.align(a, b, X, "random", seed=seed) for seed in (0, 0, 1))
    for name, perm in one.permutations.items():
        assert sorted(perm) == list(range(len(perm)))
        assert (perm == again.permutations[name]).all()
    assert any((perm != other.permutations[name]).any() for name, perm in one.permutations.items())
    assert relative_difference(b, one.permute(b), torch.rand(2, 3, 8, 8)) < 1e-10


def test_inner_product_matching_assigns_the_raw_products():
    a, b = mlp(0), mlp(1)
    data = [torch.randn(50, 3, generator=torch.Generator().manual_seed(0))]
    found = featviz.align(a, b, data[0][:1], "inner", data)
    with torch.no_grad():
        for depth, (name, perm) in zip((2, 4), found.permutations.items(), strict=True):
            one, other = (model[:depth](data[0]).double().numpy() for model in (a, b))
            wanted = linear_sum_assignment(one.T @ other, maximize=True)[1]
            assert (perm == wanted).all(), name


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 7, 9])
def test_sinkhorn_never_loses_to_its_start_and_leaves_local_optima(seed):
    """Beside weight matching and the best of all (4!)**2 permutations."""
    a, b = mlp(seed), mlp(seed + 100)
    found = featviz.align(a, b, torch.rand(1, 3), "sinkhorn", seed=seed, restarts=1)
    start = featviz.align(a, b, torch.rand(1, 3), "weights", seed=seed, restarts=1)
    weights = ComparedWeights(a, b, found.groups)
    names = [group.name for group in found.groups]
    orders = [np.array(order) for order in itertools.permutations(range(4))]
    best = max(weights.objective(dict(zip(names, pair, strict=True))) for pair in itertools.product(orders, orders))
    reached, before = weights.objective(found.permutations), weights.objective(start.permutations)
    assert before - 1e-12 <= reached <= best + 1e-9
    if seed in (2, 7, 9):  # where one start of coordinate descent gets stuck
        assert reached > before + 0.1


def test_sinkhorn_recovers_a_planted_permutation_and_refuses_blocks():
    model = seeded(TinyResNet)
    other, _, truth = planted(model, X)
    found = featviz.align(model, other, X, "sinkhorn")
    assert all((found.permutations[name] == perm).all() for name, perm in truth.items())
    grouped = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 2, 1), nn.Flatten()).eval()
    with pytest.raises(AlignmentError, match="units in blocks"):
        featviz.align(grouped, grouped, torch.rand(1, 3, 2, 2), "sinkhorn")


def test_options_reach_the_method():
    a, b = mlp(9), mlp(109)
    start = featviz.align(a, b, torch.rand(1, 3), "weights", restarts=1)
    none = featviz.align(a, b, torch.rand(1, 3), "sinkhorn", restarts=1, options=AlignConfig(sinkhorn_steps=0))
    some = featviz.align(a, b, torch.rand(1, 3), "sinkhorn", restarts=1, seed=9)
    assert none.matching.objectives[-1] == pytest.approx(start.matching.objectives[0])
    assert some.matching.objectives[-1] > none.matching.objectives[-1] + 0.1
    with pytest.raises(AlignmentError, match="sinkhorn_temperature"):
        AlignConfig(sinkhorn_temperature=(1.0, 0.0))


def copies(make, count: int) -> tuple[list[nn.Module], list[dict[str, np.ndarray]]]:
    """A network and permuted copies of it: (networks, what each was permuted by)."""
    model = seeded(make)
    groups = permutation_groups(model, X)
    there = [random_permutations(groups, seed) for seed in range(1, count)]
    same = {group.name: np.arange(group.size) for group in groups}
    return [model, *(permute_module(model, groups, perms) for perms in there)], [same, *there]


@pytest.mark.parametrize("make", [TinyResNet, TinyCNN])
@pytest.mark.parametrize("method", ["activations", "weights", "c2m3"])
def test_permuted_copies_come_back_and_their_merge_is_the_network(make, method):
    models, there = copies(make, 3)
    found = featviz.align_many(models, X, method, batches())
    for own, planted_perms in zip(found.permutations, there, strict=True):
        assert all((own[name] == np.argsort(perm)).all() for name, perm in planted_perms.items())
    merged = featviz.merge_many(models, found, repair="none")
    assert relative_difference(models[0], merged, torch.rand(2, 3, 8, 8)) < 1e-6


@pytest.mark.parametrize("method", ["activations", "weights", "c2m3"])
def test_compositions_round_a_cycle_are_the_identity(method):
    models = [seeded(TinyResNet, seed) for seed in range(4)]
    found = featviz.align_many(models, X, method, batches())
    for cycle in itertools.permutations(range(4), 3):
        pairs = [found.pair(p, q) for p, q in zip(cycle, (*cycle[1:], cycle[0]), strict=True)]
        for name in pairs[0]:
            round_trip = pairs[2][name][pairs[1][name][pairs[0][name]]]
            assert (round_trip == np.arange(len(round_trip))).all()
    layer = "bn1"
    units = found.members(layer, 3)
    assert units[0] == 3
    place = found.groups.layers[layer]
    name, element = found.groups.groups[place.group[3]].name, place.element[3]
    assert tuple(found.pair(0, k)[name][element] for k in range(4)) == units


def test_three_networks_reach_the_best_sum_of_correlations():
    """Against all (4!)**2 ways to place two networks beside a third."""
    models = [mlp(seed) for seed in range(3)]
    data = [torch.randn(64, 3, generator=torch.Generator().manual_seed(0))]
    found = featviz.align_many(models, data[0][:1], "activations", data)
    orders = [np.array(order) for order in itertools.permutations(range(4))]
    total = 0.0
    with torch.no_grad():
        for depth in (2, 4):
            acts = [model[:depth](data[0]).double().numpy().T for model in models]
            with np.errstate(invalid="ignore"):
                c = {(p, q): np.nan_to_num(np.corrcoef(acts[p], acts[q])[:4, 4:]) for p, q in ((0, 1), (0, 2), (1, 2))}
            rows = np.arange(4)
            total += max(
                c[0, 1][rows, one].sum() + c[0, 2][rows, two].sum() + c[1, 2][one, two].sum()
                for one, two in itertools.product(orders, orders)
            )
    assert found.objective <= total + 1e-9
    assert found.objective == pytest.approx(total, rel=0.02)  # coordinate ascent: a local best


def test_a_merge_of_many_is_the_mean_and_its_statistics_are_measured():
    models = [seeded(TinyResNet, seed) for seed in range(3)]
    found = featviz.align_many(models, X, "weights")
    merged = featviz.merge_many(models, found, data=batches())
    permuted = found.permute(models)
    wanted = sum(model.get_parameter("conv2.weight").detach() for model in permuted) / 3
    torch.testing.assert_close(merged.get_parameter("conv2.weight").detach(), wanted)
    with torch.no_grad():
        seen = torch.cat([merged.get_submodule("conv1")(x) for x in batches()])
    torch.testing.assert_close(merged.get_submodule("bn1").running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_many_networks_are_refused_in_one_sentence():
    models = [seeded(TinyResNet, seed) for seed in range(3)]
    found = featviz.align_many(models, X, "weights")
    with pytest.raises(AlignmentError, match="two or more"):
        featviz.align_many(models[:1], X, "weights")
    with pytest.raises(AlignmentError, match="give data"):
        featviz.align_many(models, X, "activations")
    with pytest.raises(AlignmentError, match="'zipit'"):
        featviz.align_many(models, X, "zipit")
    with pytest.raises(AlignmentError, match="network 1 is not"):
        featviz.merge_many([models[0], models[2], models[1]], found)
    with pytest.raises(AlignmentError, match="of 3 networks"):
        found.permute(models[:2])
    with pytest.raises(AlignmentError, match="'repair'"):
        featviz.merge_many(models, found, repair="repair")
