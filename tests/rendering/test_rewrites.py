"""The traced graph computes what the network computes, or the network runs eagerly and the report says why."""

import pytest
import torch
import torchvision
from networks import Decides, TinyCNN, TinyResNet, seeded
from odd_networks import Bends
from torch import Tensor, fx, nn
from torch.nn import functional as F

import featviz
from featviz.config import RenderConfig
from featviz.rendering.backends import cudnn_conv as cudnn
from featviz.rendering.backends import traced_graph
from featviz.rendering.backends.bmm_to_mm import bmm_to_mm
from featviz.rendering.backends.fold_batchnorm import fold_batchnorm
from featviz.rendering.backends.gradient_graph import GradientGraph, trace_with_gradient
from featviz.rendering.backends.onednn_conv import FusedConvolution, InputGradient, onednn_conv
from featviz.rendering.backends.strided_conv_backward import Phases
from featviz.rendering.backends.traced_graph import TracedGraph
from featviz.rendering.network.cut_network import CutNetwork
from featviz.rendering.network.feature_extractor import FeatureExtractor

aten = torch.ops.aten
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def traced(net: nn.Module, layers: tuple[str, ...] = ("",)) -> TracedGraph:
    return TracedGraph(CutNetwork(net.eval().requires_grad_(False), layers), CPU, autocast=False)


def assert_same_with_gradient(run, other, x: Tensor) -> None:
    """Outputs, and the gradient of each with respect to x."""
    torch.manual_seed(0)
    weights = [torch.randn_like(out) for out in other(x.clone())]
    results = []
    for one in (run, other):
        y = x.detach().clone().requires_grad_()
        outputs = one(y)
        total = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
        results.append([*outputs, torch.autograd.grad(total, y)[0]])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5 * float(theirs.detach().abs().max()))


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
def test_a_traced_graph_computes_what_its_network_does(name, side):
    make, convolutions = NETWORKS[name]
    backend = traced(seeded(make))
    backend(torch.randn(2, 3, side, side, requires_grad=True))
    assert backend.report.backend == "traced graph"
    assert backend.report.rewrites["onednn_conv"] >= convolutions
    assert_same_with_gradient(backend, backend.network, torch.randn(2, 3, side, side))


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("side", [9, 14, 16])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (5, 2, 2, 1), (3, 2, 0, 1), (3, 3, 2, 2), (4, 3, 1, 1)]
)
def test_a_strided_depthwise_convolution_in_bfloat16_has_its_gradient(kernel, stride, padding, dilation, side):
    weight = torch.randn(16, 1, kernel, kernel).bfloat16()
    x = torch.randn(2, 16, side, side + 3).bfloat16()
    geometry = [stride] * 2, [padding] * 2, [dilation] * 2, 16
    backward = InputGradient(x.shape, weight, geometry)
    assert backward.between is not None
    exact = x.double().requires_grad_()
    expected = F.conv2d(exact, weight.double(), None, *geometry)
    pull = torch.randn_like(expected).bfloat16()
    found = FusedConvolution(x.shape, weight, None, geometry, relu=False)(x)
    for ours, theirs in ((found, expected), (backward(pull), torch.autograd.grad(expected, exact, pull.double())[0])):
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

    x = torch.randn(3, 5, 6)
    joint = trace_with_gradient(run, x)
    assert bmm_to_mm(joint) == 2  # forward and backward
    joint.graph.eliminate_dead_code()
    counts = [len(joint.graph.find_nodes(op="call_function", target=op)) for op in (aten.mm.default, aten.bmm.default)]
    assert counts == [2, 2]
    assert_same_with_gradient(GradientGraph(joint), run, x)


def test_copies_of_a_matrix_that_are_written_to_are_not_one():
    weight = torch.randn(4, 6)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        own = weight.expand(len(x), -1, -1).clone()
        own[1:-1].mul_(2)
        return (torch.bmm(x, own),)

    x = torch.randn(3, 5, 4)
    joint = trace_with_gradient(run, x)
    assert bmm_to_mm(joint) == 0
    assert_same_with_gradient(GradientGraph(joint), run, x)


def test_the_gradient_of_a_resnets_first_convolution_goes_by_phases():
    net = torchvision.models.resnet18().eval().requires_grad_(False)
    joint = trace_with_gradient(lambda x: (net.conv1(x),), torch.randn(1, 3, 32, 32))
    onednn_conv(joint)
    assert [m.phases is not None for m in joint.modules() if isinstance(m, InputGradient)] == [True]


def test_a_convolution_is_not_moved_behind_a_write_to_its_input():
    conv = seeded(lambda: nn.Conv2d(3, 3, 1)).requires_grad_(False)

    def run(x: Tensor) -> tuple[Tensor, ...]:
        x = x * 1
        y = conv(x)
        x.data.relu_()  # autograd refuses a write that it sees
        return (x + y,)

    x = torch.randn(2, 3, 8, 8)
    joint = trace_with_gradient(run, x)
    assert onednn_conv(joint) == 1
    assert_same_with_gradient(GradientGraph(joint), run, x)


def plain_convolution_relu(x, weight, bias, stride, padding, dilation, groups):
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups).relu()


def plain_convolution_add_relu(x, weight, other, alpha, bias, *geometry):
    return (F.conv2d(x, weight, bias, *geometry) + alpha * other).relu()


def refuse(*args):
    raise RuntimeError("FIND was unable to find an engine to execute this computation")


@pytest.mark.parametrize("found", [True, False])
def test_a_graph_of_cudnns_fused_convolutions_computes_what_its_network_does(found, monkeypatch, caplog):
    monkeypatch.setattr(cudnn, "DEVICE", "cpu")  # in the place of cuDNN's operators are torch's own
    monkeypatch.setattr(torch, "cudnn_convolution_relu", plain_convolution_relu if found else refuse)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", plain_convolution_add_relu if found else refuse)
    net = seeded(lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 1, 1]))
    net.eval().requires_grad_(False)
    folded, _ = fold_batchnorm(CutNetwork(net, ("layer2",)), torch.rand(1, 3, 33, 33), torch.float32)
    x = torch.randn(2, 3, 33, 33)
    joint = trace_with_gradient(folded, x)
    assert cudnn.cudnn_conv(joint) == 1 + 3 * 3  # all but those of both shortcuts
    assert_same_with_gradient(GradientGraph(joint), folded, x)
    assert ("cuDNN has no fused convolution" in caplog.text) == (not found)


def test_a_network_that_decides_by_values_runs_eagerly_and_the_report_says_so(caplog):
    caplog.set_level("INFO")
    backend = traced(seeded(Decides))
    backend(torch.rand(2, 3, 8, 8, requires_grad=True))
    assert backend.report.backend == "eager"
    assert "decides by values" in str(backend.report)
    assert str(backend.report) in caplog.text
    found = featviz.render(seeded(Decides), "conv:0-1", RenderConfig(size=8, steps=3, precision="float32"))
    assert not found.dead.any()


def test_other_starts_of_dead_units_have_no_graph_made_for_them(monkeypatch):
    made = []
    prepare = TracedGraph._prepare
    monkeypatch.setattr(TracedGraph, "_prepare", lambda self, x: (made.append(len(x)), prepare(self, x)))
    net = seeded(TinyResNet)
    with torch.no_grad():
        net.conv2.weight[1] = 0
    with pytest.warns(UserWarning, match="no usable gradient"):
        featviz.render(net, "conv2:0-3", RenderConfig(size=16, steps=2, restarts=2, precision="float32"))
    assert made == [4]


def test_a_graph_that_differs_in_its_last_image_is_refused(monkeypatch):
    def doubles_the_last(joint: fx.GraphModule) -> int:
        output = list(joint.graph.nodes)[-1]
        (first,), tangents, gradient = output.args[0]
        with joint.graph.inserting_before(tangents[0]):
            off = joint.graph.call_function(lambda y: torch.cat([y[:-1], 2 * y[-1:]]), (first,))
        output.args = (((off,), tangents, gradient),)
        return 1

    monkeypatch.setattr(traced_graph, "REWRITES", (doubles_the_last,))
    backend = traced(seeded(TinyResNet))
    x = torch.rand(3, 3, 16, 16, requires_grad=True)
    torch.testing.assert_close(backend(x), backend.network(x))
    assert backend.report.reason == "its traced graph computes something else"


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("images", [2, 3, 5])
def test_outputs_whose_first_axis_is_not_that_of_the_images_have_a_graph(images):
    conv = nn.Conv2d(3, 4, 3, padding=1)
    net = nn.Sequential(conv, Apply(lambda x: x.permute(2, 0, 1, 3)), Apply(torch.sum))
    backend = traced(net, ("1", "2"))
    x = torch.rand(images, 3, 5, 1)
    backend(x.clone().requires_grad_())
    assert backend.report.backend == "traced graph"
    assert_same_with_gradient(backend, backend.network, x)


def test_the_ascent_runs_on_the_graph_and_reaches_the_same():
    net = seeded(TinyResNet)
    config = RenderConfig(size=16, steps=8, precision="float32")
    fast = featviz.render(net, "conv2:0-3", config)
    slow = featviz.render(net, "conv2:0-3", RenderConfig(size=16, steps=8, precision="float64"))
    torch.testing.assert_close(fast.score.double(), slow.score, rtol=1e-3, atol=1e-4)


def test_a_graph_is_made_for_a_shape_that_has_a_gradient_and_comes_again(monkeypatch):
    made = []
    prepare = TracedGraph._prepare
    monkeypatch.setattr(TracedGraph, "_prepare", lambda self, x: (made.append(len(x)), prepare(self, x)))
    extractor = FeatureExtractor(seeded(TinyResNet), ("conv2",), RenderConfig(size=16, precision="float32"))
    extractor(torch.rand(2, 3, 16, 16, requires_grad=True))
    extractor(torch.rand(2, 3, 16, 16, requires_grad=True))
    extractor(torch.rand(3, 3, 16, 16, requires_grad=True), once=True)
    extractor(torch.rand(4, 3, 16, 16))
    extractor(torch.rand(5, 3, 16, 16, requires_grad=True), precise=True)
    assert made == [2]


def test_a_layer_that_is_looked_at_is_not_fused_away():
    net = seeded(TinyResNet)
    names = ("conv1", "conv2")
    extractor = FeatureExtractor(net, names, RenderConfig(size=16, precision="float32"))
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    first = {name: value.detach() for name, value in extractor(x, once=True).items()}
    assert extractor.report.backend == "eager"
    second = extractor(x)
    assert extractor.report.backend == "traced graph"
    for name in names:
        torch.testing.assert_close(second[name].detach(), first[name], rtol=1e-4, atol=1e-5)
