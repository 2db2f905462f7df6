"""Whether two networks can be merged: copies, strangers and permuted copies are told apart, and figures are what they say."""

import copy
import json

import pytest
import torch
from networks import TinyResNet, planted, seeded
from torch import nn

import featviz
from featviz.errors import ModelError

EXAMPLE = torch.rand(1, 3, 8, 8)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return seeded(lambda: TinyResNet(16), 0)


@pytest.fixture(scope="module")
def data(network) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Four batches of images in [0, 1], labelled by the network itself."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(32, 3, 8, 8, generator=generator) for _ in range(4)]
    with torch.no_grad():
        return [(x, network((x - 0.5) / 0.25).argmax(1)) for x in images]


def disturbed(network: nn.Module, share: float = 0.05) -> nn.Module:
    other, generator = copy.deepcopy(network), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += share * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    return other


def test_a_fine_tuned_copy_is_known_by_its_weights_and_needs_no_permutation(network):
    found = featviz.compare(network, disturbed(network), EXAMPLE)
    assert found.base == "copies"
    assert found.method == "identity"
    assert found.cosine > 0.95
    assert "align(method='identity')" in str(found)


@pytest.mark.parametrize("with_data", [False, True])
def test_a_permuted_copy_was_trained_apart_and_is_found_by_matching(network, data, with_data):
    other, _, _ = planted(network, EXAMPLE, noise=0.01)
    found = featviz.compare(network, other, EXAMPLE, data if with_data else None)
    assert found.cosine < 0.9
    assert found.method in ("weights", "activations")
    assert found.scores[found.method] > 0.9 > found.scores["identity"] + 0.2
    assert all(row.matched > row.chance + 0.2 for row in found.groups)


def test_strangers_have_no_counterparts_beyond_chance(network):
    found = featviz.compare(network, seeded(lambda: TinyResNet(16), 7), EXAMPLE)
    assert found.base == "apart"
    assert abs(found.scores[found.method or "weights"] - found.scores["chance"]) < 0.1


def test_averages_are_measured_where_there_are_labels(network, data):
    other, _, _ = planted(network, EXAMPLE)
    found = featviz.compare(network, other, EXAMPLE, data)
    assert list(found.outcomes) == ["A", "B", "identity", "weights", "activations"]
    assert found.outcomes["A"].accuracy == 100
    assert found.outcomes["B"].accuracy == 100
    assert found.outcomes["activations"].accuracy > found.outcomes["identity"].accuracy
    assert found.repair == "batchnorm"
    unlabelled = featviz.compare(network, other, EXAMPLE, [x for x, _ in data])
    assert not unlabelled.outcomes
    assert "give labelled images" in str(unlabelled)


def test_labels_that_are_not_the_networks_classes_are_left_out(network, data):
    foreign = [(x, labels + 1000) for x, labels in data]
    assert not featviz.compare(network, disturbed(network), EXAMPLE, foreign).outcomes


def test_what_differs_is_named(network):
    other = copy.deepcopy(network)
    other.fc, other.extra = nn.Linear(32, 7), nn.Linear(2, 2)
    found = featviz.compare(network, other, EXAMPLE)
    assert found.other_shapes["fc.weight"] == ((5, 32), (7, 32))
    assert found.only_b == ("extra.weight", "extra.bias")
    assert "fc.weight (5, 32) and (7, 32)" in str(found)
    assert found.cosine > 0.99


def test_the_screen_and_the_record_hold_the_same(network):
    a, b = featviz.Subject(network), featviz.Subject(disturbed(network), mean=(0.4,) * 3, std=(0.2,) * 3)
    found = featviz.compare(a, b, EXAMPLE)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["normalizations"]["B"]["mean"] == [0.4] * 3
    assert record["method"] == found.method
    assert "normalized in different ways" in str(found)
    assert len(str(found).splitlines()) < 40
    assert max(map(len, str(found).splitlines())) <= 110


def test_the_networks_are_left_as_they_were(network, data):
    other = disturbed(network)
    before = [copy.deepcopy(model.state_dict()) for model in (network, other)]
    network.train()
    featviz.compare(network, other, EXAMPLE, data)
    assert network.training
    network.eval()
    for model, state in zip((network, other), before, strict=True):
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_networks_without_a_tensor_in_common_are_one_sentence(network):
    with pytest.raises(ModelError, match="nothing to compare"):
        featviz.compare(network, nn.Sequential(nn.Linear(3, 2)), EXAMPLE)
