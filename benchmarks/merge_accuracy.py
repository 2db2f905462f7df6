"""Test accuracy of a trained pair, its averages and its repaired merges; with --bundle, the pair that featviz ships.

    uv run python benchmarks/merge_accuracy.py --data cifar/ --arch resnet20-x2 \\
        --pair runs/resnet20-x2-s0.safetensors runs/resnet20-x2-s1.safetensors --out benchmarks/results/resnet20-x2.json

Rows: the parents, then for no alignment and for every method of `--methods` the plain average and the repaired one (BatchNorm
statistics measured afresh; REPAIR where there is no BatchNorm), for activations "rescale" too. Matching and repair see training
images only.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from cifar import Batches, load_cifar
from machine import machine
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

import featviz
from featviz.checkpoints import load_into
from featviz.config import METHODS_ON_DATA
from featviz.merging.repair import has_batchnorm
from featviz.networks import build


def load(
    architecture: str, places: list[Path], data: Path, trained: int, tested: int
) -> tuple[list[nn.Module], dict[str, Batches]]:
    """The networks, and that many training and test images of CIFAR-10 in a fixed random order, normalised for them."""
    models = [build(architecture).eval() for _ in places]
    for model, place in zip(models, places, strict=True):
        load_into(model, place)
    images = {}
    for part, count in (("train", trained), ("test", tested)):
        x, y = load_cifar(data, train=part == "train")
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]
        images[part] = Batches(x[order], y[order], models[0].mean, models[0].std, 250)
    return models, images


def measure(
    a: nn.Module, b: nn.Module, images: dict[str, Batches], methods: list[str], known: dict | None = None
) -> tuple[dict, dict[str, featviz.Alignment]]:
    """Accuracies (percent), losses and seconds, beside those that are `known`; and the new alignments."""
    repair = "batchnorm" if has_batchnorm(a) else "repair"
    found: dict[str, dict] = dict(known or {})
    if "parents" not in found:
        found["parents"] = {name: _test(model, images) for name, model in (("a", a), ("b", b))}
    alignments: dict[str, featviz.Alignment] = {}
    for method in [name for name in ("unaligned", *methods) if name not in found]:
        row: dict[str, object] = {}
        alignment = None
        if method != "unaligned":
            began = time.monotonic()
            data = images["train"] if method in METHODS_ON_DATA else None
            example = images["train"].images[:1].float() / 255
            alignment = alignments[method] = featviz.align(a, b, example, method, data)
            row["seconds"] = time.monotonic() - began
            if alignment.mixing is None:
                scores = torch.cat([torch.from_numpy(score) for score in alignment.scores.values()])
                row |= {"mean_score": float(scores.mean()), "objectives": list(alignment.matching.objectives)}
        row["average"] = _test(featviz.merge(a, b, alignment, repair="none"), images)
        row["repaired"] = _test(featviz.merge(a, b, alignment, repair=repair, data=images["train"]), images)
        if method == "activations":
            row["rescale"] = _test(featviz.merge(a, b, alignment, repair="rescale", data=images["train"]), images)
        found[method] = row
        print(method, json.dumps(row))
    return found | {"repair": repair}, alignments


def _test(model: nn.Module, images: dict[str, Batches]) -> dict[str, float]:
    loss, accuracy = featviz.evaluate(model, tqdm(images["test"], leave=False))
    return {"accuracy": accuracy, "loss": loss}


def table(architecture: str, found: dict) -> str:
    """The rows of the README's table."""
    parents = " / ".join(f"{found['parents'][name]['accuracy']:.2f}" for name in "ab")
    rows = []
    for method in (name for name in found if name not in ("parents", "repair")):
        average, repaired = (found[method][what]["accuracy"] for what in ("average", "repaired"))
        rows.append(f"| {architecture} | {parents} | {method} | {average:.2f} | {repaired:.2f} |")
    head = "| network | A / B | matching | average | repaired |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows)


def bundle(folder: Path, architecture: str, pair: list[Path]) -> list[Path]:
    """Write the two networks with kernels in float16 (vectors stay float32): the weights that are measured and shipped."""
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder / "a.safetensors", folder / "b.safetensors"]
    for source, place in zip(pair, places, strict=True):
        weights = load_file(source)
        save_file({k: (v.half() if v.dim() > 1 else v).contiguous() for k, v in weights.items()}, place)
    return places


def finish_bundle(
    folder: Path, architecture: str, pair: list[Path], models: list, found: dict, images, alignments
) -> None:
    """The alignment, the statistics of the repaired merge, and the card."""
    alignment = alignments["activations"]
    alignment.save(folder / "alignment.safetensors")
    merged = featviz.merge(*models, alignment, repair="batchnorm", data=images["train"])
    names = ("running_mean", "running_var")
    statistics = {k: v.contiguous() for k, v in merged.state_dict().items() if k.endswith(names)}
    save_file(statistics, folder / "merged-statistics.safetensors")
    cards = [json.loads(path.with_suffix(".json").read_text()) for path in pair]
    card = {
        "architecture": architecture,
        "data": "CIFAR-10 (Krizhevsky 2009), images stored as JPEG",
        "recipes": [c["recipe"] for c in cards],
        "trained_by": "benchmarks/train_pair.py",
        "measured_by": "benchmarks/merge_accuracy.py, weights rounded as shipped",
        "test_accuracy": {
            "a": found["parents"]["a"]["accuracy"],
            "b": found["parents"]["b"]["accuracy"],
            **{
                f"{method}, {what}": found[method][what]["accuracy"]
                for method in ("unaligned", "weights", "activations")
                for what in ("average", "repaired")
            },
        },
        "alignment": {"method": "activations", "images": len(images["train"].images)},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10, as for train_pair.py")
    parser.add_argument("--arch", required=True, help="for example resnet20-x2 or vgg11-x0.5")
    parser.add_argument("--pair", type=Path, nargs=2, required=True, help="checkpoints written by train_pair.py")
    parser.add_argument("--methods", nargs="+", default=["weights", "activations"], help="of featviz.align")
    parser.add_argument("--images", type=int, default=5000, help="training images for matching and repair")
    parser.add_argument("--tested", type=int, default=10000, help="test images")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--bundle", type=Path, help="folder to write the bundled pair to")
    args = parser.parse_args()
    places = bundle(args.bundle, args.arch, args.pair) if args.bundle else args.pair
    models, images = load(args.arch, places, args.data, args.images, args.tested)
    found, alignments = measure(models[0], models[1], images, args.methods)
    if args.bundle:
        finish_bundle(args.bundle, args.arch, args.pair, models, found, images, alignments)
    print(table(args.arch, found))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "architecture": args.arch,
            "images": args.images,
            "tested": args.tested,
            "machine": machine(),
            **found,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
