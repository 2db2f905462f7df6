"""Groups that two different networks share: one permutation for both, each with its own axes, exact in both."""

import numpy as np
import pytest
import torch
from networks import Heads, TinyResNet, random_permutations, relative_difference, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.errors import ModelError
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module
from featviz.symmetry.shared_groups import SharedGroups, shared_groups, shared_names

X = torch.rand(1, 3, 8, 8)


class Net(nn.Module):
    """Two convolutions and a head; `extra` stands between the convolutions, `norm` after the second."""

    def __init__(self, classes: int = 4, extra: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.extra, self.norm = extra or nn.Identity(), norm or nn.Identity()
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.extra(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.relu(self.norm(self.conv2(x))).mean((2, 3)))


class Gate(nn.Module):
    """Squeeze-excite: hidden units of its own, and rows that move with the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))[:, :, None, None]


class Ordered(nn.Module):
    """Depends on the order of channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def check(a: nn.Module, b: nn.Module, found: SharedGroups) -> None:
    """One permutation of the shared groups changes neither network's function, and moves the weights of both."""
    assert [(g.name, g.size, g.blocks, g.family) for g in found.a] == [
        (g.name, g.size, g.blocks, g.family) for g in found.b
    ]
    perms = random_permutations(found.a, 1)
    x = torch.rand(2, 3, 8, 8)
    for model, groups in ((a, found.a), (b, found.b)):
        permuted = permute_module(model, groups, perms)
        assert relative_difference(model, permuted, x) < 1e-10
        for group in groups:
            for axis in group.axes:
                tensor = dict([*model.named_parameters(), *model.named_buffers()])[axis.parameter]
                assert axis.index.max() < tensor.shape[axis.axis] * axis.blocks


@pytest.mark.parametrize(
    ("make", "sizes", "private"),
    [
        (lambda: Net(6), {"conv1": 6, "conv2": 8}, ("fc.weight", "fc.bias")),
        (lambda: Net(4, Gate()), {"conv1": 6, "conv2": 8}, ("extra.squeeze.weight", "extra.squeeze.bias")),
        (lambda: Net(6, norm=nn.GroupNorm(2, 8)), {"conv1": 6, "conv2.blocks": 2, "conv2": 8}, ("norm.weight",)),
        (lambda: Net(6, nn.Conv2d(6, 6, 1)), {"conv1": 6, "conv2": 8}, ("extra.weight",)),
        (lambda: Net(6, Ordered()), {"conv2": 8}, ("fc.weight",)),
        (lambda: Net(6, nn.Identity(), Ordered()), {"conv1": 6}, ("fc.weight",)),
    ],
    ids=["other classes", "a gate", "a norm in groups", "a further layer", "an unknown operator", "the same, later"],
)
def test_two_networks_that_differ_are_permuted_alike(make, sizes, private):
    a, b = seeded(Net), seeded(make, 1)
    found = shared_groups(a, b, X)
    check(a, b, found)
    assert found.b.sizes == sizes
    assert set(private) <= set(found.private_b)
    assert not set(found.private_b) & set(found.shared.values())
    check(b, a, shared_groups(b, a, X))


def test_a_private_tensor_moves_along_the_axis_that_it_shares():
    a, b = seeded(lambda: Net(4)), seeded(lambda: Net(6), 1)
    found = shared_groups(a, b, X)
    (group,) = (group for group in found.b if group.name == "conv2")
    assert {(axis.parameter, axis.axis) for axis in group.axes} == {
        ("conv2.weight", 0),
        ("conv2.bias", 0),
        ("fc.weight", 1),
    }
    assert set(found.private_a) == set(found.private_b) == {"fc.weight", "fc.bias"}
    assert found.b.layers["conv2"].element.tolist() == list(range(8))
    assert (found.b.layers["fc"].group == -1).all()


def test_hidden_units_of_a_private_module_are_no_group():
    a, b = seeded(Net), seeded(lambda: Net(4, Gate()), 1)
    assert "extra.squeeze" in permutation_groups(b, X).sizes
    found = shared_groups(a, b, X)
    assert "extra.squeeze" not in found.b.sizes
    assert (found.b.layers["extra.squeeze"].group == -1).all()
    (group,) = (group for group in found.b if group.name == "conv1")
    assert {"extra.squeeze.weight", "extra.excite.weight"} <= {axis.parameter for axis in group.axes}


def test_equal_networks_share_all_their_groups():
    for make in (TinyResNet, lambda: Heads("a bias table")):
        a, b = seeded(make), seeded(make, 1)
        found, alone = shared_groups(a, b, X), permutation_groups(b, X)
        assert not found.private_a
        assert not found.private_b
        for side in (found.a, found.b):
            assert side.sizes == alone.sizes
            for group, same in zip(side, alone, strict=True):
                assert [(x.parameter, x.axis, x.blocks) for x in group.axes] == [
                    (x.parameter, x.axis, x.blocks) for x in same.axes
                ]
                assert all((x.index == y.index).all() for x, y in zip(group.axes, same.axes, strict=True))
            for name, units in alone.layers.items():
                assert (side.layers[name].group == units.group).all()
                assert (side.layers[name].element == units.element).all()


def test_ignored_and_renamed_tensors():
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)), nn.Conv2d(6, 8, 3)
            self.top = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.top(F.relu(self.body(F.relu(self.stem(x)))).mean((2, 3)))

    a, b = seeded(Net), seeded(Renamed, 1)
    names = {"stem.0": "conv1", "stem.1": "bn1", "body": "conv2", "top": "fc"}
    shared = shared_names(a, b, ["fc.*"], lambda name: ".".join((names[name.rpartition(".")[0]], name.split(".")[-1])))
    assert shared["conv1.weight"] == "stem.0.weight"
    assert not any(name.startswith("fc") for name in shared)
    found = shared_groups(a, b, X, shared=shared)
    assert found.private_b == ("top.weight", "top.bias")
    check(a, b, found)
    assert found.b.layers["body"].element.tolist() == list(range(8))


def test_a_weight_that_one_network_uses_twice_is_private():
    class Tied(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3)
            self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            if tied:
                self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.two(F.relu(self.one(F.relu(self.stem(x)).mean((2, 3)))))))

    a, b = seeded(lambda: Tied(True)), seeded(lambda: Tied(False), 1)
    found = shared_groups(a, b, X)
    assert "one.weight" in found.private_a
    assert {"one.weight", "two.weight"} <= set(found.private_b)
    check(a, b, found)


def test_networks_without_a_tensor_in_common_are_one_sentence():
    a, b = seeded(TinyResNet), seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    with pytest.raises(ModelError, match="no tensor of the same name and shape in common"):
        shared_groups(a, b, X)


def test_networks_are_left_as_they_were():
    a, b = seeded(lambda: Net(4)), seeded(lambda: Net(6), 1)
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in (a, b)]
    shared_groups(a, b, X)
    for model, values in zip((a, b), before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert a.conv1.weight is not b.conv1.weight


def test_one_permutation_aligns_both():
    """A planted permutation of B is undone by the same permutation through the shared groups."""
    a, b = seeded(lambda: Net(4)), seeded(lambda: Net(6), 1)
    found = shared_groups(a, b, X)
    there = random_permutations(found.b, 3)
    planted = permute_module(b, found.b, there)
    back = permute_module(planted, found.b, {name: np.argsort(perm) for name, perm in there.items()})
    assert all(torch.equal(x, y) for x, y in zip(b.state_dict().values(), back.state_dict().values(), strict=True))
