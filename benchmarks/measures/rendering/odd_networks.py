"""Networks that a trace may fail to follow: are they equal to eager, and which backend runs them?

    uv run python benchmarks/rendering.py odd_networks --keep

Small networks with detach, no_grad, autograd.Function, hooks, in-place operations, branches on values, tied weights and buffers
written in forward, those of the tests. The difference of output and gradient is that of backend "auto" to "eager", relative, in
float32.
"""

import argparse
import sys

import torch
from torch import nn

from featviz.config import RenderConfig
from featviz.rendering import FeatureExtractor
from measures.report import ROOT, Record, markdown

NAME = "odd_networks"
HEAD = ("network", "difference of output", "of gradient", "run by")


def add(parser: argparse.ArgumentParser) -> None:
    del parser


def measure(args: argparse.Namespace) -> Record:
    del args
    return {"networks": {name: _case(model) for name, model in _networks().items()}}


def _networks() -> dict[str, nn.Module]:
    """The odd networks of the tests."""
    sys.path.insert(0, str(ROOT / "tests"))
    from networks import Decides, seeded
    from odd_networks import PARTS, Counts, Part, Tied

    def holding(name: str) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), Part(name))

    makers = {name: lambda name=name: holding(name) for name in (*PARTS, "module hook")}
    makers |= {"branch on values": Decides, "tied weights": Tied, "buffers written in forward": Counts}
    return {name: seeded(make) for name, make in makers.items()}


def _case(model: nn.Module) -> Record:
    outputs, gradients, reports = [], [], []
    for backend in ("auto", "eager"):
        config = RenderConfig(size=16, precision="float32", backend=backend, mean=(0.5,) * 3, std=(0.25,) * 3)
        extractor = FeatureExtractor(model, ("labels",), config)
        x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = extractor(x)["labels"]
        gradients.append(torch.autograd.grad(out.square().sum(), x)[0])
        outputs.append(out.detach())
        reports.append(str(extractor.report))
    output, gradient = (float((one - other).norm() / other.norm()) for one, other in (outputs, gradients))
    return {"output": output, "gradient": gradient, "report": reports[0]}


def table(records: list[Record]) -> str:
    rows = records[0]["networks"].items()
    return markdown(
        HEAD, [[name, f"{row['output']:.0e}", f"{row['gradient']:.0e}", row["report"]] for name, row in rows]
    )
