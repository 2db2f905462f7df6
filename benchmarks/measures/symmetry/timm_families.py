"""Which families of timm featviz traces exactly: the smallest member of each, with random weights.

    uv run python benchmarks/symmetry.py timm_families --keep

A family is a module of timm (`timm.list_modules()`), its smallest member the one with the fewest parameters. Every network
runs in a process of its own, at its native input size, and is judged as in `architectures`: one random permutation of all
groups together, another random input, random norm statistics, float64. The seconds of `featviz.permutation_groups` are told
apart: tracing (the network runs once in float64, every operator with its rule), solving (unit ids to groups), and the proof (it
runs once more, permuted).
Two networks are measured at a time, each on one thread; those that take more than `SLOW` seconds once more, alone, on two.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

import featviz
from featviz.errors import FeatvizError
from featviz.isolation import copy_of
from featviz.symmetry.discovery import private_copy, trace_in_float64
from featviz.symmetry.permute import random_permutations
from featviz.symmetry.solve_groups import groups_of
from featviz.symmetry.verification import outputs_of, randomise_constants, relative_error, rounding_error, verified
from measures import process
from measures.report import Record, markdown, write_record
from measures.symmetry.architectures import pinned_units

NAME = "timm_families"
LIMIT = 300  # seconds for one network, import of torch and the check of the result included
SLOW = 100  # seconds of one network on one thread above which it is measured once more, on two
LARGE = ("densenet264d",)  # not the smallest of its family: 264 layers, each reads all before it
HEAD = (
    *("family", "smallest member", "weights, M", "result", "error", "free units", "in blocks", "pinned"),
    *("threads", "tracing, s", "solving, s", "proof, s", "peak MiB"),
)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the families that are finished")
    known = [*timm.list_modules(), *LARGE]
    parser.add_argument("--families", nargs="+", choices=known, default=known)


def measure(args: argparse.Namespace) -> Record:
    """Every network is written to `--runs` when it is finished, and read again by the next run."""
    args.runs.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        files = [args.runs / f"timm-{timm.__version__}-{name}.json" for name in args.families]
        cases = list(tqdm(pool.map(_known_or_new, args.families, files), total=len(files)))
    for number in tqdm([number for number, case in enumerate(cases) if _is_slow(case)]):
        cases[number] = _network(args.families[number], threads=2)
        write_record(files[number], cases[number])
    return {"timm": timm.__version__, "families": dict(zip(args.families, cases, strict=True))}


def _known_or_new(name: str, file: Path) -> dict[str, Any]:
    if not file.exists():
        write_record(file, _network(name, threads=1))
    return json.loads(file.read_text())


def _is_slow(case: dict[str, Any]) -> bool:
    return case["threads"] == 1 and ("seconds" not in case or sum(case["seconds"].values()) > SLOW)


def _network(name: str, threads: int) -> dict[str, Any]:
    """The smallest member of a family, or one of `LARGE`, in a process of its own."""
    try:
        return process.in_own_process(_case, name, threads, limit=LIMIT)
    except TimeoutError:
        network, weights = process.in_own_process(_name_and_size, name)
        return {"name": network, "weights": weights, "threads": threads, "result": f"not finished in {LIMIT} s"}


def _name_and_size(name: str) -> tuple[str, int]:
    return (name, size(name)) if name in LARGE else smallest_member(name)


def smallest_member(family: str) -> tuple[str, int]:
    """The member with the fewest parameters, and their number; timm's own test networks (`test_*`) are left out."""
    sizes = {}
    for name in timm.list_models(module=family, exclude_filters="test_*"):
        try:
            sizes[name] = size(name)
        except (RuntimeError, NotImplementedError):  # its constructor computes with values
            continue
    return min(sizes.items(), key=lambda item: item[1])


def size(name: str) -> int:
    """How many weights a network has; no memory is taken for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


def _case(name: str, threads: int) -> dict[str, Any]:
    """One network, in this process."""
    network, weights = _name_and_size(name)
    return {"name": network, "weights": weights, "threads": threads, **_traced(network, threads)}


def _traced(name: str, threads: int) -> dict[str, Any]:
    """Result, error, counts of units, seconds and memory; only the result and the seconds so far where featviz refuses it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    shape = model.default_cfg["input_size"]
    x = torch.rand(1, *shape)
    seconds: dict[str, float] = {}
    try:
        began = time.perf_counter()
        trial, inputs = private_copy(model, x, torch.float64)
        randomise_constants(trial, torch.Generator().manual_seed(0))
        trace, before = trace_in_float64(trial, inputs)
        seconds["tracing"] = time.perf_counter() - began
        began = time.perf_counter()
        groups = groups_of(trace)
        seconds["solving"] = time.perf_counter() - began
        began = time.perf_counter()
        groups = verified(trial, inputs, groups, before)
        seconds["proof"] = time.perf_counter() - began
        peak = process.peak_resident()
        trial, inputs = private_copy(model, torch.rand(1, *shape), torch.float64)
        randomise_constants(trial, torch.Generator().manual_seed(1))
        before = outputs_of(copy_of(trial), inputs)  # a copy: some networks keep what they compute at their first run
        perms = random_permutations(groups, np.random.default_rng(1))
        error = relative_error(trial, inputs, groups, perms, before=before)
    except (FeatvizError, RuntimeError, TypeError, ValueError, IndexError):
        return {"result": _refusal(model, x), "seconds": seconds}
    refused = [pin.parameter for pin in groups.pinned if "verification" in pin.reason]
    rounding = rounding_error(trial, inputs, before) if error >= 1e-10 else 0.0
    right = error < max(1e-10, 10 * rounding)  # no more than the last digit of the weights changes
    result = "exact" if right and not refused else "refused in part" if right else "WRONG"
    return {
        "input": shape[-1], "result": result, "relative_error": error, "rounding_error": rounding, "free": groups.free_units,
        "in_blocks": sum(group.size for group in groups if group.axes and group.blocks > 1),
        "pinned": pinned_units(model, groups), "refused": refused, "unknown": dict(groups.unknown),
        "seconds": seconds, "peak_mib": peak / 2**20,
    }  # fmt: skip


def _refusal(model: nn.Module, x: Tensor) -> str:
    """What a user is told of a network whose trace fails."""
    try:
        featviz.permutation_groups(model, x)
    except FeatvizError as refusal:
        return f"refused: {refusal}"
    except Exception as error:
        return f"ERROR: {type(error).__name__}: {error}"
    return "WRONG: the parts fail where the whole does not"


def table(records: list[Record]) -> str:
    rows = []
    for family, row in records[0]["families"].items():
        figures = ["", "", "", "", str(row["threads"]), "", "", "", ""]
        if "relative_error" in row:
            counts = [f"{row[key]:,}" for key in ("free", "in_blocks", "pinned")]
            figures = [f"{row['relative_error']:.0e}", *counts, str(row["threads"])]
            figures += [f"{row['seconds'][part]:.1f}" for part in ("tracing", "solving", "proof")]
            figures += [f"{row['peak_mib']:,.0f}"]
        rows.append([family, row["name"], f"{row['weights'] / 1e6:.1f}", row["result"], *figures])
    return markdown(HEAD, rows)
