"""P1 on networks that nobody wrote: label propagation alone, without verification, is never wrong on a random small graph."""

from collections.abc import Callable

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import random_permutations, relative_difference
from torch import Tensor, nn
from torch.nn import functional as F

from featviz.symmetry.discovery import permutation_groups
from featviz.symmetry.permute import permute_module
from featviz.symmetry.verification import randomise_constants

Step = Callable[[list[Tensor]], Tensor]


def divisor(number: int, n: int) -> int:
    """One of the divisors of n."""
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return divisors[number % len(divisors)]


class Scale(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class RandomGraph(nn.Module):
    """Steps drawn from `OPERATORS`, each on earlier maps (1, c, h, w); built while an example passes through."""

    running: "RandomGraph"  # the steps are closures, which a deep copy shares: they ask here for their modules

    def __init__(self, draws: list[tuple[int, int, int]]) -> None:
        super().__init__()
        RandomGraph.running = self
        self.made = nn.ModuleList()
        self.stem, self.steps, self.names = nn.Conv2d(3, 4, 3, padding=1), [], ["stem"]
        seen = [self.stem(torch.zeros(1, 3, 6, 6))]
        for kind, source, number in draws:
            name = list(OPERATORS)[kind % len(OPERATORS)]
            step = OPERATORS[name](self, seen, source % len(seen), number)
            if step is None:
                continue
            made = step(seen)
            if made.shape[1] <= 16 and made.shape[2] <= 12:
                self.steps.append(step)
                self.names.append(name)
                seen.append(made)
        self.head = nn.Linear(seen[-1].shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        RandomGraph.running = self
        seen = [self.stem(x)]
        for step in self.steps:
            seen.append(step(seen))
        return self.head(seen[-1].mean((2, 3)))

    def module(self, made: nn.Module) -> Callable[[Tensor], Tensor]:
        self.made.append(made)
        number = len(self.made) - 1
        return lambda x: RandomGraph.running.made[number](x)


def on_one(make: Callable[[RandomGraph, int, int], Callable[[Tensor], Tensor] | None]):
    """An operator on one map: (graph, its channels, a random number) -> function."""

    def build(graph: RandomGraph, seen: list[Tensor], source: int, number: int) -> Step | None:
        function = make(graph, seen[source].shape[1], number)
        return None if function is None else lambda maps: function(maps[source])

    return build


def on_two(make: Callable[[Tensor, Tensor], Tensor], same_shape: bool):
    """An operator on two maps of equal extent (and equal channels)."""

    def build(graph: RandomGraph, seen: list[Tensor], source: int, number: int) -> Step | None:
        shape = seen[source].shape
        fits = [i for i, t in enumerate(seen) if t.shape[2:] == shape[2:] and (t.shape == shape or not same_shape)]
        other = fits[number % len(fits)]
        return lambda maps: make(maps[source], maps[other])

    return build


def again(graph: RandomGraph, seen: list[Tensor], source: int, number: int) -> Step | None:
    """A convolution that is there already, used once more."""
    channels = seen[source].shape[1]
    fits = [i for i, m in enumerate(graph.made) if isinstance(m, nn.Conv2d) and m.in_channels == channels]
    if not fits:
        return None
    chosen = fits[number % len(fits)]
    return lambda maps: RandomGraph.running.made[chosen](maps[source])


def conv(graph: RandomGraph, channels: int, number: int):
    groups = divisor(number, channels)
    return graph.module(nn.Conv2d(channels, groups * (1 + number % 3), 3, padding=1, groups=groups))


def dense(graph: RandomGraph, channels: int, number: int):
    return graph.module(nn.Conv2d(channels, 2 + number % 7, 1, bias=number % 2 == 0))


def transposed(graph: RandomGraph, channels: int, number: int):
    groups = divisor(number, channels)
    return graph.module(nn.ConvTranspose2d(channels, groups * (1 + number % 2), 3, padding=1, groups=groups))


def group_norm(graph: RandomGraph, channels: int, number: int):
    return graph.module(nn.GroupNorm(divisor(number, channels), channels))


def layer_norm(graph: RandomGraph, channels: int, number: int):
    norm = graph.module(nn.LayerNorm(channels, elementwise_affine=number % 2 == 0))
    return lambda x: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def gate(graph: RandomGraph, channels: int, number: int):
    squeeze, excite = graph.module(nn.Linear(channels, 3)), graph.module(nn.Linear(3, channels))
    return lambda x: x * torch.sigmoid(excite(F.relu(squeeze(x.mean((2, 3))))))[:, :, None, None]


def attention(graph: RandomGraph, channels: int, number: int):
    heads, size = 1 + number % 3, 2
    project = graph.module(nn.Linear(channels, 3 * heads * size))
    out = graph.module(nn.Linear(heads * size, channels))
    scale = graph.module(Scale(heads, 1, 1))

    def attend(x: Tensor) -> Tensor:
        q, k, v = project(x.flatten(2).mT).unflatten(-1, (3, heads, size)).permute(2, 0, 3, 1, 4)
        if number % 4 == 1:
            q, k = scale(F.normalize(q, dim=-1)), F.normalize(k, dim=-1)
        if number % 4 == 2:
            k = k[:, :1].expand_as(q)
        y = (F.scaled_dot_product_attention(q, k, v) if number % 2 else (q @ k.mT).softmax(-1) @ v).transpose(1, 2)
        return x + out(y.flatten(2)).mT.unflatten(2, x.shape[2:])

    return attend


def constant(graph: RandomGraph, channels: int, number: int):
    """A fixed vector along the channels, partly equal."""
    values = torch.ones(channels)
    values[: number % (channels + 1)] = 2.0
    return lambda x: x * values.to(x)[:, None, None]


def part(graph: RandomGraph, channels: int, number: int):
    return (lambda x: x[:, number % (channels - 1) :]) if channels > 2 else None


def written(graph: RandomGraph, channels: int, number: int):
    kind, at = number % 4, number % channels

    def write(x: Tensor) -> Tensor:
        y = x.clone()
        if kind == 0:
            y[:, :at] *= 2
        elif kind == 1:
            y[:, at:] = 0.5
        elif kind == 2:
            y[:, :, 0] = y[:, :, -1].relu()
        else:
            y = torch.zeros_like(x)
            y[:, : at + 1] = x[:, : at + 1]
        return y

    return write


def blocks(graph: RandomGraph, channels: int, number: int):
    """A sum, or the largest, over each block of channels; by stride or in a row."""
    count = divisor(number, channels)
    if count in (1, channels):
        return None
    axis = 1 + number % 2
    shape = (count, -1) if number % 4 < 2 else (-1, count)
    return lambda x: x.unflatten(1, shape).amax(axis) if number % 3 else x.unflatten(1, shape).sum(axis)


def gram(graph: RandomGraph, channels: int, number: int):
    def product(x: Tensor) -> Tensor:
        rows = x.flatten(2)
        weights = (rows @ rows.mT).tanh() if number % 2 else (rows @ rows.mT).softmax(-1)
        return (weights @ rows).unflatten(2, x.shape[2:])

    return product


def shuffled(graph: RandomGraph, channels: int, number: int):
    count = divisor(number, channels)
    return lambda x: F.channel_shuffle(x, count)


def pixel(graph: RandomGraph, channels: int, number: int):
    return (lambda x: F.avg_pool2d(F.pixel_shuffle(x, 2), 2)) if channels % 4 == 0 else None


OPERATORS: dict[str, Callable] = {
    "conv": on_one(conv),
    "dense": on_one(dense),
    "transposed": on_one(transposed),
    "again": again,
    "batch norm": on_one(lambda graph, channels, number: graph.module(nn.BatchNorm2d(channels))),
    "instance norm": on_one(lambda graph, c, number: graph.module(nn.InstanceNorm2d(c, affine=number % 2 == 0))),
    "group norm": on_one(group_norm),
    "layer norm": on_one(layer_norm),
    "prelu": on_one(lambda graph, channels, number: graph.module(nn.PReLU(channels))),
    "relu": on_one(lambda graph, channels, number: [F.relu, F.gelu, torch.sigmoid, F.hardswish][number % 4]),
    "scale": on_one(lambda graph, channels, number: graph.module(Scale(channels, 1, 1))),
    "constant": on_one(constant),
    "gate": on_one(gate),
    "attention": on_one(attention),
    "softmax": on_one(lambda graph, channels, number: lambda x: x.softmax(1)),
    "gram": on_one(gram),
    "part": on_one(part),
    "flip": on_one(lambda graph, channels, number: lambda x: x.flip(1)),
    "roll": on_one(lambda graph, channels, number: lambda x: x.roll(number % channels, 1)),
    "shuffle": on_one(shuffled),
    "pixel shuffle": on_one(pixel),
    "pad": on_one(lambda graph, channels, number: lambda x: F.pad(x, (0, 0, 0, 0, number % 3, (number + 1) % 3))),
    "pool": on_one(lambda graph, channels, number: lambda x: F.max_pool2d(x, 3, 1, 1)),
    "written": on_one(written),
    "blocks": on_one(blocks),
    "cumsum": on_one(lambda graph, channels, number: (lambda x: x.cumsum(1)) if number % 5 == 0 else None),
    "add": on_two(torch.add, True),
    "multiply": on_two(torch.mul, True),
    "cat": on_two(lambda x, y: torch.cat([x, y], 1), False),
    "twice": on_one(lambda graph, channels, number: lambda x: torch.cat([x, x], 1)),
    "glu": on_one(lambda graph, channels, number: (lambda x: F.glu(x, 1)) if channels % 2 == 0 else None),
}


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    draws=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=9),
    seed=st.integers(0, 2**16),
)
def test_a_random_graph_is_exact(draws, seed):
    torch.manual_seed(seed)
    model = RandomGraph(draws).eval()
    randomise_constants(model, torch.Generator().manual_seed(seed))
    x = torch.rand(1, 3, 6, 6)
    groups = permutation_groups(model, x, verify=False)
    for number in range(2):
        permuted = permute_module(model, groups, random_permutations(groups, seed + number))
        assert relative_difference(model, permuted, x) < 1e-8, (model.names, groups.sizes)
