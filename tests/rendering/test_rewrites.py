"""The straight line of fused convolutions computes what the network computes, or there is none."""

import pytest
import torch
import torchvision
from networks import Decides, TinyCNN, TinyResNet, seeded
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import featviz
from featviz.config import RenderConfig
from featviz.rendering.backends.bmm_to_mm import join_products
from featviz.rendering.backends.onednn_conv import FusedConvolution, fuse_convolutions
from featviz.rendering.backends.strided_conv_backward import Phases
from featviz.rendering.backends.traced_graph import _written_down, straight_line
from featviz.rendering.network.feature_extractor import FeatureExtractor

aten = torch.ops.aten
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


class Bends(nn.Module):
    """Convolutions of every kind, and additions that may not be moved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.point = nn.Conv2d(8, 12, 1, stride=2)
        self.strided = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(12, 12, (1, 3), padding=(0, 2))
        self.shrinking = nn.Conv2d(12, 12, 3)
        self.same = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu_(self.grouped(x).add_(x))
        y = self.dilated(x)
        x = y + F.relu(y)  # read twice
        x = F.relu(self.point(x) + self.strided(x))
        x = self.wide(x)
        x = x + x.mean((2, 3), keepdim=True) + self.same(x).mul_(2)
        return self.shrinking(F.relu_(x)) + 1


NETWORKS = {
    "bends": (Bends, 8),
    "tiny resnet": (TinyResNet, 3),
    "tiny cnn": (TinyCNN, 2),
    "resnet18": (lambda: torchvision.models.resnet18(), 20),
    "resnext": (lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], groups=4), 17),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 8), 8),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(), 50),
}


@pytest.mark.parametrize("side", [33, 64])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_line_computes_what_its_network_does(name, side):
    make, convolutions = NETWORKS[name]
    net = seeded(make).eval().requires_grad_(False)
    x = torch.randn(2, 3, side, side, requires_grad=True)
    line = straight_line(lambda x: (net(x),), x, autocast=False)
    assert isinstance(line, nn.Module)
    fused = [module for module in line.modules() if isinstance(module, FusedConvolution)]
    assert len(fused) >= convolutions
    other = torch.randn(x.shape, requires_grad=True)
    pull = torch.randn_like(net(x))
    expected, got = (
        (y := one(other), torch.autograd.grad((y * pull).sum(), other)[0]) for one in (net, lambda x: line(x)[0])
    )
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-3, atol=2e-5 * float(e.detach().abs().max()))


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("side", [9, 14, 16])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (5, 2, 2, 1), (3, 2, 0, 1), (3, 3, 2, 2), (4, 3, 1, 1)]
)
def test_a_strided_depthwise_convolution_in_bfloat16_has_its_gradient(kernel, stride, padding, dilation, side):
    weight = torch.randn(16, 1, kernel, kernel).bfloat16()
    x = torch.randn(2, 16, side, side + 3).bfloat16().requires_grad_()
    geometry = [stride] * 2, [padding] * 2, [dilation] * 2, 16
    fused = FusedConvolution(x.shape, weight, None, geometry, relu=False)
    assert fused.between is not None
    exact = x.detach().double().requires_grad_()
    expected = F.conv2d(exact, weight.double(), None, *geometry)
    pull = torch.randn_like(expected).bfloat16()
    found = fused(x)
    pairs = [(found, expected), (torch.autograd.grad(y, v, pull.to(y))[0] for y, v in ((found, x), (expected, exact)))]
    for ours, theirs in pairs:
        assert (ours.double() - theirs).norm() < 1e-2 * theirs.norm()


@pytest.mark.parametrize("side", [8, 16, 19])
@pytest.mark.parametrize("padding", [0, 2, 3, 7])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (4, 2), (4, 4), (3, 4), (5, 3), (8, 2)])
def test_phases_give_the_input_gradient_of_a_strided_convolution(kernel, stride, padding, side):
    x = torch.randn(2, 3, side, side + 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel - 1, dtype=torch.float64)
    y = F.conv2d(x, weight, None, stride, padding)
    gradient = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, gradient)
    phases = Phases(weight, stride, (padding, padding), x.shape)
    found = phases.together(F.conv2d(gradient, phases.weight, None, 1, phases.padding))
    torch.testing.assert_close(found, expected)


def test_a_linear_layer_on_tokens_in_another_order_does_not_copy_its_weights():
    linear = seeded(lambda: nn.Linear(6, 4)).requires_grad_(False)
    other = torch.randn(5, 6, 4)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        tokens = x.transpose(0, 1)  # (token, image, feature)
        return linear(tokens), tokens @ other

    x = torch.randn(3, 5, 6, requires_grad=True)
    line = join_products(_written_down(run, x))
    assert [
        len(line.graph.find_nodes(op="call_function", target=op)) for op in (aten.mm.default, aten.bmm.default)
    ] == [1, 1]
    found = [(out.detach(), torch.autograd.grad(out.sum(), x)[0]) for way in (line, run) for out in way(x)]
    for (ours, pulled), (theirs, expected) in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(pulled, expected)


def test_copies_of_a_matrix_that_are_written_to_are_not_one():
    weight = torch.randn(4, 6)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        own = weight.expand(len(x), -1, -1).clone()
        own[1:-1].mul_(2)
        return (torch.bmm(x, own),)

    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(join_products(_written_down(run, x))(x), run(x))


def test_the_stem_of_a_resnet_goes_by_phases():
    net = torchvision.models.resnet18().eval().requires_grad_(False)
    line = straight_line(lambda x: (net.conv1(x),), torch.randn(1, 3, 32, 32), autocast=False)
    assert isinstance(line, nn.Module)
    assert [module.phases is not None for module in line.modules() if isinstance(module, FusedConvolution)] == [True]


def test_a_convolution_is_not_moved_behind_a_write_to_its_input():
    conv = seeded(lambda: nn.Conv2d(3, 3, 1)).requires_grad_(False)

    def run(x: Tensor) -> Tensor:
        x = x * 1
        y = conv(x)
        return x.relu_() + y

    x = torch.randn(2, 3, 8, 8)
    line = fuse_convolutions(make_fx(run)(x))
    assert any(isinstance(module, FusedConvolution) for module in line.modules())
    torch.testing.assert_close(line(x), run(x))


def test_a_network_that_decides_by_values_has_no_line_and_renders():
    net = seeded(Decides)
    assert straight_line(lambda x: (net(x),), torch.rand(2, 3, 8, 8), autocast=False) is None
    found = featviz.render(net, "conv:0-1", RenderConfig(size=8, steps=3, precision="float32"))
    assert not found.dead.any()


def test_other_starts_of_dead_units_have_no_line_made_for_them(monkeypatch):
    made = []

    def watched(run, x, *more):
        made.append(len(x))
        return straight_line(run, x, *more)

    monkeypatch.setattr("featviz.rendering.network.feature_extractor.straight_line", watched)
    net = seeded(TinyResNet)
    with torch.no_grad():
        net.conv2.weight[1] = 0
    with pytest.warns(UserWarning, match="no usable gradient"):
        featviz.render(net, "conv2:0-3", RenderConfig(size=16, steps=2, restarts=2, precision="float32"))
    assert made == [4]


def test_a_line_that_differs_in_its_last_image_is_refused(monkeypatch):
    net, x = seeded(TinyResNet), torch.rand(3, 3, 16, 16)

    def broken(run, x):
        line = _written_down(run, x)
        output = next(node for node in line.graph.nodes if node.op == "output")
        with line.graph.inserting_before(output):
            off = line.graph.call_function(lambda y: torch.cat([y[:-1], 2 * y[-1:]]), (output.args[0][0],))
        output.args = ((off,),)
        line.recompile()
        return line

    assert straight_line(lambda x: (net(x),), x, autocast=False) is not None
    monkeypatch.setattr("featviz.rendering.backends.traced_graph._written_down", broken)
    assert straight_line(lambda x: (net(x),), x, autocast=False) is None


@pytest.mark.parametrize("images", [2, 3, 5])
def test_outputs_whose_first_axis_is_not_that_of_the_images_have_a_line(images):
    conv = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    x = torch.rand(images, 3, 5, 1)
    line = straight_line(lambda x: (conv(x).permute(2, 0, 1, 3), conv(x).sum()), x, autocast=False)
    assert line is not None
    torch.testing.assert_close(line(x)[0], conv(x).permute(2, 0, 1, 3))


def test_the_ascent_runs_on_the_line_and_reaches_the_same():
    net = seeded(TinyResNet)
    config = RenderConfig(size=16, steps=8, precision="float32")
    fast = featviz.render(net, "conv2:0-3", config)
    slow = featviz.render(net, "conv2:0-3", RenderConfig(size=16, steps=8, precision="float64"))
    torch.testing.assert_close(fast.score.double(), slow.score, rtol=1e-3, atol=1e-4)
    extractor = FeatureExtractor(net, ("conv2",), config)
    extractor(torch.rand(2, 3, 16, 16, requires_grad=True))
    extractor(torch.rand(3, 3, 16, 16, requires_grad=True), once=True)
    extractor(torch.rand(4, 3, 16, 16))
    assert [shape[0] for shape, line in extractor._lines.items() if line is not None] == [2]


def test_a_layer_that_is_looked_at_is_not_fused_away():
    net = seeded(TinyResNet)
    names = ("conv1", "conv2")
    extractor = FeatureExtractor(net, names, RenderConfig(size=16, precision="float32"))
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    first = {name: value.detach() for name, value in extractor(x, once=True).items()}
    assert not extractor._lines
    second = extractor(x)
    assert extractor._lines
    for name in names:
        torch.testing.assert_close(second[name].detach(), first[name], rtol=1e-4, atol=1e-5)
