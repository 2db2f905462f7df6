"""The reproduction table: pairs trained on CIFAR-10, merged by every method, beside what was published.

    uv run python benchmarks/merging.py accuracy --data cifar/ --runs runs/ --keep

A pair is taken from `--runs` (or is the bundled one); where it is missing `merging.py train` trains it first. Every network
leaves `NETWORK.json`, in benchmarks/results with --keep, else in `--runs`; one that has all the methods asked for is not
measured again, so a stopped run goes on. Rows: the parents, then for no alignment and for every method of `--methods` the plain
average and the repaired one (BatchNorm statistics measured afresh; REPAIR where there is no BatchNorm), for activations
"rescale" too. Matching and repair see training images only.

Published: the stored results of REPAIR's authors (Jordan et al. 2022; activation matching, weight 1/2, 100 epochs). What has to
come out alike is the pattern: the permuted average collapses or halves, the repair brings it back to some points below the
parents, fewer for wider networks. The digits depend on the parents, which are trained for a tenth of the time here.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import featviz
from featviz.config.matching_methods import method_named
from featviz.merging.batchnorm import has_batchnorm
from measures import report
from measures.cifar import Batches, add_cifar, sample
from measures.merging.pairs import PAIRS, checkpoints, load_models
from measures.report import Record, markdown

NAME = "accuracy"
RECORDS = tuple(PAIRS)
METHODS = ("weights", "activations", "zipit", "cca")
LABELS = {"weights": "weights", "activations": "activations", "sinkhorn": "Sinkhorn", "zipit": "ZipIt", "cca": "CCA"}
LABELS |= {"ot": "optimal transport", "unaligned": "none"}
HEAD = ("network", "A / B", "matching", "average", "repaired", "gap", "published: average, repaired, gap")


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, None, 10000)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints of `merging.py train`")
    parser.add_argument("--networks", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="of featviz.align")


def measure(args: argparse.Namespace) -> Record:
    """Every network's record is written when it is finished, and read again by the next run."""
    folder = report.RESULTS if args.keep else args.runs
    found = {}
    for network in args.networks:
        file = folder / f"{network}.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        if known.get("tested") != args.tested:
            known = {}  # rows of one table are of the same images
        missing = [method for method in args.methods if method not in known]
        if missing:
            models = load_models(network, checkpoints(network, args.data, args.runs))
            count = PAIRS[network].images
            train, test = (
                sample(args.data, part, size, models[0]) for part, size in ((True, count), (False, args.tested))
            )
            rows, _ = accuracies(models[0], models[1], train, test, missing, known)
            known = rows | {"architecture": network, "images": count, "tested": args.tested} | report.provenance()
            report.write_record(file, known)
        found[network] = known
    return {"networks": found}


def accuracies(
    a: nn.Module, b: nn.Module, train: Batches, test: Batches, methods: list[str], known: dict | None = None
) -> tuple[dict, dict[str, featviz.Alignment]]:
    """Accuracies (percent), losses and seconds, beside those that are `known`; and the new alignments."""
    repair = "batchnorm" if has_batchnorm(a) else "repair"
    found: dict[str, dict] = dict(known or {})

    def tested(model: nn.Module) -> dict[str, float]:
        loss, accuracy = featviz.evaluate(model, tqdm(test, leave=False))
        return {"accuracy": accuracy, "loss": loss}

    if "parents" not in found:
        found["parents"] = {name: tested(model) for name, model in (("a", a), ("b", b))}
    alignments: dict[str, featviz.Alignment] = {}
    for method in [name for name in ("unaligned", *methods) if name not in found]:
        row: dict[str, object] = {}
        alignment = None
        if method != "unaligned":
            began = time.monotonic()
            data = train if method_named(method).needs_data else None
            alignment = alignments[method] = featviz.align(a, b, train.example, method, data)
            row["seconds"] = time.monotonic() - began
            if isinstance(alignment, featviz.PermutationAlignment):
                scores = torch.cat([torch.from_numpy(score) for score in alignment.scores.values()])
                row |= {"mean_score": float(scores.mean()), "objectives": list(alignment.matching.objectives)}
        repairs = {"average": "none", "repaired": repair} | ({"rescale": "rescale"} if method == "activations" else {})
        for name, kind in repairs.items():
            data = None if kind == "none" else train
            row[name] = tested(featviz.merge(a, b, alignment, repair=kind, data=data))
        found[method] = row
        print(method, json.dumps(row))
    return found | {"repair": repair}, alignments


def table(records: list[Record]) -> str:
    """Of every network: no matching, then the methods; the best repaired merge in bold.

    `records` are those of the networks, or one that `measure` returns.
    """
    networks = [found for record in records for found in record.get("networks", {None: record}).values()]
    return markdown(HEAD, [row for found in networks for row in _rows(found)])


def _rows(found: Record) -> list[list[str]]:
    parents = [found["parents"][name]["accuracy"] for name in "ab"]
    present = [method for method in ("unaligned", *METHODS) if method in found]
    best = max(found[method]["repaired"]["accuracy"] for method in present)
    pair = PAIRS[found["architecture"]]
    rows = []
    for method in present:
        average, repaired = (found[method][what]["accuracy"] for what in ("average", "repaired"))
        labels = ["", ""]
        if method == "unaligned":
            images = "" if found["tested"] == 10000 else f", {found['tested']:,} test images"
            labels = [f"{pair.label}{images}", f"{parents[0]:.2f} / {parents[1]:.2f}"]
        published = ""
        if method == "activations":
            top, middle, end = pair.published
            published = f"{middle:.2f}, {end:.2f}, {top - end:.1f}{pair.width}"
        shown = f"**{repaired:.2f}**" if repaired == best else f"{repaired:.2f}"
        gap = sum(parents) / 2 - repaired
        rows.append([*labels, LABELS[method], f"{average:.2f}", shown, f"{gap:.1f}", published])
    return rows
