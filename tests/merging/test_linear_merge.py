"""Merges that combine units: each against a few lines of numpy, and the permutation as the case whose answer is known."""

import copy

import numpy as np
import pytest
import torch
from networks import Depthwise, TinyCNN, TinyResNet, random_permutations, relative_difference, seeded
from scipy.linalg import sqrtm
from scipy.optimize import linprog
from torch import nn
from torch.nn import functional as F

import featviz
from featviz.config import AlignConfig
from featviz.errors import AlignmentError
from featviz.matching.linear.cca import cca_units
from featviz.matching.linear.combination import Member, combination_of_permutations, layer_rows
from featviz.matching.linear.merge import merge_linearly
from featviz.matching.linear.optimal_transport import transport_plan, transport_units
from featviz.matching.linear.statistics import UnitStatistics, correlation_of
from featviz.matching.linear.zipit import zip_clusters, zip_units
from featviz.merging.average import average
from featviz.symmetry.permute import permute_module

EXAMPLE = torch.rand(1, 3, 8, 8)
DATA = [torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
METHODS = ("zipit", "cca", "ot")


class Concatenated(nn.Module):
    """Two branches and the image itself, concatenated, into logits; a buffer that no group touches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        h = torch.cat([self.one(x), x, self.two(x)], 1)
        return self.fc(F.relu(self.norm(h)).mean((2, 3)))


def samples(n: int = 6, count: int = 4000, seed: int = 0) -> np.ndarray:
    """(2n, count): two networks of n units that share what they see."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((n, count))
    return np.concatenate(
        [generator.standard_normal((n, n)) @ common + generator.standard_normal((n, count)) for _ in "ab"]
    )


def statistics_of(x: np.ndarray) -> UnitStatistics:
    covariance = np.cov(x, bias=True)
    return UnitStatistics(covariance, correlation_of(covariance))


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    return seeded(TinyResNet, 0), seeded(TinyResNet, 1)


@pytest.fixture(scope="module")
def alignments(pair) -> dict[str, featviz.Alignment]:
    options = AlignConfig(entropy=0.05)
    return {method: featviz.align(*pair, EXAMPLE, method, DATA, options=options) for method in METHODS}


@pytest.mark.parametrize("make", [TinyResNet, TinyCNN, Concatenated])
def test_a_permutation_as_a_combination_is_permute_and_average(make):
    a, b = seeded(make, 0), seeded(make, 1)
    groups = featviz.permutation_groups(a, EXAMPLE)
    perms = random_permutations(groups)
    mixed = merge_linearly(a, b, groups, combination_of_permutations(perms)).state_dict()
    for name, tensor in average([a, permute_module(b, groups, perms)]).state_dict().items():
        torch.testing.assert_close(mixed[name], tensor, rtol=1e-6, atol=1e-7)


def test_every_tensor_is_merge_times_weights_times_split(pair, alignments):
    """The formula, written out by hand for each tensor of the residual network."""
    a, b = (model.double().state_dict() for model in copy.deepcopy(pair))
    for alignment in alignments.values():
        combination = alignment.combination
        merged = featviz.merge(*pair, alignment, repair="none").state_dict()
        stream, last = (
            list(zip(combination.merge[g], combination.unmerge[g], strict=True)) for g in ("conv1", "conv3")
        )

        def both(formula, name, parts):
            return sum(
                formula(w[name], *(torch.from_numpy(m) for m in pq)) for w, pq in zip((a, b), parts, strict=True)
            )

        expected = {
            "conv1.weight": both(lambda w, m, s: torch.einsum("oi,ixyz->oxyz", m, w), "conv1.weight", stream),
            "conv2.weight": both(lambda w, m, s: torch.einsum("oi,ijyz,jk->okyz", m, w, s), "conv2.weight", stream),
            "conv3.bias": both(lambda w, m, s: m @ w, "conv3.bias", last),
            "fc.weight": both(lambda w, m, s: w @ s / 2, "fc.weight", last),
            "bn1.running_var": both(lambda w, m, s: m.abs() @ w, "bn1.running_var", stream),
            "fc.bias": (a["fc.bias"] + b["fc.bias"]) / 2,
        }
        for name, tensor in expected.items():
            torch.testing.assert_close(merged[name].double(), tensor, rtol=1e-5, atol=1e-5)


def test_zipit_finds_the_clusters_of_a_plain_greedy_search():
    """Reference: dictionaries and loops, one pair at a time."""
    for seed in range(5):
        correlation = statistics_of(samples(seed=seed)).correlation
        n, alpha, beta = 6, 0.3, 0.5
        similar = {(i, j): correlation[i, j] for i in range(2 * n) for j in range(2 * n) if i != j}
        clusters = {i: {i} for i in range(2 * n)}
        budget = {"A": int(n // 2 * beta), "B": int(n // 2 * beta)}

        def only_network(cluster):
            names = {"A" if unit < 6 else "B" for unit in cluster}
            return names.pop() if len(names) == 1 else None

        while len(clusters) > n:
            allowed = [
                pair
                for pair in similar
                if only_network(clusters[pair[0]] | clusters[pair[1]]) is None
                or budget[only_network(clusters[pair[0]] | clusters[pair[1]])] > 0
            ]
            one, other = sorted(max(allowed, key=lambda pair: similar[pair]))
            inside = only_network(clusters[one] | clusters[other])
            if inside:
                budget[inside] -= 1
            clusters[one] |= clusters.pop(other)
            for k in clusters:
                if k != one:
                    value = alpha * min(similar[one, k], similar[other, k])
                    similar[one, k] = similar[k, one] = value
            similar = {pair: value for pair, value in similar.items() if other not in pair}
        assert sorted(map(sorted, clusters.values())) == sorted(zip_clusters(correlation, alpha, beta))


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (1, 1), (0, 1), (0.5, 0), (0, 0.3)])
def test_a_zip_is_a_partition_into_as_many_means(alpha, beta):
    (merge_a, merge_b), (split_a, split_b) = zip_units(statistics_of(samples(7)).correlation, alpha, beta)
    member = np.concatenate([split_a, split_b])
    assert set(np.unique(member)) <= {0, 1}
    assert (member.sum(1) == 1).all()
    assert (member.sum(0) >= 1).all()
    np.testing.assert_allclose(np.concatenate([merge_a, merge_b], 1), (member / member.sum(0)).T)
    if alpha == 0:
        assert (member.sum(0) == 2).all()


def test_a_zip_across_in_pairs_is_a_permutation_in_the_order_of_a():
    correlation = statistics_of(samples(5)).correlation
    merge, split = zip_units(correlation, alpha=0, beta=0)
    np.testing.assert_array_equal(merge[0], np.eye(5) / 2)
    np.testing.assert_array_equal(split[1].sum(0), np.ones(5))
    i, j = np.unravel_index(correlation[:5, 5:].argmax(), (5, 5))
    assert merge[1][i, j] == 0.5


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_cca_is_the_transformation_of_the_canonical_directions(gamma):
    """Reference: W_A, W_B from matrix square roots; T = W_B W_A^-1 on row vectors."""
    n = 6
    c = np.cov(samples(n), bias=True)
    s_a, s_b = (s + gamma * np.trace(s) / n * np.eye(n) for s in (c[:n, :n], c[n:, n:]))
    u, _, vt = np.linalg.svd(np.linalg.inv(sqrtm(s_a)) @ c[:n, n:] @ np.linalg.inv(sqrtm(s_b)))
    w_a, w_b = np.linalg.inv(sqrtm(s_a)) @ u, np.linalg.inv(sqrtm(s_b)) @ vt.T
    expected = (w_b @ np.linalg.inv(w_a)).T
    merge, split = cca_units(UnitStatistics(c, correlation_of(c)), gamma, "g")
    np.testing.assert_allclose(2 * merge[1], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(split[1] @ expected, np.eye(n), atol=1e-8)
    np.testing.assert_array_equal(split[0], np.eye(n))


def test_cca_undoes_any_linear_map_of_the_units():
    x = samples(5)[:5]
    mixed = np.random.default_rng(1).standard_normal((5, 5))
    merge, _ = cca_units(statistics_of(np.concatenate([x, mixed @ x])), 0, "g")
    np.testing.assert_allclose(2 * merge[1] @ mixed, np.eye(5), atol=1e-6)


def test_cca_without_regularisation_refuses_units_that_never_vary():
    x = samples(4)
    x[1] = 0
    with pytest.raises(AlignmentError, match="give a gamma above 0"):
        cca_units(statistics_of(x), 0, "g")
    merge, split = cca_units(statistics_of(x), 0.1, "g")
    assert np.isfinite([*merge, *split]).all()


def test_the_transport_plan_tends_to_the_optimum_and_keeps_its_marginals():
    """Reference: the linear programme of optimal transport."""
    statistics = statistics_of(samples(5))
    cost = 1 - statistics.correlation[:5, 5:]
    rows, columns = np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5))
    exact = linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=np.full(10, 0.2))
    soft = transport_plan(cost, 0.01)
    np.testing.assert_allclose(soft.sum(0), 0.2, rtol=1e-6)
    np.testing.assert_allclose(soft.sum(1), 0.2, rtol=1e-3)
    assert exact.fun <= (soft * cost).sum() < exact.fun + 0.01
    merge, split = transport_units(statistics, 0, "g")
    assert 0.4 * (merge[1] * cost).sum() == pytest.approx(exact.fun)
    np.testing.assert_array_equal(2 * merge[1].T, split[1])


@pytest.mark.parametrize("entropy", [0.05, 1.0])
def test_sinkhorn_is_the_plain_iteration(entropy):
    cost = 1 - statistics_of(samples(5)).correlation[:5, 5:]
    kernel, v = np.exp(-cost / entropy), np.ones(5)
    for _ in range(20000):
        u = 0.2 / (kernel @ v)
        v = 0.2 / (kernel.T @ u)
    np.testing.assert_allclose(transport_plan(cost, entropy), u[:, None] * kernel * v, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_merged_with_itself_is_itself(method):
    a = seeded(TinyResNet)
    options = AlignConfig(gamma=1e-6, entropy=0)
    alignment = featviz.align(a, a, EXAMPLE, method, DATA, options=options)
    merged = featviz.merge(a, a, alignment, repair="none")
    assert relative_difference(merged, a, DATA[0]) < 1e-5
    scores = np.concatenate(list(alignment.scores.values()))
    assert (np.isclose(scores, 1, atol=1e-5) | (scores == 0)).all()  # 0: units that never vary
    assert (scores > 0).sum() > 12


def test_transport_without_entropy_is_activation_matching(pair):
    exact = featviz.align(*pair, EXAMPLE, "ot", DATA, options=AlignConfig(entropy=0))
    matched = featviz.align(*pair, EXAMPLE, "activations", DATA)
    one, two = (featviz.merge(*pair, alignment, repair="none").state_dict() for alignment in (exact, matched))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name])


def test_members_say_what_a_merged_unit_is_made_of(pair, alignments):
    permuted = featviz.align(*pair, EXAMPLE)
    partner = int(permuted.indexer.a_to_b("bn2", 3))
    assert permuted.indexer.members("bn2", 3) == (Member("A", 3, 0.5), Member("B", partner, 0.5))
    assert alignments["zipit"].indexer.members("fc", 2) == (Member("A", 2, 0.5), Member("B", 2, 0.5))
    for method, alignment in alignments.items():
        for unit in range(8):
            members = alignment.indexer.members("bn2", unit)
            weights = [abs(member.weight) for member in members]
            assert weights == sorted(weights, reverse=True)
            for number, model in enumerate("AB"):
                row = {member.unit: member.weight for member in members if member.model == model}
                dense = alignment.combination.merge["conv1"][number][unit]
                rows = layer_rows(alignment.groups, alignment.combination, alignment.groups.layers["bn2"], number)
                np.testing.assert_array_equal(rows[unit], dense)
                assert row == {int(n): pytest.approx(dense[n]) for n in np.flatnonzero(dense)}, method


def test_copies_of_a_unit_have_the_copies_of_its_members():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    indexer = featviz.align(a, b, EXAMPLE, "zipit", DATA).indexer
    for unit in range(6):
        for place in range(4):
            expected = [(m.model, 4 * m.unit + place, m.weight) for m in indexer.members("conv2", unit)]
            found = [(m.model, m.unit, m.weight) for m in indexer.members("flat", 4 * unit + place)]
            assert sorted(found) == sorted(expected)


def test_a_saved_combination_comes_back(pair, alignments, tmp_path):
    for method, alignment in alignments.items():
        alignment.save(tmp_path / "m.safetensors")
        again = featviz.load_alignment(tmp_path / "m.safetensors")
        assert again.method == method
        for group in alignment.groups:
            for ours, theirs in zip(
                [*alignment.combination.merge[group.name], *alignment.combination.unmerge[group.name]],
                [*again.combination.merge[group.name], *again.combination.unmerge[group.name]],
                strict=True,
            ):
                np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(AlignmentError, match="another model B"):
            featviz.merge(pair[0], seeded(TinyResNet, 5), again)


@pytest.mark.parametrize(
    "ask",
    [
        lambda alignment, b: alignment.permute(b),
        lambda alignment, b: alignment.permutations,
        lambda alignment, b: alignment.indexer.match("bn1", 0),
        lambda alignment, b: alignment.indexer.a_to_b("bn1", 0),
        lambda alignment, b: alignment.indexer.b_to_a("bn1", 0),
        lambda alignment, b: alignment.indexer.table("bn1"),
    ],
)
def test_what_only_a_permutation_has_is_refused(pair, alignments, ask):
    with pytest.raises(AlignmentError, match="combines units") as caught:
        ask(alignments["zipit"], pair[1])
    assert "\n" not in str(caught.value)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(F.relu(self.grouped(F.relu(self.first(x))))).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "method", "words"),
    [
        (Heads, "zipit", r"first.weight \(group first\).* stand in blocks"),
        (Depthwise, "cca", r"middle.weight \(group first\).*depthwise"),
        (Depthwise, "ot", "depthwise"),
        (lambda: Depthwise(nn.ConvTranspose2d), "zipit", "middle.weight .*ConvTranspose2d"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_name(make, method, words):
    a, b = seeded(make, 0), seeded(make, 1)
    with pytest.raises(AlignmentError, match=words) as caught:
        featviz.align(a, b, EXAMPLE, method, DATA, options=AlignConfig(entropy=0.1))
    assert repr(method) in str(caught.value)
    assert "'activations'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zipit_averages_depthwise_kernels_over_clusters():
    a, b = seeded(Depthwise, 0), seeded(Depthwise, 1)
    alignment = featviz.align(a, b, EXAMPLE, "zipit", DATA)
    merged = featviz.merge(a, b, alignment, repair="none")
    for unit in range(8):
        parts = [
            m.weight * (a if m.model == "A" else b).middle.weight[m.unit]
            for m in alignment.indexer.members("middle", unit)
        ]
        torch.testing.assert_close(merged.middle.weight[unit], sum(parts))


def test_options_and_weights_out_of_range_are_one_sentence(pair, alignments):
    with pytest.raises(AlignmentError, match="beta is"):
        AlignConfig(beta=1.5)
    with pytest.raises(AlignmentError, match="equally, not with weight"):
        featviz.merge(*pair, alignments["cca"], weight=0.3)
    with pytest.raises(AlignmentError, match="compares units on data"):
        featviz.align(*pair, EXAMPLE, "zipit")
    with pytest.raises(AlignmentError, match="no batch"):
        featviz.align(*pair, EXAMPLE, "zipit", iter([]))


def test_repaired_units_have_the_mixed_moments_of_their_members():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    alignment = featviz.align(a, b, EXAMPLE, "zipit", DATA)
    merged = featviz.merge(a, b, alignment, repair="repair", data=[torch.cat(DATA)])
    with torch.no_grad():
        outputs = [model.conv1(torch.cat(DATA)).transpose(0, 1).flatten(1) for model in (a, b, merged)]
    merge_a, merge_b = (torch.from_numpy(m).float() for m in alignment.combination.merge["conv1"])
    mean, spread = ([o.mean(1) for o in outputs], [o.std(1, correction=0) for o in outputs])
    torch.testing.assert_close(mean[2], merge_a @ mean[0] + merge_b @ mean[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(spread[2], merge_a @ spread[0] + merge_b @ spread[1], rtol=1e-4, atol=1e-5)


def test_a_tied_embedding_is_refused():
    """Its last axis makes units in the embedding and reads them in the decoder."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.norm, self.decoder = nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 5)
            self.decoder.weight = self.embedding.weight

        def forward(self, x):
            return self.decoder(F.relu(self.norm(self.embedding(x))))

    a, b = seeded(Tied, 0), seeded(Tied, 1)
    words = torch.arange(5)[None]
    with pytest.raises(AlignmentError, match=r"embedding.weight .* makes units or reads them is not known"):
        featviz.align(a, b, words, "zipit", [words])
