"""Filters whose scale a batch norm makes arbitrary, and no others."""

import pytest
import torch
from torch import nn

from featviz.symmetry.discovery import permutation_groups


class Blocks(nn.Module):
    """A convolution and its norm, a residual block without a norm, and a norm after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.inner, self.last_norm, self.head = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = self.last_norm(x + self.inner(x))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Two convolutions that are concatenated, and normalised together after a relu and a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.norm, self.head = (
            nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1),
        )  # fmt: skip

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.cat([self.one(x), self.other(x)], 1).relu(), 2)
        return self.head(self.norm(x)).mean((2, 3))


NETWORKS = {
    "no norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), set()),
    "layer norm": (lambda: nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2)), set()),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), {"1.weight"}),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(),
                              nn.Conv2d(4, 2, 1)),
        {"2.weight"},
    ),
    "a sum in between": (Blocks, {"first.weight"}),
    "a concatenation in between": (Dense, {"one.weight", "other.weight"}),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_filter_is_normalized_where_a_batch_norm_meets_its_scale(name):
    make, expected = NETWORKS[name]
    assert permutation_groups(make().eval(), torch.rand(2, 3, 8, 8)).normalized == expected


def test_the_scale_of_these_filters_is_arbitrary():
    """In training mode, where a norm measures what it is fed, a filter's scale changes nothing."""
    torch.manual_seed(0)
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    for make, expected in NETWORKS.values():
        model = make().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eps = 1e-12
        outputs = model(x)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                other = torch.nn.utils.parameters_to_vector(model.parameters())
                with torch.no_grad():
                    factor = torch.rand(len(weight), dtype=torch.float64) + 0.5
                    weight.mul_(factor.view(-1, *(1,) * (weight.dim() - 1)))
                    bias = dict(model.named_parameters()).get(name.replace("weight", "bias"))
                    if bias is not None:
                        bias.mul_(factor)
                same = torch.allclose(model(x), outputs, rtol=1e-6, atol=1e-6)
                torch.nn.utils.vector_to_parameters(other, model.parameters())
                assert same == (name in expected), name
