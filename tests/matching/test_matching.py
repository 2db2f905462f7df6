"""P5: a planted permutation is recovered exactly; every step of weight matching raises the true objective."""

import itertools

import numpy as np
import pytest
import torch
from cifar_batches import some_batches
from networks import ResidualMLP, TinyCNN, TinyResNet, planted, seeded
from torch import nn

import featviz
from featviz.config import AlignConfig
from featviz.config.matching_options import SinkhornOptions, WeightMatchingOptions
from featviz.errors import AlignmentError
from featviz.matching.assignment import Matching, assign, scores_and_margins
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.permutation.weight_blocks import permuted_twice
from featviz.matching.permutation.weights import match_weights
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_activations import activation_sites, measure_moments, rows_of_positions
from featviz.symmetry.discovery import permutation_groups
from featviz.zoo import CifarVGG


def matched(a: nn.Module, b: nn.Module, groups, seed: int = 0, **options) -> Matching:
    return match_weights(MatchingProblem("weights", (a, b), groups, seed=seed), AlignConfig(**options))


def recovered(alignment: featviz.Alignment, truth: dict[str, np.ndarray]) -> bool:
    return all((alignment.permutations[name] == perm).all() for name, perm in truth.items())


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_planted_permutation_of_the_bundled_pair_is_recovered(method, noise, cifar):
    model = featviz.bundled_pair().a
    other, _, truth = planted(model, torch.rand(1, 3, 32, 32), seed=3, noise=noise)
    data = some_batches(cifar, model, 256)
    alignment = featviz.align(model, other, torch.rand(1, 3, 32, 32), method, data, restarts=1, verify=False)
    assert recovered(alignment, truth)


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_planted_permutation_of_vgg11_is_recovered(method, noise, cifar):
    model = seeded(lambda: CifarVGG(11, 0.25, batch_norm=True))
    other, _, truth = planted(model, torch.rand(1, 3, 32, 32), seed=3, noise=noise)
    data = some_batches(cifar, model, 256)
    alignment = featviz.align(model, other, torch.rand(1, 3, 32, 32), method, data, restarts=1, verify=False)
    for group, perm in truth.items():
        alive = alignment.scores[group] > 0  # a unit that answers to no image is matched by exclusion
        assert (alignment.permutations[group] == perm)[alive].all()
        assert alive.mean() > 0.5


@pytest.mark.parametrize("seed", range(10))
def test_the_residual_mlp_of_git_re_basin_issue_8_is_recovered_from_one_start(seed):
    model = seeded(ResidualMLP, seed)
    other, groups, truth = planted(model, torch.rand(1, 10), seed)
    matching = matched(model, other, groups, restarts=1, seed=seed)
    assert all((matching.perms[name] == perm).all() for name, perm in truth.items())


@pytest.mark.parametrize("make", [TinyResNet, TinyCNN])
def test_activations_recover_a_planted_permutation(make):
    model = seeded(make)
    other, _, truth = planted(model, torch.rand(1, 3, 8, 8))
    data = [torch.randn(32, 3, 8, 8) for _ in range(3)]
    alignment = featviz.align(model, other, torch.rand(1, 3, 8, 8), "activations", data)
    assert recovered(alignment, truth)
    scores = np.concatenate(list(alignment.scores.values()))
    dead = scores == 0  # a unit whose ReLU never opens is matched by exclusion
    assert (scores[~dead] > 1 - 1e-6).all()
    assert dead.sum() <= 1


def test_no_permutation_of_a_tiny_network_beats_weight_matching():
    """Against brute force over all permutations of two groups of four."""
    mlp = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    other = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = permutation_groups(mlp, torch.rand(1, 3))
    matching = matched(mlp, other, groups, restarts=8)
    weights = ComparedWeights(mlp, other, groups)
    names = [group.name for group in groups]
    orders = [np.array(order) for order in itertools.permutations(range(4))]
    best = max(weights.objective(dict(zip(names, pair, strict=True))) for pair in itertools.product(orders, repeat=2))
    assert max(matching.objectives) == pytest.approx(best, rel=1e-9)
    assert weights.objective(matching.perms) == pytest.approx(best, rel=1e-9)


def test_a_group_on_two_axes_of_one_tensor_only_ever_raises_the_objective():
    """A square recurrent-like map: x + W x, where W has the group on both axes, so that a linear step may overshoot."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.square, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x)
            return self.last(x + self.square(x))

    a, b = seeded(Square, 0), seeded(Square, 1)
    groups = permutation_groups(a, torch.rand(1, 3))
    weights = ComparedWeights(a, b, groups)
    (group,) = groups.groups
    assert permuted_twice(weights, [group]) == ["square.weight"]
    matching = matched(a, b, groups, restarts=4)
    start = weights.objective({group.name: np.arange(8)})
    assert max(matching.objectives) >= start
    assert weights.objective(matching.perms) == pytest.approx(max(matching.objectives))


def test_the_scale_of_a_filter_before_a_norm_is_no_weights():
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    groups = permutation_groups(a, torch.rand(1, 3, 8, 8))
    plain = matched(a, b, groups)
    with torch.no_grad():
        b.conv1.weight.mul_(torch.rand(8, 1, 1, 1) * 100 + 1)
    scaled = matched(a, b, groups)
    assert all((plain.perms[name] == scaled.perms[name]).all() for name in plain.perms)


def test_running_statistics_are_no_weights():
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    groups = permutation_groups(a, torch.rand(1, 3, 8, 8))
    plain = matched(a, b, groups)
    b.bn1.running_mean.copy_(100 * torch.rand(8))
    b.bn1.running_var.copy_(100 * torch.rand(8))
    other = matched(a, b, groups)
    assert all((plain.perms[name] == other.perms[name]).all() for name in plain.perms)


def test_margin_is_the_lead_over_the_best_other_candidate():
    similarity = np.array([[0.9, 0.2, 0.5], [0.8, 0.7, 0.1], [0.0, 0.3, 0.4]])
    perm = assign(similarity, "g")
    assert perm.tolist() == [0, 1, 2]
    score, margin = scores_and_margins(similarity, perm)
    np.testing.assert_allclose(score, [0.9, 0.7, 0.4])
    np.testing.assert_allclose(margin, [0.4, -0.1, 0.1])


def test_nan_activations_are_refused_by_name_of_the_group():
    model = seeded(TinyCNN)
    data = [torch.full((2, 3, 8, 8), float("nan"))]
    with pytest.raises(AlignmentError, match="the units of group conv1 cannot be compared"):
        featviz.align(model, seeded(TinyCNN, 1), torch.rand(1, 3, 8, 8), "activations", data)


def test_activations_without_data_say_what_to_do():
    model = seeded(TinyCNN)
    with pytest.raises(AlignmentError, match="give data"):
        featviz.align(model, model, torch.rand(1, 3, 8, 8), "activations")
    with pytest.raises(AlignmentError, match="yielded no batch"):
        featviz.align(model, model, torch.rand(1, 3, 8, 8), "activations", [])
    with pytest.raises(AlignmentError, match="there is no method 'magic'"):
        featviz.align(model, model, torch.rand(1, 3, 8, 8), "magic")


def test_weights_are_compared_by_their_plain_inner_product_where_no_norm_follows():
    """And without their scale where one does; both can be asked for."""
    x = torch.rand(1, 3, 4, 4)

    def make() -> nn.Sequential:
        last = nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), *last)

    a, b = seeded(make, 0).double(), seeded(make, 1).double()
    alignment = featviz.align(a, b, x.double(), restarts=1)
    moved = dict(alignment.permute(b).named_parameters())
    plain = scale_free = mixed = 0.0
    for name, one in a.named_parameters():
        if name == "4.bias":
            continue  # of the outputs
        other, product = moved[name], float((one * moved[name]).sum())
        if one.dim() > 1:
            free = float(nn.functional.cosine_similarity(one.flatten(1), other.flatten(1)).sum())
        else:
            free = 0.01 * len(one) * float(nn.functional.cosine_similarity(one, other, dim=0))
        plain, scale_free = plain + product, scale_free + free
        mixed += free if name in ("2.weight", "2.bias", "3.weight", "3.bias") else product
    found = featviz.weight_objectives(a, b, alignment)
    assert (found.plain, found.scale_free) == pytest.approx((plain, scale_free))
    assert alignment.matching.objectives == pytest.approx((mixed,))


def scaled_arbitrarily():
    """Folded norms: B's filters have scales that the next layer undoes, and noise; the plain sum is of the large ones."""
    a = seeded(lambda: nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3)))
    x = torch.rand(1, 12)
    b, _, truth = planted(a, x)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in (a, b):
            scale = torch.logspace(-1, 1, 24)[torch.randperm(24, generator=generator)]
            network[0].weight.mul_(scale[:, None]).mul_(1 + 0.3 * torch.randn(24, 12, generator=generator))
            network[0].bias.mul_(scale)
            network[2].weight.div_(scale)
    return a, b, x, truth


def count_right(perms, truth) -> int:
    return sum(int((perms[name] == perm).sum()) for name, perm in truth.items())


@pytest.mark.parametrize(("method", "options"), [("weights", WeightMatchingOptions), ("sinkhorn", SinkhornOptions)])
def test_filters_of_arbitrary_scale_are_found_scale_free(method, options):
    a, b, x, truth = scaled_arbitrarily()
    found = [featviz.align(a, b, x, method, options=options(scale_free=kind)).permutations for kind in (0, 1)]
    plain, scale_free = (count_right(perms, truth) for perms in found)
    assert scale_free == 24
    assert plain < 16


@pytest.mark.parametrize("method", ["weights", "c2m3"])
def test_filters_of_arbitrary_scale_are_found_scale_free_in_many_networks(method):
    a, b, x, truth = scaled_arbitrarily()
    found = featviz.align_many([a, b], x, method, options=WeightMatchingOptions(scale_free=1))
    assert count_right(found.permutations[1], truth) == 24


def test_units_that_float32_cannot_tell_apart_are_matched_in_float64():
    """Twins that differ by a part in a million: the wrong one costs 1e-12 of the objective, float32 sums err by 1e-7."""
    a = seeded(lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)))
    with torch.no_grad():
        for first in range(0, 32, 2):
            for axis, weight in ((0, a[0].weight), (1, a[2].weight)):
                own = weight.select(axis, first)
                weight.select(axis, first + 1).copy_(own * (1 + 1e-6 * torch.randn_like(own)))
            a[0].bias[first + 1] = a[0].bias[first]
    x = torch.rand(1, 64)
    b, _, truth = planted(a, x)
    found = featviz.align(a, b, x, restarts=1)
    assert all((found.permutations[name] == perm).all() for name, perm in truth.items())


@pytest.mark.parametrize("method", ["activations", "inner"])
def test_a_unit_that_is_constant_on_the_data_has_no_partner(method):
    """Units 1 and 4 of A, and their copies in B, are 0 whatever they see; all others are found."""
    a = seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    with torch.no_grad():
        a[0].weight.mul_(10)
        a[0].weight[[1, 4]], a[0].bias[[1, 4]] = -1.0, -1.0
        a[0].bias[[0, 2, 3, 5, 6, 7]] += 5
    x = torch.rand(200, 5)
    b, _, truth = planted(a, x[:1])
    found = featviz.align(a, b, x[:1], method, [x.clamp(0.01, 0.99)])
    (perm,) = truth.values()
    matches = [found.indexer.match("1", unit) for unit in range(8)]
    assert [match.unmatched for match in matches] == [unit in (1, 4) for unit in range(8)]
    assert all("no partner" in str(match) for match in matches if match.unmatched)
    assert all(match.b == perm[match.a] for match in matches if not match.unmatched)
    assert {matches[1].b, matches[4].b} == {perm[1], perm[4]}
    for combining in ("zipit", "ot", "cca"):
        indexer = featviz.align(a, b, x[:1], combining, [x.clamp(0.01, 0.99)]).indexer
        mixes = [indexer.mix("1", unit) for unit in range(8)]
        assert [mix.unmatched for mix in mixes] == [unit in (1, 4) for unit in range(8)], combining


def test_positions_of_maps_are_taken_from_a_grid_that_moves():
    maps = torch.arange(2 * 3 * 16).view(2, 3, 4, 4)
    rows = maps.movedim(1, 0).reshape(3, 2, 16)
    everything = rows_of_positions(maps, 1, 0, 0)
    assert torch.equal(everything, rows.flatten(1))
    assert everything.data_ptr() != maps.data_ptr()
    for first in range(5):
        assert torch.equal(rows_of_positions(maps, 1, 6, first), rows[:, :, first % 3 :: 3].flatten(1))
    tokens = torch.arange(2 * 5 * 3).view(2, 5, 3)
    assert torch.equal(rows_of_positions(tokens, 2, 100, 7), tokens.movedim(2, 0).flatten(1))
    assert torch.equal(rows_of_positions(torch.eye(3), 1, 1, 4), torch.eye(3))


def test_a_map_that_two_modules_read_is_compared_once():
    """A residual branch and its shortcut read one map; the layer after them reads another of the same units."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.shortcut, self.head = (
                nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5, bias=False), nn.Linear(5, 2),
            )  # fmt: skip

        def forward(self, x):
            x = self.stem(x).relu()
            return self.head(self.branch(x) + self.shortcut(x))

    a, b = seeded(Branches, 0), seeded(Branches, 1)
    problem = MatchingProblem("activations", (a, b), permutation_groups(a, torch.rand(1, 3)), [torch.rand(9, 3)])
    sites = activation_sites(a, problem.groups)
    moments = measure_moments(problem, sites, [(0, 1)])
    assert {name: [site.module for site in found] for name, found in sites.items()} == {
        "stem": ["branch", "shortcut"], "branch": ["head"],
    }  # fmt: skip
    assert {name: len(found) for name, found in moments.items()} == {"stem": 1, "branch": 1}
