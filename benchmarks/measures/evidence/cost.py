"""What a pass costs beside the bare forward passes: time and memory of fates with exemplars, all norms, three networks.

    uv run python benchmarks/evidence.py pass --data cifar/ --tested 10000 --keep

The three networks of the bundled pair (A, B', merged) see the test images: bare, in batches of 40, 100 and 250, the fastest of
which counts; then in `featviz.fate`, with and without exemplars. Times are of the process's own processor time, so that other
processes on the machine count little; they are taken in turns, and the median of `--runs` counts. Peak memory is measured for a
tenth of the images and for all.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import featviz
from measures.cifar import add_cifar, sample
from measures.evidence.fates import plain
from measures.rendering.cases import bundled_subjects
from measures.report import Record, markdown

NAME = "pass"
BATCHES = (40, 100, 250)


def add(parser: argparse.ArgumentParser) -> None:
    add_cifar(parser, None, 10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--memory-of", type=int, metavar="N", help="print the peak memory of one pass over N images, in MiB"
    )


def measure(args: argparse.Namespace) -> Record:
    torch.set_num_threads(args.threads)
    if args.memory_of:
        args.tested = args.memory_of
    pair, fed, run = _prepared(args.data, args.tested)
    if args.memory_of:
        run(9)
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    timed: dict[str, Callable[[], object]] = {f"bare, batches of {size}": _bare(pair, fed, size) for size in BATCHES}
    timed |= {"fates": lambda: run(0), "fates and 9 exemplars": lambda: run(9)}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(args.runs):
        for name, call in timed.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    few = args.tested // 10
    peaks = {str(count): _peak(args.data, count, args.threads) for count in (few, args.tested)}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"tested": args.tested, "runs": args.runs, "seconds": medians, "all": seconds, "peak_mib": peaks}


def _prepared(data: Path, count: int):
    pair = featviz.bundled_pair()
    alignment = featviz.load_alignment(pair.alignment_path)
    images = plain(sample(data, False, count, pair.a))
    networks = tuple(bundled_subjects().values())
    fed = (images.images / 255 - torch.tensor(pair.a.mean).view(-1, 1, 1)) / torch.tensor(pair.a.std).view(-1, 1, 1)

    def run(exemplars: int) -> object:
        return featviz.fate(pair.a, pair.b, alignment, networks[2], data=images, controls=False, exemplars=exemplars)

    return networks, fed, run


def _bare(networks, images, size: int) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for x in images.split(size):
                for network in networks:
                    network(x)

    return run


def _peak(data: Path, count: int, threads: int) -> float:
    """Peak memory in MiB of a process that measures `count` images."""
    options = ["--data", str(data), "--memory-of", str(count), "--threads", str(threads)]
    command = [sys.executable, sys.argv[0], NAME, *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split("MiB: ")[1].split()[0])


def table(records: list[Record]) -> str:
    (record,) = records
    if "peak" in record:
        return f"MiB: {record['peak']:.0f}"
    best = min(value for name, value in record["seconds"].items() if name.startswith("bare"))
    rows = [(name, f"{value:.1f}", f"{value / best:.2f}") for name, value in record["seconds"].items()]
    peaks = "; ".join(f"{count} images {peak:.0f} MiB" for count, peak in record["peak_mib"].items())
    text = markdown((f"{record['tested']} images, three networks", "seconds", "of the fastest bare"), rows)
    return f"{text}\n\nPeak memory of the process: {peaks}."
