"""P1: permuting any group leaves the function unchanged; what may not move is pinned, what may is free."""

import copy

import pytest
import torch
import torchvision
from networks import ResidualMLP, TinyCNN, TinyResNet, random_permutations, relative_difference, seeded
from torch import Tensor, nn

import featviz
from featviz.errors import ModelError
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module
from featviz.zoo.resnet import CifarResNet
from featviz.zoo.vgg import CifarVGG

# name -> network, example input, units that are free to move
NETWORKS = {
    "tiny resnet": (TinyResNet, (1, 3, 8, 8), 8 + 16),
    "tiny cnn, flattened": (TinyCNN, (1, 3, 8, 8), 6 + 6),
    "residual mlp": (ResidualMLP, (1, 10), 4 * 32),
    "cifar resnet20": (lambda: CifarResNet(20, 1), (1, 3, 32, 32), (16 + 3 * 16) + (32 + 3 * 32) + (64 + 3 * 64)),
    "cifar vgg11": (lambda: CifarVGG(11, 0.25), (1, 3, 32, 32), 16 + 32 + 2 * 64 + 4 * 128),
    "cifar vgg16 with norm": (
        lambda: CifarVGG(16, 0.25, batch_norm=True),
        (1, 3, 32, 32),
        2 * 16 + 2 * 32 + 3 * 64 + 6 * 128,
    ),
    "resnet18": (lambda: torchvision.models.resnet18(), (1, 3, 64, 64), 2880),
    "resnet50": (lambda: torchvision.models.resnet50(), (1, 3, 64, 64), 11456),
    "vgg11_bn": (lambda: torchvision.models.vgg11_bn(), (1, 3, 64, 64), 64 + 128 + 2 * 256 + 4 * 512 + 2 * 4096),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_computes_the_same_function(name):
    make, shape, free = NETWORKS[name]
    model = seeded(make)
    groups = permutation_groups(model, torch.rand(shape), verify=False)
    permuted = permute_module(model, groups, random_permutations(groups, 1))
    assert relative_difference(model, permuted, torch.rand(2, *shape[1:])) < 1e-10
    assert sum(groups.sizes.values()) == free
    assert not groups.unknown


def test_weights_made_in_inference_mode_are_permuted():
    with torch.inference_mode():
        model = seeded(TinyResNet)
    groups = permutation_groups(model, torch.rand(1, 3, 8, 8))
    perms = random_permutations(groups, 1)
    permuted = permute_module(model, groups, perms)
    assert (model.bn1.running_mean != permuted.bn1.running_mean).any()
    assert relative_difference(model, permuted, torch.rand(2, 3, 8, 8)) < 1e-10


def test_the_layout_of_a_network_in_channels_last_stays():
    model = seeded(TinyResNet).to(memory_format=torch.channels_last)
    groups = permutation_groups(model, torch.rand(1, 3, 8, 8))
    permuted = permute_module(model, groups, random_permutations(groups, 1))
    assert permuted.conv1.weight.stride() == model.conv1.weight.stride()


def test_the_permutation_does_move_the_weights():
    model = seeded(TinyResNet)
    groups = permutation_groups(model, torch.rand(1, 3, 8, 8))
    permuted = permute_module(model, groups, random_permutations(groups, 1))
    assert (model.conv1.weight != permuted.conv1.weight).any()
    assert (model.bn1.running_mean != permuted.bn1.running_mean).any()


class Custom(nn.Module):
    """Reverses the channels by a sort along them: an operator without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 2, 3)
        self.after = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.head(self.conv(x).cumsum(1)).mean((2, 3)))


def test_an_unknown_operator_pins_and_is_named():
    groups = permutation_groups(seeded(Custom), torch.rand(1, 3, 8, 8))
    assert list(groups.unknown) == ["aten.cumsum.default"]
    assert [(group.name, group.size) for group in groups] == [("head", 2)]
    assert any("cumsum" in pin.reason for pin in groups.pinned if pin.parameter.startswith("conv"))


@torch.library.custom_op("featviz_tests::rescale", mutates_args=())
def rescale(x: Tensor) -> Tensor:
    return x * torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None, None]


def test_a_custom_operator_pins_what_it_sees_and_is_named_with_its_module():
    class Rescaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return rescale(x)

    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Rescaled(), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 3)))
    groups = permutation_groups(model, torch.rand(1, 3, 8, 8), verify=False)
    assert groups.unknown == {"featviz_tests.rescale.default": "1"}
    assert groups.sizes == {"2": 5}
    assert any("unknown operator featviz_tests.rescale.default in 1" in pin.reason for pin in groups.pinned)


class Doubles(nn.Module):
    """Writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.mul_(2)))


def test_a_network_that_writes_into_its_input_has_its_groups_and_the_example_stays():
    x = torch.rand(1, 4)
    before = x.clone()
    assert permutation_groups(seeded(Doubles), x).free_units == 6
    assert torch.equal(x, before)


class Lookup(nn.Module):
    """Its forward depends on the order of units in a way that no operator shows: verification has to catch it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x) * self.one.bias.tolist()[0])


def test_verification_demotes_a_group_that_changes_the_function():
    free = permutation_groups(seeded(Lookup), torch.rand(1, 4), verify=False)
    assert [group.size for group in free] == [6]
    checked = permutation_groups(seeded(Lookup), torch.rand(1, 4))
    assert len(checked) == 0
    assert any("verification" in pin.reason for pin in checked.pinned)
    assert (checked.layers["one"].group == -1).all()


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.mix = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.mix(self.norm(torch.cat([x, x.relu()], 1))).relu().mean((2, 3)))


def test_a_concatenation_shares_its_group():
    model = seeded(Concatenated)
    groups = permutation_groups(model, torch.rand(1, 3, 8, 8))
    assert sorted(groups.sizes.values()) == [4, 6]
    assert groups.layers["norm"].element.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_example_input_that_does_not_fit_is_one_sentence():
    with pytest.raises(ModelError, match=r"does not run on the example input of shape \(1, 4, 8, 8\)"):
        permutation_groups(seeded(TinyResNet), torch.rand(1, 4, 8, 8))


def test_tracing_leaves_the_model_as_it_was():
    model = seeded(TinyResNet)
    model.train()
    model.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    featviz.permutation_groups(model, torch.rand(1, 3, 8, 8))
    assert all((before[key] == value).all() for key, value in model.state_dict().items())
    assert model.training
    assert not model.bn1.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
