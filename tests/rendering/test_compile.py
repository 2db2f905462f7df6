"""A compiled network computes what it did before, and is kept only where it is faster."""

from dataclasses import replace

import pytest
import torch
from networks import Decides, TinyResNet, seeded
from torch import Tensor

import featviz
from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.rendering.backends import traced_graph as straight
from featviz.rendering.backends.traced_graph import RUNS, compiled_line, quickest
from featviz.rendering.network import feature_extractor as trunks
from featviz.rendering.network.feature_extractor import FeatureExtractor

CONFIG = RenderConfig(size=16, steps=8, precision="float32", compile=True)


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


def test_the_quickest_is_kept(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(straight.time, "perf_counter", lambda: clock[0])

    def takes(seconds: list[float]):
        left = iter(seconds)

        def run(x: Tensor) -> tuple[Tensor, ...]:
            clock[0] += next(left)
            return (2 * x,)

        return run

    x = torch.rand(1, 3, 4, 4)
    compiled_at_first = takes([100.0] + RUNS * [1.0])
    steady, disturbed = takes((RUNS + 1) * [2.0]), takes([1.0, 9.0, 9.0, 0.5, 9.0, 9.0])
    assert quickest([steady, compiled_at_first], x) is compiled_at_first
    steady, compiled_at_first = takes((RUNS + 1) * [2.0]), takes([100.0] + RUNS * [1.0])
    assert quickest([compiled_at_first, disturbed, steady], x) is disturbed


def test_a_network_that_is_not_to_be_compiled_is_not(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    extractor = FeatureExtractor(seeded(TinyResNet), ("conv2",), replace(CONFIG, compile=False))
    for _ in range(3):
        extractor(torch.rand(2, 3, 16, 16, requires_grad=True))
    assert extractor._lines
