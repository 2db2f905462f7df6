"""Backends against each other: time of a step by the traced graph with its rewrites, and by plain torch.

    uv run python benchmarks/rendering.py backends --keep

Forward to the layer and gradient with respect to the images, in turns; milliseconds of CPU time per image and step, the median
of the rounds. *Set-up*: CPU seconds of the first call, in which the network is traced, rewritten and compared with itself. The
networks of torchvision have random weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from tqdm import tqdm

from featviz.config import RenderConfig
from featviz.rendering import FeatureExtractor
from measures.rendering.cases import network
from measures.report import Record, markdown

NAME = "backends"
NETWORKS = {  # -> layer, side in pixels of what the network is fed
    "resnet18": ("layer3", 224),
    "resnet50": ("layer3", 224),
    "efficientnet_b0": ("features.5", 224),
    "mobilenet_v3_small": ("features.8", 224),
    "vit_b_16": ("encoder.layers.encoder_layer_5", 224),
    "swin_t": ("features.5", 224),
    "bundled": ("layer3.1.bn2", 64),
}
HEAD = ("network, layer", "auto, ms", "eager, ms", "eager over auto", "set-up, s", "run by")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=8, help="images at once")
    parser.add_argument("--rounds", type=int, default=5)


def measure(args: argparse.Namespace) -> Record:
    found = {}
    for name in tqdm(args.networks):
        layer, side = NETWORKS[name]
        found[f"{name} {layer}"] = _case(name, layer, side, args.batch, args.rounds)
    return {"batch": args.batch, "cases": found}


def _case(name: str, layer: str, side: int, batch: int, rounds: int) -> Record:
    model, config = network(name), RenderConfig(size=side)
    x = torch.rand(batch, 3, side, side).requires_grad_()
    extractors = {
        backend: FeatureExtractor(model, (layer,), replace(config, backend=backend)) for backend in ("auto", "eager")
    }

    def step(backend: str) -> None:
        torch.autograd.grad(extractors[backend](x)[layer].square().sum(), x)

    setup = {backend: cpu_seconds(lambda b=backend: step(b)) for backend in extractors}
    times = {backend: [] for backend in extractors}
    for _ in range(rounds):
        for backend, taken in times.items():
            taken.append(1000 * cpu_seconds(lambda b=backend: step(b)) / batch)
    medians = {backend: statistics.median(taken) for backend, taken in times.items()}
    return {**medians, "rounds": times, "setup": setup["auto"], "report": str(extractors["auto"].report)}


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this process that a call takes."""
    began = time.process_time()
    run()
    return time.process_time() - began


def table(records: list[Record]) -> str:
    rows = []
    for name, row in records[0]["cases"].items():
        ratio = f"{row['eager'] / row['auto']:.2f}"
        rows.append([name, f"{row['auto']:.1f}", f"{row['eager']:.1f}", ratio, f"{row['setup']:.1f}", row["report"]])
    return markdown(HEAD, rows)
