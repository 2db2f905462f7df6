"""Test accuracy of the bundled pair merged up to a layer: each head, and both asked at once.

    uv run python benchmarks/merge_heads.py --data cifar/ --out benchmarks/results/heads.json --readme README.md

The heads are those of `featviz.merge_heads`, their BatchNorm statistics measured afresh. Behind the last layer both are the
whole merge; without any merged layer they are the parents, and both at once their ensemble. *Merged*: share of a parent's
weights.
"""

import argparse
from pathlib import Path

import torch
from cifar import Batches
from machine import report
from merge_accuracy import load
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config import METHODS_ON_DATA
from featviz.merging.heads import tensors_until

HEAD = "| merged until | matching | merged | with A's head | with B's head | both heads |"
NAMES = {"weights": "weights", "activations": "activations", "zipit": "ZipIt", "cca": "CCA"}


def answers(model: nn.Module, data: Batches) -> Tensor:
    """Logits (image, class)."""
    with torch.inference_mode():
        return torch.cat([model.eval()(x) for x, _ in tqdm(data, leave=False)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10, as for train_pair.py")
    parser.add_argument(
        "--methods", nargs="+", default=["activations", "zipit"], choices=NAMES, help="of featviz.align"
    )
    parser.add_argument(
        "--until", nargs="+", default=["layer1", "layer2", "layer3", "fc"], help="layers to merge up to"
    )
    parser.add_argument("--images", type=int, default=5000, help="training images for matching and repair")
    parser.add_argument("--tested", type=int, default=10000, help="test images")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--readme", type=Path, help="the file whose table is replaced")
    args = parser.parse_args()
    weights = Path(featviz.__file__).parent / "zoo" / "weights"
    places = [weights / "a.safetensors", weights / "b.safetensors"]
    (a, b), images = load("resnet20-x2", places, args.data, args.images, args.tested)
    labels = images["test"].labels
    example = images["train"].images[:1].float() / 255

    def accuracies(heads: list[nn.Module]) -> list[float]:
        logits = [answers(head, images["test"]) for head in heads]
        return [100 * float((y.argmax(1) == labels).float().mean()) for y in (*logits, torch.stack(logits).mean(0))]

    count = sum(weight.numel() for weight in a.parameters())
    found = [{"until": None, "method": None, "merged": 0.0, "accuracy": accuracies([a, b])}]
    for method in args.methods:
        alignment = featviz.align(a, b, example, method, images["train"] if method in METHODS_ON_DATA else None)
        for until in args.until:
            names = tensors_until(a, until, example)
            share = sum(weight.numel() for name, weight in a.named_parameters() if name in names) / count
            heads = featviz.merge_heads(a, b, alignment, until, example, data=images["train"])
            row = {"until": until, "method": method, "merged": share, "accuracy": accuracies(list(heads))}
            found.append(row)
            print(row, flush=True)
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for row in sorted(found, key=lambda row: row["merged"]):
        numbers = " | ".join(f"{value:.2f}" for value in row["accuracy"])
        until, method = row["until"] or "nothing", NAMES.get(row["method"], "")
        lines.append(f"| {until} | {method} | {100 * row['merged']:.0f} % | {numbers} |")
    report(args, "\n".join(lines), images=args.images, tested=args.tested, rows=found)


if __name__ == "__main__":
    main()
