"""Memory of rendering: what `batch="auto"` makes of a budget, and the peak, for ResNet-50 `layer3` at 224 px.

    uv run python benchmarks/rendering.py memory --keep

Each row is a process of its own that renders 64 units with `RenderConfig(memory=...)`. On a CPU the peak is that of resident
memory (Linux) over what the process held with the network loaded and one image rendered; on a GPU what torch allocated at most.
A batch is planned with 85 % of the budget, copies of the weights included.
"""

import argparse

import torch
from tqdm import tqdm

import featviz
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.batching import batch_size, image_bytes
from measures import process
from measures.rendering.cases import network
from measures.report import Record, markdown

NAME = "memory"
HEAD = ("budget, GiB", "images at once", "planned per image, MiB", "peak, GiB", "of the budget")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", default="resnet50", help="of torchvision")
    parser.add_argument("--layer", default="layer3")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 1, 2, 4], help="GiB")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def measure(args: argparse.Namespace) -> Record:
    rows = [process.in_own_process(case, args, budget) for budget in tqdm(args.budgets)]
    return {"network": args.network, "layer": args.layer, "rows": rows}


def case(args: argparse.Namespace, budget: float) -> dict[str, float]:
    """The batch of one budget, and its peak; in this process."""
    model = network(args.network, args.device)
    config = featviz.RenderConfig(size=args.size, steps=args.steps, memory=budget, restarts=0)
    featviz.render(model, f"{args.layer}:0", config)
    objective = channel(args.layer, list(range(args.units)))
    extractor = FeatureExtractor(model, (args.layer,), config)
    images = batch_size(extractor, objective)
    extractor = FeatureExtractor(model, (args.layer,), config)
    counted = image_bytes(extractor, objective)
    before = 0
    if args.device == "cpu":
        process.reset_peak()
        before = process.resident()
    else:
        torch.cuda.reset_peak_memory_stats()
    featviz.render(model, f"{args.layer}:0-{args.units - 1}", config)
    peak = process.peak_resident() - before if args.device == "cpu" else torch.cuda.max_memory_allocated()
    return {"budget": budget, "images": images, "image_bytes": counted, "peak_bytes": peak}


def table(records: list[Record]) -> str:
    rows = []
    for row in records[0]["rows"]:
        peak = row["peak_bytes"] / 2**30
        cells = [f"{row['budget']:g}", row["images"], f"{row['image_bytes'] / 2**20:.0f}", f"{peak:.2f}"]
        rows.append([*cells, f"{100 * peak / row['budget']:.0f} %"])
    return markdown(HEAD, rows)
