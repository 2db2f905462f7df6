"""Networks by name: what the name says is what is built, and a wrong name leads to the right one."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featviz.errors import CheckpointError, ModelError
from featviz.networks.architectures import build
from featviz.weights.checks import digest
from featviz.zoo import CifarResNet, CifarVGG
from featviz.zoo.pair import PARTS, read_pair


@pytest.mark.parametrize(
    ("name", "kind", "width"),
    [
        ("resnet20-x2", CifarResNet, 32),
        ("resnet32-x1", CifarResNet, 16),
        ("vgg11-x0.25", CifarVGG, 16),
        ("vgg16_bn-x1", CifarVGG, 64),
    ],
)
def test_a_zoo_name_gives_depth_width_and_norm(name, kind, width):
    model = build(name)
    assert isinstance(model, kind)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions[0].out_channels == width
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == (0 if name.startswith("vgg11-") else len(convolutions))


def test_arguments_reach_the_network():
    assert build("resnet20-x1", classes=7, in_channels=1)(torch.zeros(1, 1, 8, 8)).shape == (1, 7)
    assert build("squeezenet1_0", num_classes=3)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet20", "or resnet20-x"),
        ("resnet1o1", "did you mean resnet101"),
        ("resnet20-x0", "no 'resnet20-x0' in the zoo"),
        ("resnet20-x1.5", "no 'resnet20-x1.5' in the zoo"),
        ("resnet20_bn-x1", "in the zoo"),
        ("resnet21-x1", "6n [+] 2"),
        ("vgg13-x1", "use 11 or 16"),
        ("", "there is no architecture ''"),
        ("torch.nn:", "no callable ''"),
        ("torch.nn:Liner", "did you mean Linear"),
        (":x", "importing"),
    ],
)
def test_a_wrong_name_leads_to_the_right_one(name, part):
    with pytest.raises(ModelError, match=part):
        build(name)


def test_arguments_that_the_network_does_not_take_are_named():
    for name in ("resnet20-x1", "resnet18", "torch.nn:Identity2D", "torch.nn:Linear"):
        with pytest.raises(ModelError, match=r"colour|Identity2D"):
            build(name, colour="red")


def test_a_pair_comes_back_from_its_folder(tmp_path):
    torch.manual_seed(0)
    a, b = build("resnet20-x1"), build("resnet20-x1")
    statistics = {key: value.half() for key, value in a.state_dict().items() if "running" in key}
    save_file(a.state_dict(), tmp_path / "a.safetensors")
    save_file(b.state_dict(), tmp_path / "b.safetensors")
    save_file(statistics, tmp_path / "merged-statistics.safetensors")
    (tmp_path / "alignment.safetensors").touch()
    (tmp_path / "card.json").write_text(json.dumps({"architecture": "resnet20-x1"}))
    pair = read_pair(tmp_path)
    assert (digest(pair.a), digest(pair.b)) == (digest(a), digest(b))
    assert not pair.a.training
    assert pair.merged_statistics.keys() <= a.state_dict().keys()
    assert pair.merged_statistics["bn1.running_var"].dtype == torch.float32
    for part in PARTS:
        content = (tmp_path / part).read_bytes()
        (tmp_path / part).unlink()
        with pytest.raises(CheckpointError, match=part):
            read_pair(tmp_path)
        (tmp_path / part).write_bytes(content)
