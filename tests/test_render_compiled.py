"""A compiled network computes what it did before, and is kept only where it is faster."""

from dataclasses import replace

import pytest
import torch
from networks import TinyResNet, seeded
from torch import Tensor, nn

import featviz
from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.picture import trunk as trunks
from featviz.picture.straight import compiled_line, quickest
from featviz.picture.trunk import Trunk

CONFIG = RenderConfig(size=16, steps=8, precision="float32", compile=True)


class Decides(nn.Module):
    """What it computes hangs on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if float(y.detach().mean()) > 0 else 2 * y


def test_the_ascent_of_a_compiled_network_reaches_the_same(monkeypatch):
    made = []

    def compiled_one(runs, x):
        made.append(runs[-1])
        return runs[-1]

    monkeypatch.setattr(trunks, "quickest", compiled_one)
    net = seeded(TinyResNet)
    fast = featviz.render(net, "conv2:0-3", CONFIG)
    slow = featviz.render(net, "conv2:0-3", replace(CONFIG, precision="float64", compile=False))
    assert len(made) == 1
    torch.testing.assert_close(fast.score.double(), slow.score, rtol=1e-3, atol=1e-4)


def test_a_network_that_cannot_be_compiled_is_told_so():
    with pytest.raises(RenderError, match="leave out compile"):
        featviz.render(seeded(Decides), "labels:0-1", CONFIG)


def test_a_compiled_network_that_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda line, dynamic: lambda x: (line(x)[0] + 1,))
    net = seeded(TinyResNet).eval()
    with pytest.raises(RenderError, match="something else"):
        compiled_line(lambda x: (net(x),), torch.rand(2, 3, 16, 16), autocast=False)


def test_the_quickest_is_kept():
    def quick(x: Tensor) -> tuple[Tensor, ...]:
        return (2 * x,)

    def slow(x: Tensor) -> tuple[Tensor, ...]:
        for _ in range(300):
            x = x * 1.0
        return (2 * x,)

    x = torch.rand(4, 3, 64, 64)
    assert quickest([slow, quick], x) is quick
    assert quickest([quick, slow], x) is quick


def test_a_network_that_is_not_to_be_compiled_is_not(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    with Trunk(seeded(TinyResNet), ("conv2",), replace(CONFIG, compile=False)) as trunk:
        for _ in range(3):
            trunk(torch.rand(2, 3, 16, 16, requires_grad=True))
        assert trunk._lines
