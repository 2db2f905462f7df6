"""Every method of the registry on small networks: a method that is registered is covered by these tests."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from networks import Cardinal, Depthwise, Heads, ResidualMLP, TinyCNN, TinyResNet, planted, relative_difference, seeded
from torch import nn

import featviz
from featviz.config import AlignConfig
from featviz.config.matching_methods import (
    LINEAR,
    PERMUTATION,
    MatchingMethod,
    method_named,
    methods,
    option_arguments,
    resolve,
)
from featviz.config.matching_options import MethodOptions, ZipItOptions, option
from featviz.errors import AlignmentError
from featviz.matching.assignment import match_by_similarity
from featviz.matching.unit_axes import unit_rows

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
# name -> network, its data
NETWORKS = {
    "residual": (TinyResNet, IMAGES),
    "plain": (TinyCNN, IMAGES),
    "residual MLP": (lambda: ResidualMLP(8, 1), ROWS),
    "depthwise": (Depthwise, IMAGES),
    "convolution groups": (Cardinal, IMAGES),
    "heads": (lambda: Heads("nothing"), IMAGES),
}
FAST = AlignConfig(restarts=1, sinkhorn_steps=20, gamma=1e-6)
PAIRS = methods(networks=2)
MANY = methods(networks=3)


class Refused(Exception):
    """The method does not take this network."""


def align(method: str, a: nn.Module, b: nn.Module, data: torch.Tensor) -> featviz.Alignment:
    """Raises Refused where the method refuses the network, by name and with a remedy."""
    try:
        return featviz.align(a, b, data[:1], method, [data] if PAIRS[method].needs_data else None, options=FAST)
    except AlignmentError as error:
        if repr(method) not in str(error) or "use method" not in str(error):
            raise
        raise Refused from error


def over_networks(method: str):
    """Pairs of networks that the method takes: (name, A, B, data, alignment)."""
    taken = 0
    for name, (make, data) in NETWORKS.items():
        a, b = seeded(make, 0), seeded(make, 1)
        try:
            alignment = align(method, a, b, data)
        except Refused:
            continue
        taken += 1
        yield name, a, b, data, alignment
    assert taken >= 3, f"{method} refuses nearly every network"


@pytest.mark.parametrize("method", PAIRS)
def test_an_alignment_is_of_the_kind_that_the_registry_says_and_survives_its_file(method, tmp_path):
    for name, a, b, data, alignment in over_networks(method):
        assert (alignment.method, alignment.seed) == (method, 0)
        kind = featviz.LinearAlignment if PAIRS[method].gives == LINEAR else featviz.PermutationAlignment
        assert isinstance(alignment, kind)
        for group in alignment.groups:
            score = alignment.scores[group.name]
            assert score.shape == (group.size,)
            assert (np.abs(score) <= 1 + 1e-9).all(), (name, group.name)
        alignment.save(tmp_path / "ab.safetensors")
        again = featviz.load_alignment(tmp_path / "ab.safetensors")
        assert type(again) is kind
        one, other = (featviz.merge(a, b, x, repair="none").state_dict() for x in (alignment, again))
        assert all(torch.equal(one[key], other[key]) for key in one)
        repeated = featviz.merge(a, b, align(method, a, b, data), repair="none").state_dict()
        assert all(torch.equal(one[key], repeated[key]) for key in one), f"{method} on {name} is not reproducible"


@pytest.mark.parametrize("method", [name for name, one in PAIRS.items() if one.gives == PERMUTATION])
def test_b_permuted_computes_the_same_function(method):
    for name, _, b, data, alignment in over_networks(method):
        assert relative_difference(b, alignment.permute(b), data[:2]) < 1e-10, name


@pytest.mark.parametrize("method", [n for n, one in PAIRS.items() if one.gives == PERMUTATION and not one.control])
def test_a_planted_permutation_is_recovered(method):
    taken = 0
    for name, (make, data) in NETWORKS.items():
        model = seeded(make)
        other, _, truth = planted(model, data[:1])
        try:
            alignment = align(method, model, other, data)
        except Refused:
            continue
        taken += 1
        if method == "inner" and name != "plain":
            continue  # raw products pair a unit with a stronger one: nothing is promised of it
        for group, perm in truth.items():
            seen = alignment.scores[group] > 0  # a unit that is never active is matched by exclusion
            assert (alignment.permutations[group] == perm)[seen].all(), (name, group)
            assert seen.mean() > 0.5, (name, group)
    assert taken >= 3


@pytest.mark.parametrize("method", [name for name, one in PAIRS.items() if one.gives == LINEAR])
def test_a_network_combined_with_itself_is_itself(method):
    for name, (make, data) in NETWORKS.items():
        model = seeded(make)
        try:
            alignment = align(method, model, model, data)
        except Refused:
            continue
        merged = featviz.merge(model, model, alignment, repair="none")
        assert relative_difference(merged, model, data) < 5e-3, name


@pytest.mark.parametrize("method", MANY)
def test_many_networks_come_into_the_basis_of_the_first(method):
    for name in ("residual", "plain"):
        make, data = NETWORKS[name]
        models = [seeded(make, seed) for seed in range(3)]
        given = [data] if MANY[method].needs_data else None
        found = featviz.align_many(models, data[:1], method, given, options=FAST)
        assert found.method == method
        assert np.isfinite(found.objective)
        assert all((perm == np.arange(len(perm))).all() for perm in found.permutations[0].values())
        for model, permuted in zip(models, found.permute(models), strict=True):
            assert relative_difference(model, permuted, data[:2]) < 1e-10


def test_many_networks_by_identity_are_left_as_they_are():
    models = [seeded(TinyResNet, seed) for seed in range(3)]
    found = featviz.align_many(models, IMAGES[:1], "identity")
    assert all((perm == np.arange(len(perm))).all() for own in found.permutations for perm in own.values())
    merged = featviz.merge_many(models, found, repair="none").get_parameter("conv2.weight")
    torch.testing.assert_close(merged, sum(model.get_parameter("conv2.weight") for model in models) / 3)


def test_the_configuration_decides_the_method_its_seed_and_its_options():
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    wanted = featviz.align(a, b, IMAGES[:1], "random", seed=3)
    found = featviz.align(a, b, IMAGES[:1], options=AlignConfig(method="random", seed=3))
    assert (found.method, found.seed) == ("random", 3)
    assert all((found.permutations[name] == perm).all() for name, perm in wanted.permutations.items())
    starts = featviz.align(a, b, IMAGES[:1], options=AlignConfig(restarts=2)).matching.objectives
    assert len(starts) == 2
    assert len(featviz.align(a, b, IMAGES[:1], restarts=3, options=AlignConfig(restarts=2)).matching.objectives) == 3
    assert featviz.align(a, b, IMAGES[:1], "identity", options=AlignConfig(method="random")).method == "identity"


def test_options_of_one_method_alone_are_taken_and_those_of_another_are_refused():
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    pairs = featviz.align(a, b, IMAGES[:1], "zipit", [IMAGES], options=ZipItOptions(alpha=0.0, beta=0.0))
    for unmerge in pairs.combination.unmerge.values():
        assert all((u.sum(0) == 1).all() for u in unmerge)  # every cluster has one unit of each network
    with pytest.raises(
        AlignmentError, match="options are ZipItOptions and method 'cca' takes CCAOptions or AlignConfig"
    ):
        featviz.align(a, b, IMAGES[:1], "cca", [IMAGES], options=ZipItOptions())


NONSENSE = {
    "method": ["magic", None, 3, ["weights"]],
    "seed": [-1, 1.5, "1", True, None, 2**70],
    "restarts": [0, -3, 2.5, "4", None, float("inf")],
    "sweeps": [-1, "many", 1.0],
    "positions": [-1, 1.5, "all", None],
    "tolerance": [-1.0, 2, float("nan"), "x"],
    "scale_free": [2, -1, 0.5, True, "yes", None],
    "alpha": [-0.1, 1.1, float("nan"), "half", None],
    "beta": [1.5, -1, True],
    "gamma": [-1.0, float("inf"), [1.0]],
    "entropy": [-0.5, "0", float("nan")],
    "sinkhorn_steps": [-1, 2.5],
    "sinkhorn_lr": [-1.0, float("nan"), "x"],
    "sinkhorn_temperature": [(1.0, 0.0), (1.0,), 1.0, "ab", (1.0, float("nan"))],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NONSENSE.items() for value in values])
def test_a_configuration_takes_no_nonsense(name, value):
    with pytest.raises(AlignmentError, match=name) as caught:
        AlignConfig(**{name: value})
    assert "\n" not in str(caught.value)


def test_every_option_of_the_configuration_is_tried_with_nonsense():
    assert set(NONSENSE) == {"method", "seed", *(one.name for one in option_arguments())}


def test_numbers_of_other_libraries_become_plain_ones():
    config = AlignConfig(restarts=np.int64(3), alpha=torch.tensor(0.5), sinkhorn_temperature=[1, 0.5])
    assert (config.restarts, config.alpha, config.sinkhorn_temperature) == (3, 0.5, (1.0, 0.5))
    assert type(config.restarts) is int


def test_an_unknown_method_is_refused_with_the_names_of_all():
    for networks, words in ((2, "'weights', 'activations'"), (3, "for 3 networks: use one of 'weights'")):
        with pytest.raises(AlignmentError, match=words):
            method_named("magic", networks)
    with pytest.raises(AlignmentError, match=r"'c2m3' \(it needs align_many\)"):
        method_named("c2m3", 2)


@pytest.fixture
def registry(monkeypatch):
    from featviz.config import matching_methods

    monkeypatch.setattr(matching_methods, "_REGISTRY", dict(matching_methods._REGISTRY))
    return matching_methods


def test_a_method_of_ones_own_is_used_by_its_name(registry):
    @dataclass(frozen=True)
    class PowerOptions(MethodOptions):
        power: float = option(1.0, "of the norms", 0.1, 10.0)

    @featviz.matching_method("norms", "pairs units of nearest norm", options=PowerOptions)
    def match_norms(problem: featviz.MatchingProblem, options: PowerOptions):
        def similarity(group):
            norms = [
                sum(
                    unit_rows(model.get_parameter(axis.parameter).detach(), axis).norm(dim=1) for axis in group.axes[:1]
                )
                for model in problem.models
            ]
            return -((norms[0][:, None] - norms[1]).abs() ** options.power).numpy()

        return match_by_similarity(problem.groups, similarity).perms

    model = seeded(TinyCNN)
    other, _, truth = planted(model, IMAGES[:1])
    for options in (None, PowerOptions(power=2.0), AlignConfig()):
        found = featviz.align(model, other, IMAGES[:1], "norms", options=options)
        assert all((found.permutations[name] == perm).all() for name, perm in truth.items())
        assert min(score.min() for score in found.scores.values()) > 0.99  # bare permutations are scored by the weights
    assert len(featviz.align_many([model, other, other], IMAGES[:1], "norms")) == 3
    assert resolve("norms", None, None, AlignConfig())[2] == PowerOptions()
    with pytest.raises(AlignmentError, match="power is 0"):
        PowerOptions(power=0)
    with pytest.raises(AlignmentError, match=r"there is a method 'norms' already \(pairs units"):
        registry.matching_method("norms", "another")(lambda problem, options: {})
    with pytest.raises(AlignmentError, match="there is a method 'weights' already"):
        registry.matching_method("weights", "mine")(match_norms)
    with pytest.raises(AlignmentError, match="gives 'matrix'"):
        registry.register_method(MatchingMethod("m", "s", gives="matrix"))


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (TinyCNN, {}, "'mine' gave group conv1 no permutation: return one for every group"),
        (TinyCNN, {"conv1": [0, 0, 1, 2, 3, 4]}, "no permutation of 6 units"),
        (TinyCNN, [1, 2], "gave a list: return a Matching"),
        (Cardinal, "swap units of two blocks", "takes apart or exchanges otherwise its 4 blocks"),
    ],
)
def test_what_a_method_gives_is_checked(registry, make, given, words):
    def mine(problem, options):
        if isinstance(given, str):
            perms = {group.name: np.arange(group.size) for group in problem.groups}
            perms["down"][[0, 4]] = 4, 0
            return perms
        return given

    registry.matching_method("mine", "wrong")(mine)
    a, b = seeded(make, 0), seeded(make, 1)
    with pytest.raises(AlignmentError, match=words):
        featviz.align(a, b, IMAGES[:1], "mine")


def test_an_alignment_that_moves_no_unit_says_so(caplog):
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    with caplog.at_level("WARNING", logger="featviz"):
        moved = featviz.align(a, b, IMAGES[:1])
        featviz.align(a, b, IMAGES[:1], "identity")
    assert moved.moved_units > 0
    assert not caplog.records
    with caplog.at_level("WARNING", logger="featviz"):
        same = featviz.align(a, a, IMAGES[:1])
    assert same.moved_units == 0
    assert "method 'weights' moves no unit: all 24 interchangeable units of B" in caplog.text
