"""Every network normalizes images for itself, with values whose source is known and recorded."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import featviz
from featviz.config import RenderConfig
from featviz.errors import DataError, ModelError, RenderError
from featviz.subjects import (
    Subject,
    as_subject,
    input_channels,
    input_normalization,
    network_of,
    normalized_inputs,
    remember_normalization,
)
from featviz.zoo import CifarResNet

CPU = torch.device("cpu")


def plain(channels: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, 1, 1)


def test_channels_are_read_from_what_is_given_or_from_the_first_weight():
    assert input_channels(plain(1)) == 1
    assert input_channels(CifarResNet(8, in_channels=4)) == 4
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 5))
    assert input_channels(mlp, RenderConfig(size=8)) == 2
    assert input_channels(nn.Sequential(nn.Conv2d(6, 6, 1, groups=6))) == 6
    assert input_channels(nn.Identity()) == 3
    assert input_channels(plain(1), RenderConfig(mean=(0.5, 0.5), std=(1.0, 1.0))) == 2
    assert input_channels(Subject(nn.Identity(), mean=(0.5,) * 4, std=(1.0,) * 4)) == 4


def test_the_normalization_comes_from_the_nearest_source_and_names_it():
    net, config = plain(), RenderConfig()
    assert input_normalization(net, config).mean == (0.485, 0.456, 0.406)
    assert "assumed" in input_normalization(net, config).source
    assert input_normalization(net, config, 2).record()["std"] == [1.0, 1.0]
    net.default_cfg = {"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.2, 0.2)}
    assert input_normalization(net).mean == (0.1,) * 3
    net.pretrained_cfg = SimpleNamespace(mean=(0.3,) * 3, std=(0.4,) * 3)
    assert (input_normalization(net).std, input_normalization(net).source) == ((0.4,) * 3, "timm's pretrained_cfg")
    net.mean, net.std = torch.tensor([0.5] * 3), [0.25] * 3
    assert (input_normalization(net).mean, input_normalization(net).std) == ((0.5,) * 3, (0.25,) * 3)
    remember_normalization(net, (0.6,) * 3, (0.3,) * 3, "the weights' own")
    assert input_normalization(copy.deepcopy(net)).source == "the weights' own"
    given = RenderConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert input_normalization(net, given).source == "given with the call"
    own = Subject(net, mean=np.array([0.4, 0.4, 0.4]), std=torch.full((3,), 0.2))
    assert input_normalization(own, given).mean == (0.4,) * 3


def test_values_of_another_number_of_channels_are_passed_over():
    net = plain(1)
    net.mean, net.std = (0.5,) * 3, (0.25,) * 3
    assert input_normalization(net).mean == (0.0,)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((0.5,), (0.5,), "takes 3 channels"),
        ((0.5,) * 3, None, "belong together"),
        (None, (0.5,) * 3, "belong together"),
        ((0.5,) * 3, (0.5, 0.5, 0.0), "positive"),
        ((127,) * 3, (128,) * 3, r"in \[0, 1\]: did you mean 0.498, 0.498, 0.498"),
        ((0.5,) * 3, (58.0,) * 3, r"did you mean 0.227"),
    ],
)
def test_values_that_do_not_fit_images_are_refused_or_questioned(mean, std, words):
    with pytest.raises(RenderError, match=words):
        input_normalization(plain(), RenderConfig(mean=mean, std=std), 3)
    with pytest.raises(RenderError):
        input_normalization(Subject(plain(), mean=mean, std=std), channels=3)


def test_an_assumed_normalization_is_said_once_for_a_kind_of_network(caplog):
    class Untold(nn.Conv2d):
        pass

    with caplog.at_level(logging.WARNING, "featviz"):
        for _ in range(3):
            input_normalization(Untold(3, 1, 1))
    assert [record.getMessage().split()[0] for record in caplog.records] == ["Untold"]
    assert "ImageNet" in caplog.text


def test_a_name_is_given_only_to_a_subject_without_one():
    net = plain()
    assert as_subject(net, "A").name == "A"
    assert as_subject(Subject(net, "mine"), "A").name == "mine"
    assert as_subject(Subject(net), "A").model is net
    with pytest.raises(ModelError, match="type str is no network"):
        as_subject("resnet18")  # pyright: ignore[reportArgumentType]


def test_every_subject_normalizes_images_for_itself():
    images = torch.rand(2, 3, 4, 4)
    one, two = Subject(plain(), mean=(0.5,) * 3, std=(0.25,) * 3), Subject(plain(), mean=(0.0,) * 3, std=(0.5,) * 3)
    ((first, second, again),) = normalized_inputs([(images, torch.zeros(2))], [one, two, one], CPU)
    torch.testing.assert_close(first, (images - 0.5) / 0.25)
    torch.testing.assert_close(second, images / 0.5)
    assert again is first


def test_data_that_were_normalized_already_are_fed_as_they_are_and_that_is_said(caplog):
    data = [torch.randn(8, 3, 4, 4), torch.rand(8, 3, 4, 4)]
    subject = Subject(plain(), mean=(0.5,) * 3, std=(0.25,) * 3)
    with caplog.at_level(logging.WARNING, "featviz"):
        found = [x for (x,) in normalized_inputs(data, [subject], CPU)]
    assert all(torch.equal(x, given) for x, given in zip(found, data, strict=True))
    assert len(caplog.records) == 1
    assert "normalized already" in caplog.text


def test_data_that_were_normalized_for_one_of_two_networks_are_refused():
    subjects = [Subject(plain(), mean=(mean,) * 3, std=(0.25,) * 3) for mean in (0.4, 0.5)]
    with pytest.raises(DataError, match=r"different ways: give images in \[0, 1\]"):
        next(normalized_inputs([torch.randn(8, 3, 4, 4)], subjects, CPU))


def test_what_is_no_image_is_fed_as_it_is():
    for x in (torch.rand(8, 10), torch.randint(9, (8, 5))):
        assert next(normalized_inputs([x], [nn.Linear(10, 2)], CPU))[0] is x
    with pytest.raises(DataError, match=r"from 0 to 255, as images of 0 to 255 have: divide them by 255"):
        next(normalized_inputs([torch.linspace(0, 255, 12).view(1, 3, 2, 2)], [plain()], CPU))
    with pytest.raises(DataError, match="uint8"):
        next(normalized_inputs([torch.zeros(1, 3, 2, 2, dtype=torch.uint8)], [plain()], CPU))


def test_a_network_remembers_what_its_subject_brings_and_shares_its_weights():
    net = plain()
    network = network_of(Subject(net, mean=(0.4,) * 3, std=(0.2,) * 3))
    assert network.weight.data_ptr() == net.weight.data_ptr()
    assert input_normalization(network).mean == (0.4,) * 3
    assert input_normalization(copy.deepcopy(network)).mean == (0.4,) * 3
    assert "assumed" in input_normalization(net).source
    assert network_of(net) is net


class Small(nn.Module):
    """Unequal units and a BatchNorm, so that statistics and matches depend on how the input is normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def test_images_and_their_normalized_form_give_the_same_alignment_merge_and_accuracy():
    """Networks of two normalizations, fed images in [0, 1]; and one that undoes the other's normalization in its weights."""
    torch.manual_seed(0)
    a = Small().eval()
    other = copy.deepcopy(a)
    with torch.no_grad():  # w (x - .2) / .5 of the other is w' (x - .5) / .25 of A
        other.conv.bias += (other.conv.weight * ((0.2 - 0.5) / 0.25)).sum((1, 2, 3))
        other.conv.weight *= 0.5 / 0.25
    one, two = Subject(a, mean=(0.5,) * 3, std=(0.25,) * 3), Subject(other, mean=(0.2,) * 3, std=(0.5,) * 3)
    data = [(torch.rand(64, 3, 8, 8), torch.randint(2, (64,)))]
    alignment = featviz.align(one, two, data[0][0][:1], "activations", data)
    assert all((perm == np.arange(len(perm))).all() for perm in alignment.permutations.values())
    assert min(scores.min() for scores in alignment.scores.values()) > 0.999
    assert featviz.evaluate(one, data)[0] == pytest.approx(featviz.evaluate(two, data)[0], rel=1e-5)
    merged = featviz.merge(one, one.model, None, data=data)
    normalized = featviz.merge(a, a, None, data=[(data[0][0] - 0.5) / 0.25])
    assert input_normalization(merged).mean == (0.5,) * 3
    torch.testing.assert_close(merged.norm.running_var, normalized.norm.running_var, rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="different ways"):
        featviz.align(one, two, data[0][0][:1], "activations", [torch.randn(8, 3, 8, 8)])
