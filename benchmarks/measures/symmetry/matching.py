"""Seconds and peak memory of matching two networks, and the objectives that are reached, beside those of an earlier version.

    uv run python benchmarks/symmetry.py matching --before CHECKOUT --keep

Pairs of random weights at 224 px; 64 images of random numbers for matching by activations. Every case is a process of its own,
its peak that of the whole process, interpreter and both networks included. *Groups* are the seconds in which the permutation
groups are found and proved, which `align` does first; *matching* are those of the rest of `align`. *Forward* are those of one
pass of the data through both networks, the least of two, and *ratio* is matching by activations over it.

*Objective* is what weight matching maximises now: the sum over parameters of <A, B'>, without the scale of filters before a
batch norm; *plain* is that sum of all weights as they are, *scale-free* that of all filters at unit norm. *Recovered* is how
many units of a planted permutation (B is a permuted copy of A) weight matching finds again, from one start.

`--before` is a checkout of an earlier commit: every case is run with it as well.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.symmetry.groups import PermutationGroups
from measures import process
from measures.report import Record, markdown

NAME = "matching"
NETWORKS = ("resnet50", "vgg16_bn", "vit_b_16", "convnext_tiny")
METHODS = ("weights", "activations", "planted")
SIDE, BATCH, IMAGES = 224, 16, 64
LIMIT = 600  # seconds for one case
Perms = Mapping[str, NDArray[np.int64]]
HEAD = (
    *("network", "matching", "version", "groups, s", "matching, s", "peak, GiB", "objective", "plain", "scale-free"),
    *("forward, s", "ratio", "recovered"),
)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="of torchvision")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, for comparison")


def measure(args: argparse.Namespace) -> Record:
    versions = {"before": args.before} if args.before else {}
    rows = []
    for network in tqdm(args.networks):
        a, b = pair(network)
        groups = featviz.permutation_groups(a, torch.rand(1, 3, SIDE, SIDE), verify=False)
        for method in args.methods:
            for version, checkout in {**versions, "now": None}.items():
                with imported_from(checkout):
                    try:
                        row = process.in_own_process(_case, network, method, limit=LIMIT)
                    except TimeoutError:
                        row = {"unfinished": LIMIT}
                if "permutations" in row:
                    row |= objectives(a, b, groups, row.pop("permutations"))
                rows.append({"network": network, "method": method, "version": version, **row})
    return {"rows": rows}


@contextmanager
def imported_from(checkout: Path | None) -> Iterator[None]:
    """Context: processes that are started in it import featviz from that checkout."""
    own = [] if checkout is None else [str(checkout.resolve())]
    sys.path[:0] = own
    try:
        yield
    finally:
        del sys.path[: len(own)]


def pair(network: str) -> tuple[nn.Module, nn.Module]:
    """Two of torchvision with random weights, the same whenever they are made."""
    torch.manual_seed(0)
    a, b = (torchvision.models.get_model(network, weights=None).eval() for _ in "ab")
    return a, b


def _case(network: str, method: str) -> dict[str, object]:
    """One alignment, in this process."""
    a, b = pair(network)
    noise = torch.Generator().manual_seed(0)
    data = [torch.randn(BATCH, 3, SIDE, SIDE, generator=noise) for _ in range(IMAGES // BATCH)]
    x = torch.rand(1, 3, SIDE, SIDE)
    began = time.perf_counter()
    groups = featviz.permutation_groups(a, x)
    groups_seconds = time.perf_counter() - began
    if method == "planted":
        return _recovered(a, groups, x)
    forward = min(_forward(a, b, data) for _ in range(2)) if method == "activations" else None
    process.reset_peak()
    began = time.perf_counter()
    alignment = featviz.align(a, b, x, method, data if method == "activations" else None)
    seconds = time.perf_counter() - began - groups_seconds
    peak = process.peak_resident() / 2**30
    return {
        "groups_seconds": groups_seconds, "seconds": seconds, "peak_gib": peak, "forward_seconds": forward,
        "permutations": dict(alignment.permutations),
    }  # fmt: skip


def _recovered(a: nn.Module, groups: PermutationGroups, x: Tensor) -> dict[str, object]:
    from featviz.symmetry.permute import permute_module, random_permutations

    there = random_permutations(groups, np.random.default_rng(0))
    b = permute_module(a, groups, there)
    found = featviz.align(a, b, x, "weights", restarts=1).permutations
    back = {name: np.argsort(perm) for name, perm in there.items()}
    owned = [group.name for group in groups if group.axes]
    return {
        "recovered": sum(int((found[name] == back[name]).sum()) for name in owned),
        "units": sum(len(back[name]) for name in owned),
    }


def _forward(a: nn.Module, b: nn.Module, data: list[Tensor]) -> float:
    began = time.perf_counter()
    with torch.inference_mode():
        for images in data:
            a(images)
            b(images)
    return time.perf_counter() - began


def objectives(a: nn.Module, b: nn.Module, groups: PermutationGroups, perms: Perms) -> dict[str, float]:
    """Of these permutations of B: what weight matching maximises now, the plain inner product, and the scale-free one."""
    from featviz.matching.permutation.compared_weights import ComparedWeights  # earlier versions have none

    kinds = {"objective": None, "plain": False, "scale_free": True}
    return {
        kind: ComparedWeights(a, b, groups, scale_free=scale_free).objective(perms)
        for kind, scale_free in kinds.items()
    }


def table(records: list[Record]) -> str:
    rows = []
    for row in records[0]["rows"]:
        cells = [row["network"], row["method"], row["version"]]
        if "unfinished" in row:
            rows.append([*cells, "", f"more than {row['unfinished']}", *[""] * 7])
            continue
        if row["method"] == "planted":
            rows.append([*cells, *[""] * 8, f"{row['recovered']:,} of {row['units']:,}"])
            continue
        cells += [
            f"{row[key]:.1f}" for key in ("groups_seconds", "seconds", "peak_gib", "objective", "plain", "scale_free")
        ]
        forward = row["forward_seconds"]
        cells += ["", ""] if forward is None else [f"{forward:.1f}", f"{row['seconds'] / forward:.2f}"]
        rows.append([*cells, ""])
    return markdown(HEAD, rows)
