"""Seconds and peak memory of matching two networks: what `align` costs, and how it grows with the data.

    uv run python benchmarks/symmetry.py matching --keep

Two networks of random weights, images of random numbers at 224 px (trained weights may need more or fewer rounds of weight
matching). Every case is a process of its own, its peak that of the whole process, interpreter and both networks included.
"""

import argparse
import time

import torch
import torchvision
from tqdm import tqdm

import featviz
from measures import process
from measures.report import Record, markdown

NAME = "matching"
BATCH = 16
HEAD = ("network", "matching", "images", "seconds", "peak, GiB")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", default="resnet50", help="of torchvision")
    parser.add_argument(
        "--cases", nargs="+", default=["weights:0", "activations:64", "activations:256"], help="method:images"
    )


def measure(args: argparse.Namespace) -> Record:
    cases = {}
    for name in tqdm(args.cases):
        method, _, images = name.partition(":")
        cases[name] = process.in_own_process(_case, args.network, method, int(images))
    return {"network": args.network, "cases": cases}


def _case(network: str, method: str, images: int) -> dict[str, float]:
    """One alignment, in this process."""
    torch.manual_seed(0)
    a, b = (torchvision.models.get_model(network, weights=None).eval() for _ in "ab")
    noise = torch.Generator().manual_seed(0)
    data = [torch.randn(BATCH, 3, 224, 224, generator=noise) for _ in range(images // BATCH)] or None
    began = time.monotonic()
    featviz.align(a, b, torch.rand(1, 3, 224, 224), method, data)
    return {"seconds": time.monotonic() - began, "peak_gib": process.peak_resident() / 2**30}


def table(records: list[Record]) -> str:
    rows = []
    for name, case in records[0]["cases"].items():
        method, _, images = name.partition(":")
        shown = images if int(images) else ""
        rows.append([records[0]["network"], method, shown, f"{case['seconds']:.0f}", f"{case['peak_gib']:.1f}"])
    return markdown(HEAD, rows)
