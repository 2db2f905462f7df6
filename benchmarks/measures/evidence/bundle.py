"""Write the fates that the bundled pair carries: figures, verdicts and the numbers of the best images; no image.

uv run python benchmarks/evidence.py bundle --data cifar/ --out featviz/zoo/weights/fates.json
"""

import argparse
import json
from pathlib import Path

import featviz
from featviz.data import ImageFolderBatches
from featviz.evidence.fates.stored_fates import pack
from measures.rendering.cases import bundled_subjects

NAME = "bundle"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10 as test/<class>/NNNN.*")
    parser.add_argument("--tested", type=int, default=10_000, help="test images")
    parser.add_argument("--exemplars", type=int, default=3, help="of each unit and subject")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")


def run(args: argparse.Namespace) -> None:
    pair = featviz.bundled_pair()
    alignment = featviz.load_alignment(pair.alignment_path)
    merged = bundled_subjects()["merged"]
    data = ImageFolderBatches(args.data / "test", 32, limit=args.tested)
    fates = featviz.fate(pair.a, pair.b, alignment, merged, data=data, controls=False, exemplars=args.exemplars)
    about = {
        "data": "CIFAR-10 test images, stored as JPEG; image 1000 * c + n is number n of class c, both in alphabetical order",
        "merge": "average at 1/2, BatchNorm reset",
    }
    record = pack(fates, about)
    assert data.labels is not None
    numbers = [1000 * int(label) + int(path.stem) for path, label in zip(data.paths, data.labels, strict=True)]
    for columns in record["layers"].values():
        for found in columns["exemplars"]:
            for name, images in found.items():
                found[name] = [numbers[image] for image in images]
    args.out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(fates)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")
