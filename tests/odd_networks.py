"""Networks that do what a fold, a trace or a copy may get wrong."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune


class Bends(nn.Module):
    """Convolutions of every kind, and additions that may not be moved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.point = nn.Conv2d(8, 12, 1, stride=2)
        self.strided = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(12, 12, (1, 3), padding=(0, 2))
        self.shrinking = nn.Conv2d(12, 12, 3)
        self.same = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu_(self.grouped(x).add_(x))
        y = self.dilated(x)
        x = y + F.relu(y)  # read twice
        x = F.relu(self.point(x) + self.strided(x))
        x = self.wide(x)
        x = x + x.mean((2, 3), keepdim=True) + self.same(x).mul_(2)
        return self.shrinking(F.relu_(x)) + 1


class Awkward(nn.Module):
    """Convolutions that may not be folded: read twice, called twice, read by a norm that has no statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.three, self.norm3 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)
        self.last, self.norm4 = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        x = F.relu_(self.norm1(y)) + y
        x = self.norm2(self.two(F.relu(self.norm2(self.two(x)))))
        return self.norm4(self.last(F.relu(self.norm3(self.three(x)))))


class Odd(nn.Module):
    """A convolution and a norm that could be one, if it were not for what else the network does with them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.other, self.last = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.conv(x))))


class Tied(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(
            F.conv_transpose2d(F.relu(self.norm(self.conv(x))), self.conv.weight).repeat(1, 3, 1, 1)[:, :8]
        )


class Scaled(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.conv(x))) * self.norm.weight.view(-1, 1, 1)).to(self.norm.weight.dtype)


class Branching(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu((self.norm if x.mean() < 1 else self.other)(self.conv(x))))


class Closed(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.after = lambda x: F.relu(self.norm(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.after(self.conv(x)))


class Strict(Odd):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        with torch.autocast("cpu", enabled=False):
            return self.last(x.float())


def weight_normed() -> nn.Module:
    net = Odd()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(net.conv)
    prune.l1_unstructured(net.last, "weight", 0.5)
    return net


class Counts(nn.Module):
    """Buffers that every forward pass changes: in place, by another tensor, behind autograd's back, with a graph, and anew."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        for name in ("images", "calls", "data", "mean"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("later", None)

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.calls = self.calls + 1
        self.data.data += 1
        self.mean += x.mean()
        self.later = x.mean().detach()
        return self.conv(x)


class Keeps(nn.Module):
    """Keeps a tensor for every shape of images that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grids = nn.Conv2d(3, 4, 3), {}

    def forward(self, x: Tensor) -> Tensor:
        key = tuple(x.shape)
        if key not in self.grids:
            self.grids[key] = torch.linspace(0, 1, x.shape[3]).expand(x.shape).clone()
        return self.conv(x * self.grids[key])


class Redirected(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def no_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.sigmoid(20 * x.mean((2, 3), keepdim=True))


def hooked(x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient.clamp(min=0))
    return x


def in_place(x: Tensor) -> Tensor:
    return (x * 2).add_(1).relu_()


PARTS = {
    "detach": lambda x: x * torch.sigmoid(20 * x.mean((2, 3), keepdim=True)).detach(),
    "data": lambda x: x * torch.sigmoid(20 * x.mean((2, 3), keepdim=True)).data,
    "no_grad": lambda x: x * no_gradient(x),
    "function": Redirected.apply,
    "hook": hooked,
    "in place": in_place,
}


class Part(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.run = PARTS.get(name, F.relu)
        if name == "module hook":
            self.register_full_backward_hook(lambda module, given, got: (given[0].clamp(min=0),))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)
