"""The smallest networks that can show a fault, and how the tests permute them."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.algebra import permutation
from featviz.algebra.discovery import permutation_groups
from featviz.algebra.groups import PermutationGroups
from featviz.algebra.permutation import permute_module
from featviz.algebra.verification import randomise_constants


def seeded(make, seed: int = 0) -> nn.Module:
    """A network whose weights and norm statistics are random, in eval mode."""
    torch.manual_seed(seed)
    model = make().eval()
    randomise_constants(model, torch.Generator().manual_seed(seed))
    return model


def random_permutations(groups: PermutationGroups, seed: int = 0) -> dict[str, np.ndarray]:
    return permutation.random_permutations(groups, np.random.default_rng(seed))


def planted(model: nn.Module, example: Tensor, seed: int = 0, noise: float = 0.0):
    """B whose units are A's in another order: (B, groups, the permutation that brings B back into A's order)."""
    groups = permutation_groups(model, example)
    there = random_permutations(groups, seed)
    other = permute_module(model, groups, there)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            deviation = parameter.std() if parameter.numel() > 1 else parameter.abs()
            parameter.add_(noise * deviation * torch.randn(parameter.shape, generator=generator))
    return other, groups, {name: np.argsort(perm) for name, perm in there.items()}


def relative_difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    """In float64, over the largest output."""
    with torch.no_grad():
        y, z = (copy.deepcopy(m).double().eval()(x.double()) for m in (one, other))
    return float((y - z).abs().max() / y.abs().max())


class TinyResNet(nn.Module):
    """A stem, one residual block that keeps the width, one that doubles it, and logits."""

    def __init__(self, width: int = 8, in_channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.mean, self.std = (0.5,) * in_channels, (0.25,) * in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        return self.fc(F.relu(self.conv3(x)).mean((2, 3)))


class TinyCNN(nn.Module):
    """Two convolutions with biases and no norm, flattened into a linear layer."""

    def __init__(self, width: int = 6, in_channels: int = 3) -> None:
        super().__init__()
        self.mean, self.std = (0.5,) * in_channels, (0.25,) * in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(4 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc(self.flat(self.pool(x)))


class ResidualMLP(nn.Module):
    """The network of git-re-basin issue 8: coordinate descent from one start finds its planted permutation rarely."""

    def __init__(self, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(10, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(F.relu(inner(x)))
        return self.last(x)


class Decides(nn.Module):
    """What it computes hangs on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if x[:, :, 0].mean() > 0 else self.conv(x).relu()
