"""What weight matching spends its time on, and how it grows with width and starts, beside an earlier version.

    uv run python benchmarks/symmetry.py matching_profile --before CHECKOUT --keep

Pairs of random weights. One thread, so that parts and whole are of one kind: *products* are matrix products (`addmm_`),
*gathers* selections of rows (`index_select`), *assignments* SciPy's `linear_sum_assignment`, *the rest* everything else in
`match_weights`. The last column is the whole with all threads, in a process of its own.

`--before` is a checkout of an earlier commit: every case is run with it as well.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from tqdm import tqdm

import featviz
import featviz.matching.assignment as assignment
from featviz.config.matching_options import WeightMatchingOptions
from featviz.matching.permutation.weights import match_weights
from featviz.matching.problem import MatchingProblem
from featviz.zoo.named import zoo_network
from measures import process
from measures.report import Record, markdown
from measures.symmetry.matching import imported_from

NAME = "matching_profile"
CASES = {  # network, starts
    "resnet50, 4 starts": ("resnet50", 4),
    "resnet20-x1, 4 starts": ("resnet20-x1", 4),
    "resnet20-x2, 4 starts": ("resnet20-x2", 4),
    "resnet20-x4, 4 starts": ("resnet20-x4", 4),
    "resnet20-x4, 1 start": ("resnet20-x4", 1),
    "resnet20-x4, 2 starts": ("resnet20-x4", 2),
    "resnet20-x4, 8 starts": ("resnet20-x4", 8),
}
PARTS = ("products", "gathers", "assignments")
HEAD = ("case", "version", *(f"{part}, s" for part in PARTS), "the rest, s", "all, s", "all threads, s")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, for comparison")


def measure(args: argparse.Namespace) -> Record:
    versions = {"before": args.before} if args.before else {}
    rows = []
    for case in tqdm(args.cases):
        for version, checkout in {**versions, "now": None}.items():
            with imported_from(checkout):
                row = process.in_own_process(_case, *CASES[case], 1)
                row["all_threads"] = process.in_own_process(_case, *CASES[case], torch.get_num_threads())["all"]
            rows.append({"case": case, "version": version, **row})
    return {"rows": rows}


def _case(network: str, starts: int, threads: int) -> dict[str, float]:
    """Seconds of each part and of the whole, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    zoo = network.startswith("resnet20")
    make = (lambda: zoo_network(network)) if zoo else (lambda: torchvision.models.get_model(network, weights=None))
    a, b = make().eval(), make().eval()
    x = torch.rand(1, 3, 32, 32) if zoo else torch.rand(1, 3, 224, 224)
    problem = MatchingProblem("weights", (a, b), featviz.permutation_groups(a, x))
    seconds: dict[str, float] = defaultdict(float)
    if threads == 1:  # else parts of several threads would add up to more than the whole
        Tensor.addmm_ = _timed(seconds, "products", Tensor.addmm_)
        Tensor.index_select = _timed(seconds, "gathers", Tensor.index_select)
        assignment.linear_sum_assignment = _timed(seconds, "assignments", assignment.linear_sum_assignment)
    began = time.perf_counter()
    match_weights(problem, WeightMatchingOptions(restarts=starts))
    return {**{part: seconds[part] for part in PARTS}, "all": time.perf_counter() - began}


def _timed(seconds: dict[str, float], part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - began

    return timed


def table(records: list[Record]) -> str:
    rows = []
    for row in records[0]["rows"]:
        parts = [row[part] for part in PARTS]
        figures = [*parts, row["all"] - sum(parts), row["all"], row["all_threads"]]
        rows.append([row["case"], row["version"], *(f"{value:.2f}" for value in figures)])
    return markdown(HEAD, rows)
