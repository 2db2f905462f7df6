"""The network as the ascent runs it computes what the network computes, and takes nothing from it."""

import copy

import pytest
import torch
import torchvision
from networks import TinyCNN, TinyResNet, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.config import RenderConfig
from featviz.picture.prepared import foldable, prepared
from featviz.picture.trunk import Trunk


class Awkward(nn.Module):
    """Convolutions that may not be folded: read twice, called twice, read by a norm that has no statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.three, self.norm3 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)
        self.last, self.norm4 = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        x = F.relu_(self.norm1(y)) + y
        x = self.norm2(self.two(F.relu(self.norm2(self.two(x)))))
        return self.norm4(self.last(F.relu(self.norm3(self.three(x)))))


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
    made = prepared(net, lambda: net(x), (), torch.float32)
    results = [(y := one(x), torch.autograd.grad(y.square().sum(), x)[0]) for one in (net, made)]
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-4 * float(expected.detach().abs().max()))
    assert not any(weight.requires_grad for weight in made.parameters())
    assert all(weight.requires_grad for weight in net.parameters())
    assert all((before[key] == value).all() for key, value in net.state_dict().items())
    assert sum(isinstance(module, nn.Identity) for module in made.modules()) >= len(found)


def test_a_layer_that_is_looked_at_stays_what_it_is():
    net = seeded(TinyResNet)
    x = torch.rand(2, 3, 8, 8)
    for layer in ("conv1", "bn1", "conv2", "fc"):
        with Trunk(net, (layer,), RenderConfig(size=8, precision="float32")) as trunk, torch.no_grad():
            torch.testing.assert_close(trunk(x)[layer], trunk(x, precise=True)[layer], rtol=1e-4, atol=1e-5)


def test_weights_are_converted_once_and_share_what_they_can():
    net = seeded(TinyResNet)
    made = prepared(net, lambda: net(torch.rand(1, 3, 8, 8)), (), torch.bfloat16)
    assert made.conv1.weight.dtype == torch.bfloat16
    assert made.conv3.weight.is_contiguous(memory_format=torch.channels_last)
    vit = seeded(NETWORKS["vit"][0])
    made = prepared(vit, lambda: vit(torch.rand(1, 3, 32, 32)), (), torch.bfloat16)
    assert made.encoder.ln.weight.data_ptr() == vit.encoder.ln.weight.data_ptr()


def test_a_network_that_cannot_be_copied_renders_as_it_is():
    net = seeded(TinyCNN)
    net.lock = (step for step in range(3))  # a generator has no copy
    with Trunk(net, ("conv2",), RenderConfig(size=8)) as trunk:
        assert trunk(torch.rand(1, 3, 8, 8))["conv2"].shape == (1, 6, 4, 4)
