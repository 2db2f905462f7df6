"""Receptive fields measured from the network, and neurons rendered on them alone."""

import pytest
import torch
from torch import nn

from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.rendering import FeatureExtractor, channel, neuron, render, score_images
from featviz.rendering.receptive_field import ReceptiveField, at_receptive_field, receptive_field


def net(*modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*modules).eval()


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, more.get("padding", kernel // 2), more.get("dilation", 1))


STACKS = {  # network -> side of the receptive field, by the textbook's recurrence
    "one": (net(conv(3, 4)), 3),
    "three": (net(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 4)), 7),
    "strides": (net(conv(3, 8, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv(8, 4)), 19),
    "dilated": (net(conv(3, 8, 3, 1, padding=2, dilation=2), conv(8, 4)), 7),
    "average": (net(conv(3, 8, 3, 2), nn.BatchNorm2d(8), nn.AvgPool2d(2), conv(8, 4)), 13),
}


@pytest.mark.parametrize("name", STACKS)
def test_the_measured_field_is_the_one_of_the_recurrence(name):
    model, side = STACKS[name]
    config = RenderConfig(size=64)
    layer = str(len(model) - 1)
    extractor = FeatureExtractor(model, (layer,), config)
    rows = extractor(torch.rand(1, 3, 64, 64))[layer].shape[-1]
    field = receptive_field(extractor, layer, (rows // 2, rows // 2))
    assert field.size == (side, side)


@pytest.mark.parametrize("name", STACKS)
def test_a_neuron_has_the_same_activation_and_gradient_on_its_field(name):
    model, side = STACKS[name]
    layer = str(len(model) - 1)
    config = RenderConfig(size=64, precision="float64")
    whole = neuron(layer, [0, 3])
    extractor = FeatureExtractor(model, (layer,), config)
    cut, small = at_receptive_field(extractor, whole)
    assert max(small.image_hw) < side + 8  # the field, begun at a multiple of the stride
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    full = whole.score(extractor(image).__getitem__)
    (gradient,) = torch.autograd.grad(full.sum(), image)
    place = whole.position_in(extractor(image)[layer].shape[2:])[0]
    stride = 64 // extractor(image)[layer].shape[-1]
    assert cut.position is not None
    corner = (place - cut.position[0]) * stride
    window = (
        slice(None),
        slice(None),
        slice(corner, corner + small.image_hw[0]),
        slice(corner, corner + small.image_hw[1]),
    )
    part = image.detach()[window].requires_grad_()
    score = cut.score(extractor(part).__getitem__)
    (own,) = torch.autograd.grad(score.sum(), part)
    torch.testing.assert_close(score, full)
    torch.testing.assert_close(own, gradient[window])


def test_images_have_the_size_of_the_field_and_excite_the_unit():
    model, side = STACKS["three"]
    config = RenderConfig(size=48, steps=32)
    found = render(model, neuron("4", [0, 1]), config, canvas="receptive_field")
    assert found.images.shape == (2, 3, side, side)
    assert (found.score > found.trace[0]).all()


def test_a_unit_that_sees_everything_keeps_the_whole_canvas():
    model = net(conv(3, 4), nn.AdaptiveAvgPool2d(1), conv(4, 4, 1))
    found = render(model, neuron("2", [1]), RenderConfig(size=16, steps=2), canvas="receptive_field")
    assert found.images.shape == (1, 3, 16, 16)


class Half(nn.Module):
    """Each half of the image minus its own mean: a statistic that cutting changes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return torch.cat([left - left.mean((-2, -1), True), right], -1)


def test_statistics_of_a_part_of_the_image_are_refused():
    with pytest.raises(RenderError, match="cut to their receptive field"):
        render(
            net(Half(), conv(3, 4)), neuron("1", [0], (8, 3)), RenderConfig(size=16, steps=1), canvas="receptive_field"
        )


@pytest.mark.parametrize(
    ("what", "canvas", "config", "words"),
    [
        (channel("0", [0]), "receptive_field", RenderConfig(size=16), "one position"),
        (neuron("0", [0]), "circle", RenderConfig(size=16), "'circle'"),
        (neuron("0", [0]), "receptive_field", RenderConfig(size=16, input_size=32), "input_size"),
    ],
)
def test_what_has_no_field_is_refused(what, canvas, config, words):
    with pytest.raises(RenderError, match=words):
        render(STACKS["one"][0], what, config, canvas=canvas)


def test_a_field_at_the_border_is_cut_by_it():
    model, _ = STACKS["three"]
    config = RenderConfig(size=32)
    extractor = FeatureExtractor(model, ("4",), config)
    assert receptive_field(extractor, "4", (0, 31)) == ReceptiveField(0, 28, 4, 32)
    cut, small = at_receptive_field(extractor, neuron("4", [0], (0, 31)))
    image = torch.rand(1, 3, 32, 32)
    scores = [
        score_images(extractor, neuron("4", [0], (0, 31)), image),
        score_images(extractor, cut, image[..., :4, 28:]),
    ]
    assert small.image_hw == (4, 4)
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize("size", [61, 62, 63, 66, 99])
def test_a_size_that_is_no_multiple_of_the_stride_has_a_field_too(size):
    pooled = net(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8))
    found = render(pooled, neuron("6", [0, 1]), RenderConfig(size=size, steps=1), canvas="receptive_field")
    assert found.images.shape == (2, 3, 19, 19)
