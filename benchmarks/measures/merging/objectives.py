"""Weight matching without norms: by the plain inner product, and by the scale-free one.

    uv run python benchmarks/merging.py objectives --data cifar/ --runs runs/ --real real/ --keep

Three pairs without a batch norm: `cifar_cnn_a` (two convolutions and two linear layers; one network was trained adversarially)
and MobileNetV1 0.25 (its norms are folded in) of the folder of real checkpoints, and VGG-11 x0.5, which `merging.py train`
trains. Each is matched by its weights as they are, with every filter at unit norm, and by activations, for comparison.
*Agreement* is the mean correlation of matched units on held-out images, over all units; accuracies are of the average, and of
the average after REPAIR, in percent of those images. MobileNetV1 is merged with a weight of .1 of B as well, since its equal
average is at chance.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.config.matching_options import WeightMatchingOptions
from featviz.matching.alignment import PermutationAlignment
from featviz.matching.permutation.weights import match_weights
from featviz.matching.problem import MatchingProblem
from featviz.matching.unit_activations import activation_sites, measure_moments
from featviz.symmetry.groups import PermutationGroups
from featviz.weights.checks import digest
from measures.cifar import add_cifar, load_cifar
from measures.merging.pairs import checkpoints, load_models
from measures.rendering.real_networks import definitions, mobilenet, photographs
from measures.report import Record, markdown

NAME = "objectives"
NETWORKS = ("cifar_cnn_a", "mobilenet", "vgg11-x0.5")
KINDS = {"plain": False, "scale-free": True}
HEAD = (
    "network",
    "matched by",
    "plain",
    "scale-free",
    "agreement",
    "weight of B",
    "average, %",
    "repaired, %",
    "A / B, %",
)

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pair:
    """Two subjects, batches for matching and repair, held-out batches, and the weights of B that they are merged with."""

    a: featviz.Subject
    b: featviz.Subject
    matched_on: list[Batch]
    tested_on: list[Batch]
    weights: tuple[float, ...] = (0.5,)


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, 2000, 2000)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints of `merging.py train`")
    parser.add_argument("--real", type=Path, required=True, metavar="FOLDER", help="real checkpoints and photographs")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))


def measure(args: argparse.Namespace) -> Record:
    found = {}
    for network in tqdm(args.networks):
        found[network] = _figures(_load(network, args))
        print(network, found[network])
    return {"networks": found}


def _load(network: str, args: argparse.Namespace) -> Pair:
    if network == "mobilenet":
        return mobilenet_pair(args.real)
    train, test = (_batches(args.data, part, count) for part, count in ((True, args.images), (False, args.tested)))
    if network == "cifar_cnn_a":
        a, b = (_cifar_cnn(args.real, name) for name in ("sgd", "madry"))
    else:
        models = load_models(network, checkpoints(network, args.data, args.runs))
        a, b = (featviz.Subject(model, name) for model, name in zip(models, "AB", strict=True))
    return Pair(a, b, train, test)


def mobilenet_pair(real: Path) -> Pair:
    """The two MobileNetV1, matched and repaired on 500 photographs and tested on 500 others."""
    a, b = (mobilenet(real, side) for side in (224, 128))
    images = photographs(real / "imagenet-160.tar", 128)
    labels = torch.arange(1, 1 + len(images))  # output 1 + c is class c
    even, odd = (list(zip(images[k::2].split(50), labels[k::2].split(50), strict=True)) for k in (0, 1))
    return Pair(a, b, even, odd, (0.5, 0.1))


def _batches(folder: Path, train: bool, count: int) -> list[Batch]:
    images, labels = load_cifar(folder, train)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return [(images[own].float() / 255, labels[own]) for own in order.split(250)]


def _cifar_cnn(folder: Path, name: str) -> featviz.Subject:
    model = definitions(folder).cifar_cnn_a().eval()
    file = torch.load(folder / f"cifar_cnn_a-{name}.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(file["state_dict"][0])
    return featviz.Subject(model, name, mean=(0.485, 0.456, 0.406), std=(0.225,) * 3)


def _figures(pair: Pair) -> Record:
    a, b = pair.a.model, pair.b.model
    x = pair.matched_on[0][0][:1]
    groups = featviz.permutation_groups(a, x)
    alignments = {kind: weight_alignment(a, b, groups, scale_free) for kind, scale_free in KINDS.items()}
    alignments["activations"] = featviz.align(pair.a, pair.b, x, "activations", pair.matched_on)
    rows = {}
    for kind, alignment in alignments.items():
        both = featviz.weight_objectives(a, b, alignment)
        row = {
            "plain": both.plain,
            "scale_free": both.scale_free,
            "agreement": agreement(pair, alignment),
            "merges": {},
        }
        for weight in pair.weights:
            merges = (
                featviz.merge(pair.a, pair.b, alignment, weight, how, pair.matched_on) for how in ("none", "repair")
            )
            row["merges"][str(weight)] = [accuracy(merged, pair) for merged in merges]
        rows[kind] = row
    return {"parents": [accuracy(parent, pair) for parent in (pair.a, pair.b)], "rows": rows}


def weight_alignment(a: nn.Module, b: nn.Module, groups: PermutationGroups, scale_free: bool) -> PermutationAlignment:
    """Weight matching, from weights alone, in which every filter's scale is arbitrary, or none."""
    assumed = replace(groups, normalized=frozenset())
    options = WeightMatchingOptions(scale_free=int(scale_free))
    matching = match_weights(MatchingProblem("weights", (a, b), assumed), options)
    return PermutationAlignment(groups, "weights", 0, digest(a), digest(b), matching)


def agreement(pair: Pair, alignment: PermutationAlignment) -> float:
    """Mean correlation of matched units on the held-out images, over all units that are seen somewhere."""
    models = pair.a.model, pair.b.model
    data = [x for x, _ in pair.tested_on]
    problem = MatchingProblem("activations", models, alignment.groups, data, subjects=(pair.a, pair.b))
    sites = {name: found for name, found in activation_sites(models[0], alignment.groups).items() if found}
    scores = []
    for name, moments in measure_moments(problem, sites, [(0, 1)], 196).items():
        correlation = np.mean([one.correlation().numpy() for one in moments], axis=0)
        scores.append(correlation[np.arange(len(correlation)), alignment.permutations[name]])
    return float(np.concatenate(scores).mean())


def accuracy(model: nn.Module | featviz.Subject, pair: Pair) -> float:
    """Percent of the held-out images."""
    subject = model if isinstance(model, featviz.Subject) else featviz.Subject(model, "merge", pair.a.mean, pair.a.std)
    return featviz.evaluate(subject, pair.tested_on)[1]


def table(records: list[Record]) -> str:
    rows = []
    for network, found in records[0]["networks"].items():
        parents = " / ".join(f"{value:.1f}" for value in found["parents"])
        for kind, row in found["rows"].items():
            figures = [f"{row['plain']:.1f}", f"{row['scale_free']:.1f}", f"{row['agreement']:.3f}"]
            for weight, merges in row["merges"].items():
                rows.append([network, kind, *figures, weight, *(f"{value:.1f}" for value in merges), parents])
    return markdown(HEAD, rows)
