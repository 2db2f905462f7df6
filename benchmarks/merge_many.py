"""Test accuracy of three or more networks in one basis, their mean and its repair, and whether cycles are exact.

    uv run python benchmarks/merge_many.py --data cifar/ --arch resnet20-x1 --out benchmarks/results/resnet20-x1-many.json \\
        --networks runs/resnet20-x1-s0.safetensors runs/resnet20-x1-s1.safetensors runs/resnet20-x1-s2.safetensors

By every method of `featviz.align_many`: the plain mean, and that with BatchNorm statistics measured afresh.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
from machine import machine
from merge_accuracy import load

import featviz
from featviz.matching.multi_network import METHODS


def exact(alignment: featviz.ManyAlignment) -> bool:
    """Whether the permutations round every cycle of three networks compose to the identity."""
    for one, two, three in itertools.permutations(range(len(alignment)), 3):
        there, on, back = alignment.pair(one, two), alignment.pair(two, three), alignment.pair(three, one)
        if any((back[name][on[name][perm]] != np.arange(len(perm))).any() for name, perm in there.items()):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10, as for train_pair.py")
    parser.add_argument("--arch", required=True, help="for example resnet20-x1")
    parser.add_argument("--networks", type=Path, nargs="+", required=True, help="checkpoints written by train_pair.py")
    parser.add_argument("--images", type=int, default=2000, help="training images for matching and repair")
    parser.add_argument("--tested", type=int, default=10000, help="test images")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    models, images = load(args.arch, args.networks, args.data, args.images, args.tested)
    example = images["train"].images[:1].float() / 255
    record: dict[str, object] = {"parents": [featviz.evaluate(model, images["test"])[1] for model in models]}
    for method in METHODS:
        began = time.monotonic()
        alignment = featviz.align_many(models, example, method, images["train"])
        row: dict[str, object] = {"seconds": time.monotonic() - began, "objective": alignment.objective}
        row["cycles_exact"] = exact(alignment)
        for repair in ("none", "auto"):
            merged = featviz.merge_many(models, alignment, repair, images["train"])
            row[repair] = featviz.evaluate(merged, images["test"])[1]
        record[method] = row
    print(json.dumps(record, indent=1))
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "images": args.images, **record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
