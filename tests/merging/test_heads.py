"""Merges up to a layer: against the forward pass written out, and the cases whose answer is known."""

import copy

import pytest
import torch
from networks import TinyCNN, TinyResNet, planted, relative_difference, seeded
from torch import nn
from torch.nn import functional as F

import featviz
from featviz.errors import AlignmentError
from featviz.merging.batchnorm import reset_batchnorm
from featviz.merging.heads import tensors_until

EXAMPLE = torch.rand(1, 3, 8, 8)
DATA = [torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
METHODS = ("weights", "activations", "zipit", "cca", "ot")


def aligned(a: nn.Module, b: nn.Module, method: str) -> featviz.Alignment:
    return featviz.align(a, b, EXAMPLE, method, data=None if method == "weights" else DATA)


@pytest.mark.parametrize("method", METHODS)
def test_the_heads_read_their_own_units_off_the_merged_ones(method):
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    alignment = aligned(a, b, method)
    heads = featviz.merge_heads(a, b, alignment, "relu1", EXAMPLE, repair="none")
    merged = featviz.merge(a, b, alignment, repair="none")
    group = alignment.groups.groups[int(alignment.groups.layers["conv1"].group[0])].name
    x = DATA[0].double()
    for number, (head, own) in enumerate(zip(heads, (a, b), strict=True)):
        if isinstance(alignment, featviz.LinearAlignment):
            split = torch.from_numpy(alignment.combination.unmerge[group][number])
        else:
            eye = torch.eye(6, dtype=torch.float64)
            split = eye if number == 0 else eye[torch.from_numpy(alignment.permutations[group])].T
        own, front = copy.deepcopy(own).double(), copy.deepcopy(merged).double()
        z = F.relu(F.conv2d(x, front.conv1.weight, front.conv1.bias, padding=1))
        h = F.relu(own.conv2(torch.einsum("nm,bmhw->bnhw", split, z)))
        expected = own.fc(own.pool(h).flatten(1))
        assert (copy.deepcopy(head).double()(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("until", ["conv1", "relu1", "conv2", "pool"])
def test_two_orders_of_one_network_stay_that_network_wherever_they_are_cut(until):
    a = seeded(TinyCNN, 0)
    b, _, _ = planted(a, EXAMPLE, 3)
    for head in featviz.merge_heads(a, b, aligned(a, b, "weights"), until, EXAMPLE):
        assert relative_difference(head, a, DATA[0]) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_cut_at_the_last_layer_both_heads_are_the_merge(method):
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    alignment = aligned(a, b, method)
    merged = featviz.merge(a, b, alignment, repair="none").state_dict()
    for head in featviz.merge_heads(a, b, alignment, "fc", EXAMPLE, repair="none"):
        assert all(torch.allclose(value, merged[name]) for name, value in head.state_dict().items())


class Scaled(TinyCNN):
    """A scale per unit that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.rand(6, 1, 1) + 0.5, persistent=False)
        self.relu1 = nn.Identity()
        self.after = nn.ReLU()

    def forward(self, x):
        x = self.after(self.relu1(self.conv1(x)) * self.scale)
        return self.fc(self.pool(self.relu2(self.conv2(x))).flatten(1))


def test_what_belongs_to_the_network_itself_counts_as_behind():
    a, b = seeded(Scaled, 0), seeded(Scaled, 1)
    with pytest.raises(AlignmentError, match="scale, behind it, adds to units"):
        featviz.merge_heads(a, b, aligned(a, b, "weights"), "relu1", EXAMPLE)


def test_buffers_that_no_state_dict_holds_are_merged_too():
    a, b = (seeded(lambda: nn.Sequential(Scaled(), nn.Linear(4, 3)), seed) for seed in range(2))
    alignment = aligned(a, b, "weights")
    merged = featviz.merge(a, b, alignment, repair="none")
    for head in featviz.merge_heads(a, b, alignment, "0", EXAMPLE, repair="none"):
        assert torch.allclose(head[0].scale, merged[0].scale)


def test_statistics_are_measured_in_each_head_and_the_parents_stay_as_they_were():
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    before = copy.deepcopy((a.state_dict(), b.state_dict()))
    alignment = aligned(a, b, "zipit")
    plain = featviz.merge_heads(a, b, alignment, "conv3", EXAMPLE, repair="none")
    repaired = featviz.merge_heads(a, b, alignment, "conv3", EXAMPLE, data=DATA)
    for one, other in zip(plain, repaired, strict=True):
        assert not torch.equal(one.bn2.running_var, other.bn2.running_var)
        reset_batchnorm(one, DATA)
        assert all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())
    for model, state in zip((a, b), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("until", "culprit"),
    [("bn1", "bn2.bias"), ("conv1", "bn1.bias"), ("bn9", "did you mean bn"), ("", "no layer ''")],
)
def test_a_place_that_is_no_cut_is_refused_by_name(until, culprit):
    a, b = seeded(TinyResNet, 0), seeded(TinyResNet, 1)
    with pytest.raises(AlignmentError, match=culprit):
        featviz.merge_heads(a, b, aligned(a, b, "weights"), until, EXAMPLE)


def test_wrong_repairs_and_other_models_are_refused():
    a, b = seeded(TinyCNN, 0), seeded(TinyCNN, 1)
    alignment = aligned(a, b, "weights")
    with pytest.raises(AlignmentError, match="two heads"):
        featviz.merge_heads(a, b, alignment, "relu1", EXAMPLE, repair="rescale", data=DATA)
    with pytest.raises(AlignmentError, match="needs BatchNorm"):
        featviz.merge_heads(a, b, alignment, "relu1", EXAMPLE, repair="batchnorm", data=DATA)
    with pytest.raises(AlignmentError):
        featviz.merge_heads(b, a, alignment, "relu1", EXAMPLE)


class Odd(nn.Module):
    """A linear layer used twice, an unused one, attention whose output projection is never called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.twice(F.relu(self.twice(F.relu(self.first(x)))))
        return self.head(self.attention(h, h, h, need_weights=False)[0].mean(1))


def test_what_runs_until_a_layer():
    x = torch.rand(2, 4, 8)
    model = seeded(Odd)
    projection = {"attention.in_proj_weight", "attention.in_proj_bias"}
    projection |= {"attention.out_proj.weight", "attention.out_proj.bias"}
    assert tensors_until(model, "first", x) == {"first.weight", "first.bias"}
    assert tensors_until(model, "attention", x) - projection == {
        f"{layer}.{part}" for layer in ("first", "twice") for part in ("weight", "bias")
    }
    assert tensors_until(model, "attention", x) >= projection
    with pytest.raises(AlignmentError, match=r"twice\.weight is used before it and behind it"):
        tensors_until(model, "twice", x)
    with pytest.raises(AlignmentError, match="does not call unused"):
        tensors_until(model, "unused", x)
