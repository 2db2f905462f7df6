"""Grids of merged units by other methods than permutation, of the bundled pair.

    uv run python benchmarks/merging.py grids --data cifar/ --out gallery

zipit-, cca-LAYER.png: merged units with their strongest members in A and in B, BatchNorm statistics measured afresh.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

import featviz
from measures.cifar import add_cifar, sample

NAME = "grids"


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, 1000, None)
    parser.add_argument("--layer", default="layer3.1.bn1")
    parser.add_argument("--units", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True, help="folder")


def run(args: argparse.Namespace) -> None:
    pair = featviz.bundled_pair()
    data = sample(args.data, True, args.images, pair.a)
    bundled = featviz.load_alignment(pair.alignment_path)
    best = sorted(bundled.indexer.table(args.layer), key=lambda row: -row["score"])[: args.units]
    units = [row["a"] for row in best]
    config = featviz.RenderConfig(size=64)

    for method in tqdm(("zipit", "cca"), desc="methods"):
        alignment = featviz.align(pair.a, pair.b, data.example, method, data)
        merged = featviz.merge(pair.a, pair.b, alignment, repair="batchnorm", data=data)
        triplets = featviz.render_unit_triplet(
            pair.a, pair.b, args.layer, units, merged=merged, alignment=alignment, config=config
        )
        triplets.save(args.out / f"{method}-{args.layer}.png")
