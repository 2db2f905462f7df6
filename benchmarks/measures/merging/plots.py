"""Plots of the bundled pair's merge: the path from A to B', the variance of every layer before and after repair, connectivity.

    uv run python benchmarks/merging.py plots --data cifar/ --tested 1000 --keep

By no alignment, weight matching and the alignment that is bundled (activation matching): loss and accuracy at 25 points of the
path, BatchNorm statistics measured afresh at each; then, at weight 1/2, the variance of every unit in every BatchNorm's output
over that of its parents, and the cosine of the feature maps with the parents' mean map. The plots go into `gallery/` with
--keep, else into `--plots`.
"""

import argparse
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

import featviz
from measures.cifar import add_cifar, sample
from measures.report import GALLERY, Record, markdown

NAME = "plots"
HEAD = ("layer", "repair", "cosine", "norm ratio", "variance", "predicted variance")
LAYERS = ("layer1.2.bn2", "layer2.1.bn1", "layer3.1.bn1", "layer3.2.bn2")  # of the table; the record has all


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, 1000, 2000)
    parser.add_argument("--points", type=int, default=25)
    parser.add_argument("--plots", type=Path, default=Path("runs"), help="folder of the plots (default: %(default)s)")


def measure(args: argparse.Namespace) -> Record:
    pair = featviz.bundled_pair()
    train, test = sample(args.data, True, args.images, pair.a), sample(args.data, False, args.tested, pair.a)
    folder = GALLERY if args.keep else args.plots
    alignments = {
        "unaligned": None,
        "weights": featviz.align(pair.a, pair.b, train.example),
        "activations": featviz.load_alignment(pair.alignment_path),
    }
    paths = {
        name: featviz.loss_barrier(pair.a, pair.b, alignment, test, args.points, "batchnorm", train)
        for name, alignment in tqdm(alignments.items(), desc="paths")
    }
    title = f"ResNet-20 x2, CIFAR-10: BatchNorm reset at {args.points} points, {args.tested} test images"
    curves = {f"{name}, reset": curve for name, curve in paths.items()}
    featviz.plot_barriers(curves, folder / "barrier-resnet20-x2.png", title)

    alignment = alignments["activations"]
    norms = {name for name, module in pair.a.named_modules() if isinstance(module, nn.BatchNorm2d)}
    layers = {name: units for name, units in alignment.groups.layers.items() if name in norms}
    permuted = alignment.permute(pair.b)
    found = {}
    for label, repair in (("plain average", "none"), ("BatchNorm reset", "batchnorm")):
        merged = featviz.merge(pair.a, pair.b, alignment, repair=repair, data=train)
        found[label] = featviz.layer_connectivity(pair.a, permuted, merged, layers, train)
    title = f"ResNet-20 x2, activation matching, {args.images} images"
    featviz.plot_variance(found, folder / "variance-resnet20-x2.png", f"Variance of merged units: {title}")
    featviz.plot_connectivity(found, folder / "connectivity-resnet20-x2.png", f"Feature maps of the merge: {title}")
    return {
        "images": args.images,
        "tested": args.tested,
        "barrier": {name: curve.barrier for name, curve in paths.items()},
        "ensemble": featviz.evaluate_ensemble(pair.a, pair.b, test),
        "paths": {name: {"losses": curve.losses, "accuracies": curve.accuracies} for name, curve in paths.items()},
        "layers": {label: {layer.layer: _figures(layer) for layer in measured} for label, measured in found.items()},
    }


def _figures(layer: featviz.LayerConnectivity) -> dict[str, float]:
    """Cosine and norm ratio of a layer's maps, and the medians over its units of variance and predicted variance."""
    return {
        "cosine": layer.cosine,
        "norm_ratio": layer.norm_ratio,
        "variance": float(np.nanmedian(layer.ratio)),
        "predicted": float(np.nanmedian(layer.predicted)),
    }


def table(records: list[Record]) -> str:
    """Some layers, before and after the repair."""
    rows = []
    for layer in LAYERS:
        for label, layers in records[0]["layers"].items():
            figures = [f"{layers[layer][key]:.2f}" for key in ("cosine", "norm_ratio", "variance", "predicted")]
            rows.append([layer, label, *figures])
    return markdown(HEAD, rows)
