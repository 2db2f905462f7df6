"""The smallest networks that can show a fault, and how the tests permute them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.isolation import copy_of
from featviz.symmetry import permute
from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.groups import PermutationGroups
from featviz.symmetry.permute import permute_module
from featviz.symmetry.verification import randomise_constants


def seeded(make, seed: int = 0) -> nn.Module:
    """A network whose weights and norm statistics are random, in eval mode."""
    torch.manual_seed(seed)
    model = make().eval()
    randomise_constants(model, torch.Generator().manual_seed(seed))
    return model


def small_classifier(channels: int = 3) -> nn.Sequential:
    """Two convolutions, a norm, ReLUs in place and five classes: modules "0" to "7"; 6 units at "0", 8 at "3"."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def random_permutations(groups: PermutationGroups, seed: int = 0) -> dict[str, np.ndarray]:
    return permute.random_permutations(groups, np.random.default_rng(seed))


def planted(model: nn.Module, example: Tensor, seed: int = 0, noise: float = 0.0):
    """B whose units are A's in another order: (B, groups, the permutation that brings B back into A's order)."""
    groups = permutation_groups(model, example)
    there = random_permutations(groups, seed)
    other = permute_module(model, groups, there)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            deviation = parameter.std() if parameter.numel() > 1 else parameter.abs()
            parameter.add_(noise * deviation * torch.randn(parameter.shape, generator=generator).to(parameter))
    return other, groups, {name: np.argsort(perm) for name, perm in there.items()}


def relative_difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    """In float64, over the largest output."""
    with torch.no_grad():
        y, z = (copy_of(m).double().eval()(x.double()) for m in (one, other))
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


class GroupNormStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)
        self.head = nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.stem(x)))).mean((2, 3))


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


class Heads(nn.Module):
    """Attention by hand, with what architectures put between queries and keys."""

    def __init__(self, kind: str, heads: int = 3, size: int = 4) -> None:
        super().__init__()
        self.kind, self.heads = kind, heads
        width = heads * size
        shared = size if kind == "one key for all heads" else width
        self.patch, self.q, self.k, self.v = (
            nn.Conv2d(3, 6, 2, 2), nn.Linear(6, width), nn.Linear(6, shared), nn.Linear(6, shared),
        )  # fmt: skip
        self.table, self.scale = nn.Parameter(torch.randn(31, heads)), nn.Parameter(torch.rand(heads, 1, 1) + 1)
        self.norm, self.per_head = nn.LayerNorm(size), nn.Parameter(torch.rand(heads, 1, 1) + 1)
        self.turn = torch.randn(16, size)
        self.out, self.head = nn.Linear(width, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.kind == "a norm of queries and keys":
            q, k = self.norm(q), self.norm(k)
        if self.kind == "cosine":
            q, k = F.normalize(q, dim=-1) * self.scale, F.normalize(k, dim=-1)
        if self.kind == "rotary":
            q, k = q * self.turn.to(q), k * self.turn.to(k)
        scores = torch.einsum("bhid,bhjd->bhij", q, k.expand_as(q))
        if self.kind == "a bias table":
            index = torch.arange(16)[:, None] - torch.arange(16) + 15
            scores = scores + self.table[index.flatten()].view(16, 16, -1).permute(2, 0, 1)
        y = scores.softmax(-1) @ v
        if self.kind == "a gate for each head":
            y = y * self.per_head
        return self.head((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))


class Attending(nn.Module):
    """Attention of all patches of 2 x 2 pixels, on a stream of `stream` channels.

    Args:
        attend: queries, keys and values (1, heads, patches, size) -> what the heads return.
    """

    def __init__(
        self,
        stream: int = 6,
        heads: int = 3,
        size: int = 4,
        attend: Callable[..., Tensor] = F.scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        self.heads, self.size, self.attend = heads, size, attend
        width = heads * size
        self.patch, self.qkv, self.out, self.head = (
            nn.Conv2d(3, stream, 2, 2), nn.Linear(stream, 3 * width), nn.Linear(width, stream), nn.Linear(stream, 2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        y = self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.out(y)).mean(1))


class Norms(nn.Module):
    """1-d and 3-d convolutions, InstanceNorm, RMSNorm, GroupNorm on a residual stream, resampling, pixel unshuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.instance = nn.Conv2d(12, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True)
        self.conv, self.group = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.deep, self.line = nn.Conv3d(8, 5, (1, 2, 2)), nn.Conv1d(5, 7, 3)
        self.rms, self.head = nn.RMSNorm(7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.instance(self.stem(F.pixel_unshuffle(x, 2))))
        x = F.relu(x + self.group(self.conv(x)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = F.relu(self.deep(x.unsqueeze(2))).flatten(2)
        return self.head(self.rms(F.relu(self.line(x)).mean(2)))


class Cardinal(nn.Module):
    """A residual block with a grouped convolution, as in ResNeXt."""

    def __init__(self, width: int = 8, inner: int = 16, groups: int = 4) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, width, 3), nn.Conv2d(width, inner, 1)
        self.grouped = nn.Conv2d(inner, inner, 3, padding=1, groups=groups)
        self.up, self.head = nn.Conv2d(inner, width, 1), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.stem(x))
        return self.head((x + self.up(F.elu(self.grouped(F.elu(self.down(x)))))).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self, kind=nn.Conv2d) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.middle = nn.Conv2d(8, 8, 3, groups=8) if kind is nn.Conv2d else kind(8, 8, 2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(F.relu(self.middle(F.relu(self.first(x))))).mean((2, 3))
