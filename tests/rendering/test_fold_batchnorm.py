"""The network as the ascent runs it computes what the network computes, and takes nothing from it."""

import copy

import pytest
import torch
import torchvision
from networks import TinyCNN, TinyResNet, seeded
from odd_networks import Awkward, Branching, Closed, Odd, Scaled, Strict, Tied, weight_normed
from torch import nn

from featviz.config import RenderConfig
from featviz.isolation import weight_sharing_copy
from featviz.rendering.backends.fold_batchnorm import fold_batchnorm, foldable
from featviz.rendering.network.cut_network import CutNetwork
from featviz.rendering.network.feature_extractor import FeatureExtractor


def cut(net: nn.Module) -> CutNetwork:
    return CutNetwork(weight_sharing_copy(net), ("",))


NETWORKS = {
    "tiny resnet": (TinyResNet, {"conv1": "bn1", "conv2": "bn2"}),
    "tiny cnn": (TinyCNN, {}),
    "awkward": (Awkward, {"last": "norm4"}),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(), None),
    "densenet": (lambda: torchvision.models.densenet121(), None),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32), {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_prepared_network_computes_the_same(name):
    make, pairs = NETWORKS[name]
    net = seeded(make)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    before = copy.deepcopy(net.state_dict())
    found = foldable(net, lambda: net(x), set())
    assert found == pairs if pairs is not None else len(found) > 20
    made = fold_batchnorm(cut(net), x, torch.float32)[0].net
    results = [(y := one(x), torch.autograd.grad(y.square().sum(), x)[0]) for one in (net, made)]
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-4 * float(expected.detach().abs().max()))
    assert not any(weight.requires_grad for weight in made.parameters())
    assert all(weight.requires_grad for weight in net.parameters())
    assert all((before[key] == value).all() for key, value in net.state_dict().items())
    assert sum("forward" in vars(module) for module in made.modules()) == len(found)


@pytest.mark.parametrize("make", [Odd, Tied, Scaled, Branching, Closed, Strict, weight_normed])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_odd_networks_are_not_another_network_to_the_ascent(make, precision):
    net = seeded(make)
    for norm in (net.norm, net.other):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.05, 0.5)
        norm.bias.data.normal_(0, 0.3)
    tolerance = 1e-4 if precision == "float32" else 3e-2
    config = RenderConfig(size=12, precision=precision, mean=(0.0, 0.0, 0.0), std=(0.25, 0.25, 0.25))
    extractor = FeatureExtractor(net, ("last",), config)
    for level in (0.1, 0.6):
        x = (level + 0.3 * torch.rand(2, 3, 12, 12)).requires_grad_()
        ours, theirs = extractor(x)["last"].float(), extractor(x, precise=True)["last"]
        assert (ours - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wrong_fold_is_seen_in_weights_of_few_digits_too(dtype):
    net = seeded(Closed)
    net.norm.running_mean.uniform_(-0.2, 0.2)
    net.norm.running_var.uniform_(0.5, 0.9)
    extractor = FeatureExtractor(net.to(dtype), ("last",), RenderConfig(size=12, precision="float32"))
    x = torch.rand(2, 3, 12, 12, requires_grad=True)
    ours, theirs = extractor(x)["last"].float(), extractor(x, precise=True)["last"].float()
    assert (ours - theirs).norm() < 2e-2 * theirs.norm()


def test_a_layer_that_is_looked_at_stays_what_it_is():
    net = seeded(TinyResNet)
    x = torch.rand(2, 3, 8, 8)
    for layer in ("conv1", "bn1", "conv2", "fc"):
        extractor = FeatureExtractor(net, (layer,), RenderConfig(size=8, precision="float32"))
        with torch.no_grad():
            torch.testing.assert_close(extractor(x)[layer], extractor(x, precise=True)[layer], rtol=1e-4, atol=1e-5)


def test_weights_are_converted_once_and_share_what_they_can():
    net = seeded(TinyResNet)
    made = fold_batchnorm(cut(net), torch.rand(1, 3, 8, 8), torch.bfloat16)[0].net
    assert made.conv1.weight.dtype == torch.bfloat16
    assert made.conv3.weight.is_contiguous(memory_format=torch.channels_last)
    vit = seeded(NETWORKS["vit"][0])
    made = fold_batchnorm(cut(vit), torch.rand(1, 3, 32, 32), torch.bfloat16)[0].net
    assert made.encoder.ln.weight.data_ptr() == vit.encoder.ln.weight.data_ptr()
