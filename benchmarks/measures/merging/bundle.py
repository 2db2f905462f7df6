"""Write the pair that featviz ships: weights, alignment, statistics of the repaired merge, and card.

    uv run python benchmarks/merging.py bundle --data cifar/ --out featviz/zoo/weights \\
        --pair runs/resnet20-x2-s0.safetensors runs/resnet20-x2-s1.safetensors

Kernels are stored in float16, vectors in float32; what is measured is what is shipped.
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

import featviz
from measures.cifar import add_cifar, sample
from measures.merging.accuracy import accuracies
from measures.merging.pairs import BUNDLED, load_models

NAME = "bundle"


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, 5000, 10000)
    parser.add_argument("--arch", default=BUNDLED, help="a network of the zoo")
    parser.add_argument("--pair", type=Path, nargs=2, required=True, help="checkpoints of `merging.py train`")
    parser.add_argument("--out", type=Path, required=True, help="folder")


def run(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    files = [args.out / "a.safetensors", args.out / "b.safetensors"]
    for source, file in zip(args.pair, files, strict=True):
        weights = load_file(source)
        save_file({k: (v.half() if v.dim() > 1 else v).contiguous() for k, v in weights.items()}, file)
    models = load_models(args.arch, files)
    train, test = (sample(args.data, part, n, models[0]) for part, n in ((True, args.images), (False, args.tested)))
    found, alignments = accuracies(models[0], models[1], train, test, ["weights", "activations"])
    alignment = alignments["activations"]
    alignment.save(args.out / "alignment.safetensors")
    merged = featviz.merge(models[0], models[1], alignment, repair="batchnorm", data=train)
    names = ("running_mean", "running_var")
    statistics = {k: v.contiguous() for k, v in merged.state_dict().items() if k.endswith(names)}
    save_file(statistics, args.out / "merged-statistics.safetensors")
    accuracy = {name: found["parents"][name]["accuracy"] for name in "ab"}
    for method in ("unaligned", "weights", "activations"):
        accuracy |= {f"{method}, {what}": found[method][what]["accuracy"] for what in ("average", "repaired")}
    card = {
        "architecture": args.arch,
        "data": "CIFAR-10 (Krizhevsky 2009), images stored as JPEG",
        "recipes": [json.loads(file.with_suffix(".json").read_text())["recipe"] for file in args.pair],
        "trained_by": "benchmarks/merging.py train",
        "measured_by": "benchmarks/merging.py bundle, weights rounded as shipped",
        "test_accuracy": accuracy,
        "alignment": {"method": "activations", "images": args.images},
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (args.out / "fates.json").unlink(missing_ok=True)  # of another pair
    print("next, the fates of its units: python benchmarks/evidence.py bundle")
