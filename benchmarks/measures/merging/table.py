"""The reproduction table: pairs trained on CIFAR-10, merged by every method, beside what was published.

    uv run python benchmarks/merging.py --data cifar/ --runs runs/ --readme README.md
    uv run python benchmarks/merging.py --readme README.md          # the table alone, from the results that are there

A pair is taken from `--runs` (or is the bundled one); where it is missing `train_pair.py` trains it first. Every network leaves
`<results>/<network>.json`; one that has all the methods asked for is not measured again, so a stopped run goes on.

Published: the stored results of REPAIR's authors (Jordan et al. 2022; activation matching, weight 1/2, 100 epochs). What has to
come out alike is the pattern: the permuted average collapses or halves, the repair brings it back to some points below the
parents, fewer for wider networks. The digits hang on the parents, which are trained for a tenth of the time here.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from machine import machine, replace_table
from merge_accuracy import load, measure

import featviz

HERE = Path(__file__).parent
NAMES = {"weights": "weights", "activations": "activations", "sinkhorn": "Sinkhorn", "zipit": "ZipIt", "cca": "CCA"}
NAMES |= {"ot": "optimal transport", "unaligned": "none"}
RECIPES = {  # of train_pair.py, where the pair is missing; images for matching and repair
    "resnet20-x2": ("--arch resnet20 --width 2 --epochs 22 --lr 0.2 --small-epochs 6 --polish 6:0.07 4:0.05", 5000),
    "resnet20-x1": ("--arch resnet20 --width 1 --epochs 14 --lr 0.2 --small-epochs 6", 2000),
    "vgg11_bn-x2": ("--arch vgg11_bn --width 2 --epochs 3 --lr 0.2 --small-epochs 0", 2000),
    "vgg11_bn-x0.5": ("--arch vgg11_bn --width 0.5 --epochs 5 --lr 0.2 --small-epochs 0", 2000),
    "vgg11-x1": ("--arch vgg11 --width 1 --epochs 6 --lr 0.05 --small-epochs 0", 2000),
    "vgg11-x0.5": ("--arch vgg11 --width 0.5 --epochs 6 --lr 0.05 --small-epochs 0", 2000),
}
LABELS = {
    "resnet20-x2": "ResNet-20 x2 (bundled)",
    "resnet20-x1": "ResNet-20 x1, 14 epochs",
    "vgg11_bn-x2": "VGG-11 x2, BatchNorm, 3 epochs",
    "vgg11_bn-x0.5": "VGG-11 x0.5, BatchNorm, 5 epochs",
    "vgg11-x1": "VGG-11 x1, no norm, 6 epochs",
    "vgg11-x0.5": "VGG-11 x0.5, no norm, 6 epochs",
}
PUBLISHED = {  # parents (mean), permuted and averaged, repaired; where they differ, of which width
    "resnet20-x1": (93.58, 12.65, 67.63, ""),
    "resnet20-x2": (95.22, 16.14, 85.45, ""),
    "vgg11_bn-x2": (91.95, 58.38, 90.74, ""),
    "vgg11_bn-x0.5": (91.95, 58.38, 90.74, " (x2)"),
    "vgg11-x1": (89.6, 67.3, 84.9, ""),
    "vgg11-x0.5": (89.6, 67.3, 84.9, " (x1)"),
}
HEAD = "| network | A / B | matching | average | repaired | gap | published: average, repaired, gap |"


def checkpoints(network: str, data: Path, runs: Path) -> list[Path]:
    """The pair's files, trained first where they are missing."""
    places = [runs / f"{network}-s{seed}.safetensors" for seed in (0, 1)]
    if network == "resnet20-x2" and not places[0].exists():
        weights = Path(featviz.__file__).parent / "zoo" / "weights"
        return [weights / "a.safetensors", weights / "b.safetensors"]
    if not all(place.exists() for place in places):
        recipe = RECIPES[network][0].split()
        command = [
            sys.executable,
            str(HERE / "train_pair.py"),
            "--data",
            str(data),
            "--out",
            str(runs),
            "--seeds",
            "0",
            "1",
        ]
        subprocess.run([*command, *recipe], check=True)
    return places


def rows(network: str, found: dict, methods: list[str]) -> list[str]:
    """Of the table: no matching, then the methods; the best repaired merge in bold."""
    parents = [found["parents"][name]["accuracy"] for name in "ab"]
    present = [method for method in ("unaligned", *methods) if method in found]
    best = max(found[method]["repaired"]["accuracy"] for method in present)
    lines = []
    for method in present:
        average, repaired = (found[method][what]["accuracy"] for what in ("average", "repaired"))
        shown = f"**{repaired:.2f}**" if repaired == best else f"{repaired:.2f}"
        first = method == "unaligned"
        shown_of = "" if found["tested"] == 10000 else f", {found['tested']:,} test images"
        label = f"{LABELS[network]}{shown_of} | {parents[0]:.2f} / {parents[1]:.2f}" if first else " | "
        published = ""
        if method == "activations":
            top, middle, end, width = PUBLISHED[network]
            published = f"{middle:.2f}, {end:.2f}, {top - end:.1f}{width}"
        gap = sum(parents) / 2 - repaired
        lines.append(f"| {label} | {NAMES[method]} | {average:.2f} | {shown} | {gap:.1f} | {published} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder of CIFAR-10, as for train_pair.py; without it nothing is measured"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of checkpoints written by train_pair.py"
    )
    parser.add_argument("--networks", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument(
        "--methods", nargs="+", default=["weights", "activations", "zipit", "cca"], help="of featviz.align"
    )
    parser.add_argument("--tested", type=int, default=10000, help="test images")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON files")
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    args = parser.parse_args()
    lines = []
    for network in args.networks:
        place = args.results / f"{network}.json"
        found = json.loads(place.read_text()) if place.exists() else {}
        if args.data is not None and found.get("tested") != args.tested:
            found = {}  # rows of one table are of the same images
        missing = [method for method in args.methods if method not in found]
        if missing and args.data is not None:
            count = RECIPES[network][1]
            models, images = load(network, checkpoints(network, args.data, args.runs), args.data, count, args.tested)
            measured = measure(models[0], models[1], images, missing, found)[0]
            found = measured | {"architecture": network, "images": count, "tested": args.tested, "machine": machine()}
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(found, indent=1) + "\n")
        lines += rows(network, found, args.methods) if found else []
    table = "\n".join([HEAD, "|---" * (HEAD.count("|") - 1) + "|", *lines])
    print(table)
    if args.readme:
        replace_table(args.readme, HEAD, table)


if __name__ == "__main__":
    main()
