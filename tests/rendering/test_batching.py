"""A batch that does not fit is made smaller, and nobody can tell from the images."""

from dataclasses import replace

import pytest
import torch
from networks import TinyResNet, seeded
from torch import Tensor, nn

import featviz
from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.batching import COPIES, SHARE, batch_size, image_bytes

CONFIG = RenderConfig(size=16, steps=3, precision="float64")


class Hungry(nn.Module):
    """Has memory for so many images."""

    def __init__(
        self, fits: int, error: type[BaseException] = torch.OutOfMemoryError, text: str = "out of memory"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fits, self.error, self.text = fits, error, text

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and len(x) > self.fits:
            raise self.error(self.text)
        return self.conv(x)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory"),
        (RuntimeError, "DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
)
def test_a_batch_that_runs_out_of_memory_is_halved_and_gives_the_same_images(error, text):
    torch.manual_seed(0)
    hungry = Hungry(3, error, text)
    torch.manual_seed(0)
    expected = featviz.render(Hungry(100), "conv:0-6", CONFIG)
    got = featviz.render(hungry, "conv:0-6", CONFIG)
    torch.testing.assert_close(got.images, expected.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.score, expected.score)


def test_one_image_that_does_not_fit_is_told_so():
    with pytest.raises(RenderError, match="1 images of 16 x 16 px do not fit the memory of cpu: take a smaller size"):
        featviz.render(Hungry(0), "conv:0-3", replace(CONFIG, batch=4))


def test_another_failure_is_not_taken_for_memory():
    hungry = Hungry(2, RuntimeError, "sizes do not match")
    with pytest.raises(RenderError, match="cannot take images"):
        featviz.render(hungry, "conv:0-3", replace(CONFIG, batch=4))


def test_auto_fills_the_given_memory_and_no_more():
    net = seeded(TinyResNet)
    extractor = FeatureExtractor(net, ("conv2",), CONFIG)
    one = image_bytes(extractor, channel("conv2", [0]))
    fixed = COPIES * sum(weight.nbytes for weight in extractor.net.parameters())
    for images in (1, 3, 9):
        config = replace(CONFIG, memory=((images + 0.5) * one + fixed) / SHARE / 2**30)
        extractor = FeatureExtractor(net, ("conv2",), config)
        found = batch_size(extractor, channel("conv2", list(range(4))))
        assert found == images
    extractor = FeatureExtractor(net, ("conv2",), CONFIG)
    assert batch_size(extractor, channel("conv2", [0])) == 32


def test_the_weights_are_no_part_of_an_image():
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 256, 3))
    objective = channel("2", [0])
    config = RenderConfig(size=6)
    extractor = FeatureExtractor(net, ("2",), config)
    assert image_bytes(extractor, objective) < net[2].weight.nbytes / 3


def test_memory_of_an_image_grows_with_its_area():
    net = seeded(TinyResNet)
    found = []
    for side in (32, 64):
        config = replace(CONFIG, size=side)
        extractor = FeatureExtractor(net, ("conv2",), config)
        found.append(image_bytes(extractor, channel("conv2", [0])))
    assert 3.5 < found[1] / found[0] < 4.5


@pytest.mark.parametrize("wrong", ["most", 0, None])
def test_a_wrong_batch_is_refused(wrong):
    with pytest.raises(RenderError, match="batch is"):
        RenderConfig(batch=wrong)
