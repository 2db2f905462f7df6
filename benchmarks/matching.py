"""Seconds and peak memory of matching two networks: what `align` costs, and how it grows with the data.

    uv run python benchmarks/matching.py --out benchmarks/results/matching.json --readme README.md

Two networks of random weights, images of random numbers at 224 px (trained weights may need more or
fewer rounds of weight matching). Every case is a process of its
own, its peak that of the whole process, interpreter and both networks included (Linux: VmHWM).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision
from machine import report

import featviz

BATCH = 16
HEAD = "| network | matching | images | seconds | peak, GiB |"


def case(network: str, method: str, images: int) -> dict[str, float]:
    torch.manual_seed(0)
    a, b = (torchvision.models.get_model(network, weights=None).eval() for _ in "ab")
    noise = torch.Generator().manual_seed(0)
    data = [torch.randn(BATCH, 3, 224, 224, generator=noise) for _ in range(images // BATCH)] or None
    began = time.monotonic()
    featviz.align(a, b, torch.rand(1, 3, 224, 224), method, data)
    return {"seconds": time.monotonic() - began, "peak_gib": _peak()}


def _peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", help="of torchvision")
    parser.add_argument(
        "--cases", nargs="+", default=["weights:0", "activations:64", "activations:256"], help="method:images"
    )
    parser.add_argument("--one", help="measure this case alone and print it as JSON")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    args = parser.parse_args()
    if args.one:
        method, images = args.one.split(":")
        print(json.dumps(case(args.network, method, int(images))))
        return
    record = {}
    for name in args.cases:
        command = [sys.executable, __file__, "--network", args.network, "--one", name]
        record[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(name, record[name])
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for name, found in record.items():
        method, images = name.split(":")
        cells = [
            args.network,
            method,
            images.replace("0", "") and images,
            f"{found['seconds']:.0f}",
            f"{found['peak_gib']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    report(args, "\n".join(lines), network=args.network, cases=record)


if __name__ == "__main__":
    main()
