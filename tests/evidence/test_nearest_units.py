"""The most similar unit of another network, for every unit of one."""

import copy

import numpy as np
import pytest
import torch
from networks import TinyResNet, seeded
from torch import nn

import featviz
from featviz.errors import DataError, ModelError
from featviz.symmetry.permute import permute_module, random_permutations
from tests.evidence.test_fate import images


def test_units_of_a_permuted_copy_are_found_where_they_went():
    model = seeded(TinyResNet)
    groups = featviz.permutation_groups(model, torch.rand(1, 3, 8, 8))
    perms = random_permutations(groups, np.random.default_rng(1))
    other = permute_module(model, groups, perms)
    found = featviz.nearest_units(model, {"copy": other, "itself": model}, ["bn1"], data=[images(40, 1)])
    copied, same = found["copy"]["bn1"], found["itself"]["bn1"]
    perm = perms[groups.groups[int(groups.layers["bn1"].group[0])].name]
    np.testing.assert_array_equal(np.asarray(perm)[copied.unit], np.arange(len(perm)))
    np.testing.assert_allclose(copied.correlation, 1, atol=1e-5)
    np.testing.assert_allclose(same.own, 1, atol=1e-5)
    assert not np.allclose(copied.own, 1)


def test_figures_are_correlations_over_images_and_positions():
    a, b = seeded(TinyResNet), seeded(TinyResNet, 1)
    x = images(30, 2)
    found = featviz.nearest_units(a, {"B": b}, ["bn2"], data=[x[:7], x[7:]])["B"]["bn2"]
    seen = []
    for model in (a, b):
        handle = model.bn2.register_forward_hook(lambda _, args, output: seen.append(output))
        with torch.no_grad():
            model((x - 0.5) / 0.25)
        handle.remove()
    one, other = (output.double().movedim(1, 0).flatten(1).numpy() for output in seen)
    expected = np.corrcoef(one, other)[: len(one), len(one) :]
    np.testing.assert_allclose(found.correlation, expected.max(1), atol=1e-5)
    np.testing.assert_array_equal(found.unit, expected.argmax(1))
    np.testing.assert_allclose(found.own, np.diagonal(expected), atol=1e-5)
    assert found.rows()[0]["nearest"] == expected[0].argmax()


def test_networks_of_other_widths_are_looked_in():
    narrow, wide = (nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)).eval() for width in (4, 6))
    with torch.no_grad():
        wide[0].weight[2:], wide[0].bias[2:] = narrow[0].weight, narrow[0].bias
    found = featviz.nearest_units(narrow, {"wide": wide}, ["1"], data=[images(30, 3)])["wide"]["1"]
    np.testing.assert_array_equal(found.unit, [2, 3, 4, 5])
    there = featviz.nearest_units(wide, {"narrow": narrow}, ["1"], data=[images(30, 3)])["narrow"]["1"]
    assert np.isnan(there.own[4:]).all()
    assert there.rows()[5]["own"] is None


def test_a_unit_that_does_not_vary_is_like_none():
    model = seeded(TinyResNet)
    constant = copy.deepcopy(model)
    with torch.no_grad():
        constant.bn1.weight[3] = 0
    found = featviz.nearest_units(constant, {"whole": model}, ["bn1"], data=[images(30, 3)])["whole"]["bn1"]
    assert found.correlation[3] == 0
    assert found.own[3] == 0


def test_nothing_to_look_in_and_numbers_that_are_none_are_refused():
    model = seeded(TinyResNet)
    with pytest.raises(DataError, match="at least one"):
        featviz.nearest_units(model, {}, data=[images(20, 1)])
    with pytest.raises(DataError, match="every other network a name"):
        featviz.nearest_units(model, {"": model}, data=[images(20, 1)])
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.bn1.weight[0] = torch.nan
    with pytest.raises(ModelError, match="bn1 is not finite"):
        featviz.nearest_units(model, {"broken": broken}, ["bn1"], data=[images(20, 1)])
