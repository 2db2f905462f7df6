"""Test accuracy of three or more networks in one basis, their mean and its repair, and whether cycles are exact.

    uv run python benchmarks/merging.py many --data cifar/ --arch resnet20-x1 --keep \\
        --networks runs/resnet20-x1-s0.safetensors runs/resnet20-x1-s1.safetensors runs/resnet20-x1-s2.safetensors

By every method of `featviz.align_many`: the plain mean, and that with BatchNorm statistics measured afresh. *Cycles exact*:
the permutations around every three networks compose to the identity.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

import featviz
from measures.cifar import add_cifar, sample
from measures.merging.pairs import load_models
from measures.report import Record, markdown

NAME = "many"
METHODS = ("activations", "weights", "c2m3")
HEAD = ("networks", "matching", "mean", "repaired", "cycles exact", "seconds")


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, 2000, 10000)
    parser.add_argument("--arch", required=True, help="a network of the zoo, for example resnet20-x1")
    parser.add_argument("--networks", type=Path, nargs="+", required=True, help="checkpoints of `merging.py train`")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="of featviz.align_many")


def measure(args: argparse.Namespace) -> Record:
    models = load_models(args.arch, args.networks)
    train, test = sample(args.data, True, args.images, models[0]), sample(args.data, False, args.tested, models[0])
    parents = [featviz.evaluate(model, test)[1] for model in models]
    found: dict[str, dict[str, object]] = {}
    for method in args.methods:
        began = time.monotonic()
        alignment = featviz.align_many(models, train.example, method, train)
        row: dict[str, object] = {"seconds": time.monotonic() - began, "objective": alignment.objective}
        row["cycles_exact"] = cycles_exact(alignment)
        for repair in ("none", "auto"):
            row[repair] = featviz.evaluate(featviz.merge_many(models, alignment, repair, train), test)[1]
        found[method] = row
    return {"arch": args.arch, "images": args.images, "tested": args.tested, "parents": parents, "methods": found}


def cycles_exact(alignment: featviz.ManyAlignment) -> bool:
    """Whether the permutations around every cycle of three networks compose to the identity."""
    for one, two, three in itertools.permutations(range(len(alignment)), 3):
        there, on, back = alignment.pair(one, two), alignment.pair(two, three), alignment.pair(three, one)
        if any((back[name][on[name][perm]] != np.arange(len(perm))).any() for name, perm in there.items()):
            return False
    return True


def table(records: list[Record]) -> str:
    record = records[0]
    parents = ", ".join(f"{accuracy:.2f}" for accuracy in record["parents"])
    rows = []
    for number, (method, row) in enumerate(record["methods"].items()):
        label = f"{record['arch']}: {parents}" if number == 0 else ""
        accuracy = [f"{row[repair]:.2f}" for repair in ("none", "auto")]
        rows.append([label, method, *accuracy, "yes" if row["cycles_exact"] else "no", f"{row['seconds']:.0f}"])
    return markdown(HEAD, rows)
