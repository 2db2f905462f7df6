"""What weight matching spends its time on, and how it grows with width and starts, beside an earlier version.

    uv run python benchmarks/symmetry.py matching_profile --before CHECKOUT --keep

Pairs of random weights. One thread, so that parts and whole are of one kind: *products* are matrix products (`addmm_`, `@`),
*gathers* selections of rows (`index_select`), *assignments* SciPy's `linear_sum_assignment`, *the rest* everything else in
`align` without the proof of the groups. The last column is the whole with all threads, in a process of its own.

`--before` is a checkout of an earlier commit: every case is run with it as well.
"""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from measures.report import Record, markdown
from measures.symmetry.matching import align_once, versions

NAME = "matching_profile"
CASES = (  # network, starts
    ("resnet50", 4), ("resnet20-x1", 4), ("resnet20-x2", 4), ("resnet20-x4", 4),
    ("resnet20-x4", 1), ("resnet20-x4", 2), ("resnet20-x4", 8),
)  # fmt: skip
PARTS = ("products", "gathers", "assignments")
HEAD = ("network", "starts", "version", *(f"{part}, s" for part in PARTS), "the rest, s", "all, s", "all threads, s")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit, for comparison")


def measure(args: argparse.Namespace) -> Record:
    rows = []
    for network, starts in tqdm(CASES):
        for version, checkout in versions(args.before).items():
            case = {"network": network, "method": "weights", "images": 0, "starts": starts}
            one, _ = align_once(checkout, case | {"threads": 1, "parts": True})
            several, _ = align_once(checkout, case | {"threads": torch.get_num_threads(), "parts": False})
            row = {"network": network, "starts": starts, "version": version, "parts": one["parts"]}
            rows.append(row | {"all": one["seconds"], "all_threads": several["seconds"]})
    return {"rows": rows}


def table(records: list[Record]) -> str:
    rows = []
    for row in records[0]["rows"]:
        parts = [row["parts"].get(part, 0.0) for part in PARTS]
        figures = [*parts, row["all"] - sum(parts), row["all"], row["all_threads"]]
        rows.append([row["network"], row["starts"], row["version"], *(f"{value:.2f}" for value in figures)])
    return markdown(HEAD, rows)
