"""Structures at which tracers of permutations go wrong in silence: each is exact here, with the units that may move."""

import copy
import itertools

import pytest
import torch
from networks import Grouped, GroupNormStem, Heads, Norms, random_permutations, relative_difference, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module


class OptionA(nn.Module):
    """The first ResNets' shortcut: every second pixel, and zeros for the new channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x))) + short).mean((2, 3)))


class OptionAResNet20(nn.Module):
    """The CIFAR ResNet-20 of He et al. (2016), shortcuts without parameters, at a quarter of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.fc = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.Linear(16, 3)
        widths = [4] * 4 + [8] * 3 + [16] * 3
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, b // a, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
                nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b),
            )
            for a, b in itertools.pairwise(widths)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            y = block(x)
            if y.shape != x.shape:
                beside = (y.shape[1] - x.shape[1]) // 2
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, beside, beside))
            x = F.relu(x + y)
        return self.fc(x.mean((2, 3)))


class Twice(nn.Module):
    """One module in two places, and a linear layer that uses its weight again, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3, padding=1), nn.Linear(5, 6)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.conv(F.relu(self.conv(x)))).mean((2, 3))
        x = F.relu(self.fc(x))
        return self.last(F.linear(x, self.fc.weight.T))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token, x], 1) + self.position if len(x) == 1 else self._many(x)
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y, need_weights=False)[0])[:, 0])

    def _many(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position


class Windows(nn.Module):
    """Pixel shuffle, roll, unfolding into windows and back, split and chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 6, 1)
        self.left, self.right, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(F.pixel_shuffle(F.relu(self.stem(x)), 2))
        x = torch.roll(x, (1, 1), (2, 3)).unflatten(2, (4, -1)).permute(0, 1, 3, 2, 4).flatten(2)
        one, two = x.unsqueeze(-1).chunk(2, 1)
        return self.head((self.left(one) * self.right(two).sigmoid()).mean((2, 3)))


class Dictionary(nn.Module):
    """Several outputs in a dict, an in-place ReLU, PReLU, and a scale per layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 5)
        self.scale, self.out, self.aux = nn.Parameter(torch.randn(5)), nn.Linear(5, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.act(self.one(x))
        return {"out": self.out(torch.relu_(self.two(hidden)) * self.scale), "aux": self.aux(hidden)}


class Written(nn.Module):
    """Parts of a tensor are written in place."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.one(x))
        z = self.two(y)
        if self.kind == "an option-A shortcut by hand":
            wide = torch.zeros_like(z)
            wide[:, :4] = y
            z = z + wide
        if self.kind == "a border":
            wide = torch.zeros(1, 8, 10, 10, dtype=z.dtype)
            wide[:, :, 1:-1, 1:-1] = z
            z = F.relu_(wide)
        if self.kind == "a channel set to zero":
            z[:, 0] = 0
        if self.kind == "a row set to zero":
            z[:, :, 0] = 0
        if self.kind == "a row doubled":
            z[:, :, 0] = z[:, :, 1] * 2
        if self.kind == "half of the channels added to":
            z[:, :4] += y
        if self.kind == "half of the channels doubled":
            z.view(1, 2, 4, 8, 8)[:, 0].mul_(2)
        if self.kind == "halves treated differently":
            z = torch.cat([z[:, :4] * 2, z[:, 4:]], 1)
        return self.head(z.mean((2, 3)))


class Upward(nn.Module):
    """Transposed convolutions with groups, and a grouped one whose weight is standardised before use."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 4, 2, 2, groups=2)
        self.standard, self.head = nn.Conv2d(4, 4, 3, groups=2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(F.relu(self.stem(x))))
        weight = self.standard.weight - self.standard.weight.mean((1, 2, 3), keepdim=True)
        return self.head(F.relu(F.conv2d(x, weight, self.standard.bias, groups=2)).mean((2, 3)))


class Doubled(nn.Module):
    """cat([x, x]), and a sum of the channels with their mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.mix(torch.cat([x, x], 1)))
        return self.head((x + x.flip(1)).mean((2, 3)))


class Tied(nn.Module):
    """Two modules share one weight; a network keeps count of its calls and a mean of its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.three.weight, self.head = self.two.weight, nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        self.calls += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.head(x - self.mean + self.three(F.relu(self.two(x))))


IMAGE = (1, 3, 8, 8)
# name -> network, input, size and blocks of every group that owns parameters
STRUCTURES = {
    "option-A shortcut": (OptionA, IMAGE, [(4, 1), (4, 1), (8, 1)]),
    "option-A ResNet-20": (OptionAResNet20, IMAGE, [(4, 1)] * 5 + [(8, 1)] * 4 + [(16, 1)] * 3),
    "GroupNorm in the stem": (GroupNormStem, IMAGE, [(8, 2)]),
    "a module used twice, a weight used transposed": (Twice, IMAGE, [(5, 1), (6, 1)]),
    "grouped convolutions": (Grouped, IMAGE, [(2, 2)] * 4 + [(4, 2)] * 4 + [(5, 1), (6, 1), (8, 2)]),
    "transposed, grouped, standardised": (Upward, IMAGE, [(2, 1)] * 3 + [(3, 1)] * 2),
    "attention": (Attention, IMAGE, [(8, 1), (8, 2), (8, 2)]),
    "windows": (Windows, IMAGE, [(2, 1), (3, 1), (3, 1), (4, 1)]),
    "concatenated with itself, added to its mirror image": (Doubled, IMAGE, [(3, 1), (4, 1)]),
    "tied weights, and a state": (Tied, (1, 4), [(6, 1)]),
    "norms": (Norms, IMAGE, [(5, 1), (7, 1), (8, 2)]),
    "dictionary": (Dictionary, (1, 4), [(5, 1), (6, 1)]),
}
HEADS = {  # beside the stream of 6
    "nothing": [(12, 3), (12, 3)],
    "cosine": [(3, 3), (12, 3), (12, 3)],  # heads own their scale
    "a bias table": [(3, 3), (12, 3), (12, 3)],  # heads own a column
    "a gate for each head": [(3, 3), (12, 3), (12, 3)],
    "rotary": [(3, 3)] * 4 + [(12, 3)],  # coordinates may not move, heads may
    "a norm of queries and keys": [(4, 1)] * 4,  # queries move alike in all heads, which then may not
    "one key for all heads": [(4, 1), (4, 1)],  # as above
}
WRITES = {
    "nothing": [(4, 1), (8, 1)],
    "an option-A shortcut by hand": [(4, 1), (4, 1)],
    "a border": [(4, 1), (8, 1)],
    "a channel set to zero": [(4, 1), (7, 1)],
    "a row set to zero": [(4, 1), (8, 1)],
    "a row doubled": [(4, 1), (8, 1)],
    "half of the channels added to": [(4, 1), (4, 1)],
    "half of the channels doubled": [(4, 1), (4, 1), (4, 1)],
    "halves treated differently": [(4, 1), (4, 1), (4, 1)],
}
STRUCTURES |= {f"heads: {k}": (lambda k=k: Heads(k), IMAGE, [(6, 1), *found]) for k, found in HEADS.items()}
STRUCTURES |= {f"written: {k}": (lambda k=k: Written(k), IMAGE, found) for k, found in WRITES.items()}


def difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    outputs = [copy.deepcopy(model).double()(x.double()) for model in (one, other)]
    pairs = zip(*outputs, strict=True) if isinstance(outputs[0], tuple) else [outputs]
    if isinstance(outputs[0], dict):
        pairs = [(outputs[0][key], outputs[1][key]) for key in outputs[0]]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_exact_and_its_free_units_are_free(name):
    make, shape, expected = STRUCTURES[name]
    model = seeded(make)
    groups = permutation_groups(model, torch.rand(shape), verify=False)
    found = sorted((group.size, group.blocks) for group in groups if group.axes)
    assert found == sorted(expected), groups.pinned
    assert not groups.unknown
    for seed in range(3):
        permuted = permute_module(model, groups, random_permutations(groups, seed))
        with torch.no_grad():
            assert difference(model, permuted, torch.rand(shape)) < 1e-10


def test_a_forward_that_branches_on_its_input_is_traced_along_the_branch_taken():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.other = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.relu(self.one(x))
            return self.two(hidden) if x.sum() > 0 else self.other(hidden.flip(1))

    model = seeded(Branching)
    x = torch.rand(1, 4)
    groups = permutation_groups(model, x)
    permuted = permute_module(model, groups, random_permutations(groups, 1))
    assert relative_difference(model, permuted, x) < 1e-10
    assert groups.layers["two"].width == 2
    assert "other" not in groups.layers
