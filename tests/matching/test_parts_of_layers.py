"""Layers whose halves are different groups, infinite buffers, and parts of networks whose outputs are free: align and merge."""

import copy

import pytest
import torch
from networks import planted, relative_difference, seeded
from torch import Tensor, nn
from torch.nn import functional as F

import featviz
from featviz.symmetry.permute import layer_permutation, permute_module

X = torch.rand(1, 3, 8, 8)


class Halves(nn.Module):
    """The two halves of a convolution's output go separate ways: its weight has two groups on one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.left, self.right, self.head = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.two(self.one(x).relu()).relu().chunk(2, 1)
        return self.head((self.left(left) * self.right(right).sigmoid()).mean((2, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_halves_of_a_layer_are_matched_by_weights(seed):
    a = seeded(Halves, seed)
    b, _, truth = planted(a, X, 2)
    alignment = featviz.align(a, b, X, "weights", seed=seed)
    assert {name: perm.tolist() for name, perm in alignment.permutations.items()} == {
        name: perm.tolist() for name, perm in truth.items()
    }


class Bounded(nn.Module):
    """Infinite bounds, one per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.register_buffer("high", torch.full((6, 1, 1), torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(torch.minimum(self.conv(x), self.high)).mean((2, 3)))


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_infinite_buffers_stay_infinite_in_an_aligned_merge(method):
    a = seeded(Bounded)
    b, _, truth = planted(a, X, 2)
    alignment = featviz.align(a, b, X, method, [torch.rand(8, 3, 8, 8) for _ in range(4)])
    assert (alignment.permutations["conv"] == truth["conv"]).all()
    merged = featviz.merge(a, b, alignment, weight=0.5)
    assert (merged.get_buffer("high") == torch.inf).all()
    assert relative_difference(a, merged, X) < 1e-5


def part() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_planted_permutation_of_the_last_layer_of_a_part_is_found_where_outputs_are_free(method):
    a = seeded(part)
    groups = featviz.permutation_groups(a, X, free_outputs=True)
    there = {"0": torch.randperm(6).numpy(), "3": torch.arange(8).flip(0).numpy()}
    b = permute_module(a, groups, there)
    data = [torch.rand(8, 3, 8, 8) for _ in range(4)]
    alignment = featviz.align(a, b, X, method, data, free_outputs=True)
    assert (alignment.permutations["3"] == there["3"].argsort()).all()
    (units,) = alignment.groups.outputs
    assert units is not None
    order = layer_permutation(units, alignment.groups.groups, alignment.permutations)
    with torch.no_grad():
        y, aligned = (copy.deepcopy(m).double()(X.double()) for m in (b, alignment.permute(b)))
    assert (y[:, order] - aligned).abs().max() < 1e-10


def test_a_layer_that_is_fixed_because_it_is_an_output_says_so(tmp_path):
    a = seeded(part)
    b, _, _ = planted(a, X, 2)
    alignment = featviz.align(a, b, X)
    assert "3" not in alignment.permutations
    alignment.save(tmp_path / "ab.safetensors")
    for one in (alignment, featviz.load_alignment(tmp_path / "ab.safetensors")):
        assert str(one.indexer.match("3", 2)) == "A 3:2 = B 3:2 (fixed: the network's output)"
        assert "score" in str(one.indexer.match("0", 2))
