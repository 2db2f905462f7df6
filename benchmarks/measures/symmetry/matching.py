"""Seconds and peak memory of matching two networks, and the objectives that are reached, beside those of an earlier version.

    uv run python benchmarks/symmetry.py matching --before CHECKOUT --keep

Pairs of random weights at 224 px; 64 images of random numbers for matching by activations. Every case is a process of its own,
its peak that of the whole process, interpreter and both networks included. *Matching* are the seconds of `align` without the
proof of the groups, whose seconds are *groups*. *Forward* are those of one pass of the data through both networks, the least of
two, and *ratio* is matching by activations over it.

*Objective* is what weight matching maximises now: the sum over parameters of <A, B'>, without the scale of filters before a
batch norm; *plain* is that sum of all weights as they are, *scale-free* that of all filters at unit norm. *Recovered* is how
many units of a planted permutation (B is a permuted copy of A) weight matching finds again now, from one start.

`--before` is a checkout of an earlier commit: every case is run with it as well, and given up after 150 s.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import featviz
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.symmetry.groups import PermutationGroups
from measures.report import ROOT, Record, markdown
from measures.symmetry.align_once import example, pair

NAME = "matching"
NETWORKS = ("resnet50", "vgg16_bn", "vit_b_16", "convnext_tiny")
METHODS = ("weights", "activations", "planted")
IMAGES = 64
LIMIT = 150  # seconds for one case of the earlier version, and for what comes before `align`
HEAD = (
    *("network", "matching", "version", "groups, s", "matching, s", "peak, GiB", "objective", "plain", "scale-free"),
    *("forward, s", "ratio", "recovered"),
)
Perms = Mapping[str, NDArray[np.int64]]


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="of torchvision")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, for comparison")


def measure(args: argparse.Namespace) -> Record:
    rows = []
    for network in tqdm(args.networks):
        a, b = pair(network)
        groups = featviz.permutation_groups(a, example(network), verify=False)
        for method in args.methods:
            for version, checkout in versions(args.before).items():
                if method == "planted" and version == "before":
                    continue
                starts = 1 if method == "planted" else 4
                case = {"network": network, "method": method, "images": IMAGES, "starts": starts, "parts": False}
                limit = None if version == "now" else LIMIT
                figures, perms = align_once(checkout, case | {"threads": torch.get_num_threads()}, limit)
                if perms and method != "planted":
                    figures |= objectives(a, b, groups, perms)
                rows.append({"network": network, "method": method, "version": version, **figures})
    return {"rows": rows}


def versions(before: Path | None) -> dict[str, Path]:
    """Name -> checkout."""
    return {**({"before": before} if before else {}), "now": ROOT}


def align_once(checkout: Path, case: dict[str, Any], limit: float | None = None) -> tuple[dict[str, Any], Perms]:
    """Run `align_once.py` with the featviz of a checkout: figures and permutations, or "unfinished" after `limit` seconds."""
    script = Path(__file__).with_name("align_once.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.npz"
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        try:
            command = [sys.executable, str(script), json.dumps(case), str(out)]
            subprocess.run(command, env=environment, check=True, timeout=limit, capture_output=True)
        except subprocess.TimeoutExpired:
            return {"unfinished": limit}, {}
        with np.load(out) as found:
            perms = {name.removeprefix("perm/"): found[name] for name in found.files if name.startswith("perm/")}
            return json.loads(str(found["figures"])), perms


def objectives(a: nn.Module, b: nn.Module, groups: PermutationGroups, perms: Perms) -> dict[str, float]:
    """Of these permutations of B: what weight matching maximises now, the plain inner product, and the scale-free one."""
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
        cells += [f"{row[key]:.1f}" for key in ("groups_seconds", "seconds", "peak_gib")]
        if row["method"] == "planted":
            rows.append([*cells, *[""] * 5, f"{row['recovered']:,} of {row['units']:,}"])
            continue
        cells += [f"{row[key]:.1f}" for key in ("objective", "plain", "scale_free")]
        forward = row.get("forward_seconds")
        cells += ["", ""] if forward is None else [f"{forward:.1f}", f"{row['seconds'] / forward:.2f}"]
        rows.append([*cells, ""])
    return markdown(HEAD, rows)
