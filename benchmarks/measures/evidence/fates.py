"""Fates of the units of the bundled pair's merges, by matching method, repaired and not.

    uv run python benchmarks/evidence.py fates --data cifar/ --keep

For weight matching, activation matching, ZipIt and CCA Merge, with BatchNorm measured afresh on training images and without: c,
f and the verdicts of all units in every BatchNorm's output on test images. For activation matching, repaired, also the controls
and the same on two disjoint halves of the images.
"""

import argparse
from typing import Any

import numpy as np
from tqdm import tqdm

import featviz
from measures.cifar import Batches, add_cifar, sample
from measures.report import GALLERY, Record, markdown

NAME = "fates"
PLOT = "fates-resnet20-x2.png"
METHODS = ("weights", "activations", "zipit", "cca")
HEAD = (
    "method",
    "repair",
    "c",
    "f",
    "corr A",
    "own row in A, B, mean",
    "kept",
    "blended",
    "A's",
    "B's",
    "lost",
    "undecided",
)
LAYERS = ("layer1.2.bn2", "layer2.1.bn1", "layer3.1.bn1", "layer3.2.bn2")


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, 2000, 1000)
    parser.add_argument("--half", type=int, default=2000, help="test images of each half")


def measure(args: argparse.Namespace) -> Record:
    pair = featviz.bundled_pair()
    train = plain(sample(args.data, True, args.images, pair.a))
    test = plain(sample(args.data, False, args.tested + 2 * args.half, pair.a))
    tested, *halves = split(test, (args.tested, args.half, args.half))
    found: dict[str, Any] = {}
    kept = None
    for method in tqdm(METHODS, desc="methods"):
        alignment = (
            featviz.load_alignment(pair.alignment_path)
            if method == "activations"
            else featviz.align(pair.a, pair.b, train.example, method, data=None if method == "weights" else train)
        )
        for label, repair in (("none", "none"), ("batchnorm", "batchnorm")):
            merged = featviz.merge(pair.a, pair.b, alignment, repair=repair, data=train if repair != "none" else None)
            whole = method == "activations" and repair == "batchnorm"
            fates = featviz.fate(pair.a, pair.b, alignment, merged, data=tested, controls=whole)
            found[f"{method}, {label}"] = {layer.layer: layer.summary() for layer in fates}
            if whole:
                kept = fates
                parts = [featviz.fate(pair.a, pair.b, alignment, merged, data=half, controls=False) for half in halves]
    assert kept is not None
    if args.keep:
        title = f"ResNet-20 x2, activation matching, BatchNorm reset: {args.tested} test images"
        kept.plot(GALLERY / PLOT, "verdicts", title)
        chosen = featviz.Fates(**{**vars(kept), "layers": tuple(kept[layer] for layer in LAYERS)})
        chosen.plot(GALLERY / "fate-units-resnet20-x2.png", "units", title)
    return {
        "images": args.images,
        "tested": args.tested,
        "half": args.half,
        "methods": found,
        "halves": agreement_of_halves(*parts),
    }


def agreement_of_halves(one: featviz.Fates, other: featviz.Fates) -> Record:
    """How often verdicts of two sets of images are the same: of units that neither finds undecided, and of all."""
    pairs = [
        verdicts
        for first, second in zip(one, other, strict=True)
        for verdicts in zip(first.verdicts.verdict, second.verdicts.verdict, strict=True)
    ]
    decided = [a == b for a, b in pairs if "undecided" not in (a, b)]
    first = [a == b for a, b in pairs if a != "undecided"]
    return {
        "units": len(pairs),
        "decided in both": len(decided),
        "equal of those": float(np.mean(decided)),
        "equal of those decided in the first": float(np.mean(first)),
    }


def plain(batches: Batches) -> Batches:
    """The same images in [0, 1]."""
    return Batches(batches.images, batches.labels, (0.0,) * 3, (1.0,) * 3, batches.batch)


def split(batches: Batches, sizes: tuple[int, ...]) -> list[Batches]:
    parts = zip(batches.images.split(sizes), batches.labels.split(sizes), strict=True)
    return [Batches(images, labels, (0.0,) * 3, (1.0,) * 3, batches.batch) for images, labels in parts]


def table(records: list[Record]) -> str:
    (record,) = records
    rows = []
    for label, layers in record["methods"].items():
        method, repair = label.split(", ")
        total = sum(layer["units"] for layer in layers.values())

        def mean(value, layers=layers, total=total):
            return sum(layer["units"] * value(layer) for layer in layers.values()) / total

        shares = [mean(lambda layer, name=name: layer["verdicts"].get(name, 0)) for name in HEAD[6:]]
        own = [mean(lambda layer, at=at: list(layer["closest to itself"].values())[at]) for at in range(3)]
        rows.append(
            (
                method,
                repair,
                *(
                    f"{mean(lambda layer, key=key: layer[key] or 0):.2f}"
                    for key in ("agreement", "fidelity", "correlation A")
                ),
                ", ".join(f"{100 * value:.0f} %" for value in own),
                *(f"{100 * value:.0f} %" for value in shares),
            )
        )
    text = markdown(HEAD, rows)
    halves = record["halves"]
    text += (
        f"\n\nActivation matching, repaired, on two sets of {record['half']} images: of {halves['units']} units "
        f"{halves['decided in both']} are decided in both, and {100 * halves['equal of those']:.1f} % of those equal; "
        f"of those that the first set decides, the second gives "
        f"{100 * halves['equal of those decided in the first']:.1f} % the same verdict.\n\n"
    )
    head = (
        "layer",
        "c",
        "control",
        "f",
        "corr A",
        "predicted",
        "unaligned",
        "random",
        "kept",
        "blended",
        "A's",
        "B's",
        "undecided",
    )
    lines = []
    for layer in record["methods"]["activations, batchnorm"].values():
        keys = ("agreement", "control", "fidelity", "correlation A", "predicted A", "unaligned A", "random A")
        verdicts = (layer["verdicts"].get(name, 0) for name in head[8:])
        lines.append(
            (layer["layer"], *(f"{layer[key]:.2f}" for key in keys), *(f"{100 * value:.0f} %" for value in verdicts))
        )
    return text + markdown(head, lines)
