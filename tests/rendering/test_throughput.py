"""The throughput of a layer: figures that belong together, from a real run."""

import json

import pytest
import torch
from torch import nn

from featviz.cli import main
from featviz.config import RenderConfig
from featviz.errors import UnitError
from featviz.rendering.throughput import bare_trunk, throughput


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten()).eval()


def test_the_arithmetic_is_counted_by_the_textbook():
    found = throughput(net(), "2", RenderConfig(size=16, steps=3, batch=2, precision="float32"), images=5)
    forward = 2 * 16 * 16 * 9 * (3 * 4 + 4 * 4)  # multiply-adds of both convolutions, counted twice
    assert found.gigaflop == pytest.approx(2 * forward / 1e9)  # the input gradient costs as much
    assert (found.images, found.steps, found.batch, found.precision, found.peak) == (5, 3, 2, "float32", None)
    assert found.milliseconds == pytest.approx(1000 * found.seconds / 15)
    assert found.teraflops == pytest.approx(found.gigaflop / found.milliseconds)
    assert found.per_second == pytest.approx(5 / found.seconds)
    assert found.rate > 0
    assert found.trunk > 0


def test_the_bare_trunk_is_the_gradient_of_the_layer_alone():
    model = net()
    step = bare_trunk(model, "2", (2, 3, 8, 8), torch.float32, torch.device("cpu"))
    assert step().shape == (2, 3, 8, 8)
    torch.testing.assert_close(step(), step())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_more_images_than_units_go_round():
    assert throughput(net(), "2", RenderConfig(size=8, steps=1, batch=3), images=6).images == 6


def test_a_wrong_layer_is_named():
    with pytest.raises(UnitError, match="'9'"):
        throughput(net(), "9", RenderConfig(size=8, steps=1))


def test_the_command_prints_a_line_and_writes_json(tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = ["bench", "--arch", "resnet20-x1", "--layer", "layer1.0.bn1", "--layer", "fc"]
    assert main([*arguments, "--size", "32", "--steps", "2", "--images", "2", "--batch", "2", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["layer1.0.bn1", "fc"]
    assert "of the bare trunk" in lines[0]
    assert json.loads(out.read_text())["layers"]["fc"]["images"] == 2
