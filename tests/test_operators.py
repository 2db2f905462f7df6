"""Structures at which tracers of permutations go wrong in silence: each is exact here, with the units that may move."""

import pytest
import torch
from networks import random_permutations, relative_difference, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.algebra.discovery import permutation_groups
from featviz.algebra.permutation import permute_module


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


class GroupNormStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)
        self.head = nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.stem(x)))).mean((2, 3))


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


class Grouped(nn.Module):
    """Grouped, depthwise with multiplier and transposed convolutions, squeeze-excite and channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.wide = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.mix, self.gate = nn.Conv2d(16, 6, 1), nn.Linear(6, 6)
        self.up, self.head = nn.ConvTranspose2d(6, 5, 2, 2), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.stem(x))))
        x = F.channel_shuffle(x, 2)
        x = self.mix(F.relu(self.wide(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.head(F.gelu(self.up(x))).mean((2, 3))


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


IMAGE = (1, 3, 8, 8)
STRUCTURES = {
    "option-A shortcut": (OptionA, IMAGE, {8: 1, 4: 2}),
    "GroupNorm in the stem": (GroupNormStem, IMAGE, {4: 2}),
    "a module used twice, a weight used transposed": (Twice, IMAGE, {5: 1, 6: 1}),
    "grouped convolutions": (Grouped, IMAGE, {6: 1, 5: 1}),
    "attention": (Attention, IMAGE, {8: 1, 4: 4}),
    "windows": (Windows, IMAGE, {}),
    "dictionary": (Dictionary, (1, 4), {6: 1, 5: 1}),
}


def difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    if not isinstance(one(x), dict):
        return relative_difference(one, other, x)
    one, other, x = one.double(), other.double(), x.double()
    return max(
        float((a - b).abs().max() / a.abs().max()) for a, b in zip(one(x).values(), other(x).values(), strict=True)
    )


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_exact_and_its_free_units_are_free(name):
    make, shape, sizes = STRUCTURES[name]
    model = seeded(make)
    groups = permutation_groups(model, torch.rand(shape), verify=False)
    found = list(groups.sizes.values())
    assert found, groups.pinned
    assert {size: found.count(size) for size in sizes} == sizes, groups.sizes
    permuted = permute_module(model, groups, random_permutations(groups, 1))
    with torch.no_grad():
        assert difference(model, permuted, torch.rand(shape)) < 1e-10
    assert not groups.unknown


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
