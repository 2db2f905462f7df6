"""Test accuracy of the bundled pair merged up to a layer: each head, and both asked at once.

    uv run python benchmarks/merging.py heads --data cifar/ --images 2000 --tested 2000 --keep

The heads are those of `featviz.merge_heads`, their BatchNorm statistics measured afresh. Behind the last layer both are the
whole merge; without any merged layer they are the parents, and both at once their ensemble. *Merged*: share of a parent's
weights.
"""

import argparse

import torch
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config.matching_methods import method_named
from featviz.merging.heads import tensors_until
from measures.cifar import Batches, add_cifar, sample
from measures.merging.accuracy import LABELS
from measures.merging.pairs import BUNDLED, bundled_files, load_models
from measures.report import Record, markdown

NAME = "heads"
HEAD = ("merged until", "matching", "merged", "with A's head", "with B's head", "both heads")


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, 5000, 10000)
    parser.add_argument("--methods", nargs="+", default=["activations", "zipit"], help="of featviz.align")
    parser.add_argument(
        "--until", nargs="+", default=["layer1", "layer2", "layer3", "fc"], help="layers to merge up to"
    )


def measure(args: argparse.Namespace) -> Record:
    a, b = load_models(BUNDLED, bundled_files())
    train, test = sample(args.data, True, args.images, a), sample(args.data, False, args.tested, a)
    weights = sum(weight.numel() for weight in a.parameters())
    rows = [{"until": None, "method": None, "merged": 0.0, "accuracy": accuracies([a, b], test)}]
    for method in args.methods:
        alignment = featviz.align(a, b, train.example, method, train if method_named(method).needs_data else None)
        for until in args.until:
            names = tensors_until(a, until, train.example)
            share = sum(weight.numel() for name, weight in a.named_parameters() if name in names) / weights
            heads = featviz.merge_heads(a, b, alignment, until, train.example, data=train)
            rows.append({"until": until, "method": method, "merged": share, "accuracy": accuracies(list(heads), test)})
            print(rows[-1], flush=True)
    return {"images": args.images, "tested": args.tested, "rows": rows}


def accuracies(heads: list[nn.Module], test: Batches) -> list[float]:
    """Accuracy of each head, then of the mean of their logits; percent."""
    found = [logits(head, test) for head in heads]
    return [100 * float((y.argmax(1) == test.labels).float().mean()) for y in (*found, torch.stack(found).mean(0))]


def logits(model: nn.Module, data: Batches) -> Tensor:
    """(image, class)."""
    with torch.inference_mode():
        return torch.cat([model.eval()(x) for x, _ in tqdm(data, leave=False)])


def table(records: list[Record]) -> str:
    rows = []
    for row in sorted(records[0]["rows"], key=lambda row: row["merged"]):
        method = LABELS[row["method"]] if row["method"] else ""
        numbers = [f"{value:.2f}" for value in row["accuracy"]]
        rows.append([row["until"] or "nothing", method, f"{100 * row['merged']:.0f} %", *numbers])
    return markdown(HEAD, rows)
