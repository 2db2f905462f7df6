"""An atlas by one process, by two shards and by two workers of Ray: seconds, and what handing out an item costs.

    python benchmarks/atlas.py workers --keep

The same items of the bundled pair (one thread for each process, float32, eager). The first item of every worker is not
counted: it pays for imports and the worker's start. *Overhead*: what an item takes beyond its rendering in one process, over
that: of one process, writing, and looking up what is there; of Ray with one worker, the way to it and back too.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

import featviz
from featviz.atlases.items import ItemRenderer
from featviz.atlases.plan import Item
from measures.rendering.cases import bundled_subjects
from measures.report import Record, markdown

NAME = "workers"
HEAD = (
    "how",
    "items counted",
    "seconds an item",
    "of it rendering",
    "overhead of an item",
    "faster than one process",
    "equal files",
)


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--units-per-item", type=int, default=8)
    parser.add_argument("--steps", type=int, default=48)


def measure(args: argparse.Namespace) -> Record:
    torch.set_num_threads(1)
    pair, merged = featviz.bundled_pair(), bundled_subjects()["merged"]
    alignment = featviz.load_alignment(pair.alignment_path)
    config = featviz.RenderConfig(size=64, steps=args.steps, precision="float32", backend="eager")
    rows: dict[str, dict] = {}
    expected: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, workers in tqdm(
            {
                "one process": None,
                "Ray, 1 worker": featviz.RayWorkers(workers=1, cpus=1),
                "Ray, 2 workers": featviz.RayWorkers(workers=2, cpus=1),
            }.items()
        ):
            timed = _Timed(workers)
            folder = Path(work) / name.replace(" ", "-")
            featviz.atlas(
                pair.a, pair.b, folder, f"layer3.1.bn1:0-{args.units - 1}", alignment=alignment, merged=merged, config=config,
                units_per_item=args.units_per_item, workers=timed,
            )  # fmt: skip
            files = {path.name: path.read_bytes() for path in folder.glob("items/*/*.safetensors")}
            expected = expected or files
            rows[name] = {
                "items": timed.items, "seconds": timed.seconds, "rendering": timed.rendering, "equal": files == expected
            }  # fmt: skip
    return {"rows": rows}


class _Timed:
    """Workers, from when each has done its first item, to the last item that is written."""

    def __init__(self, workers: featviz.RayWorkers | None) -> None:
        self.workers, self.items, self.seconds, self.rendering = workers, 0, 0.0, 0.0
        self.uncounted = 1 if workers is None or workers.workers is None else workers.workers

    def __call__(self, render: ItemRenderer, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
        def alone() -> Iterator[tuple[Item, bytes]]:
            for item in items:
                began = time.perf_counter()
                data = render(item).to_bytes()
                self.rendering += time.perf_counter() - began
                yield item, data

        began = 0.0
        for number, found in enumerate(alone() if self.workers is None else self.workers(render, items), start=1):
            if number == self.uncounted:
                began, self.rendering = time.perf_counter(), 0.0
            self.items = number - self.uncounted
            yield found
        self.seconds = time.perf_counter() - began


def table(records: list[Record]) -> str:
    rows = records[0]["rows"]
    alone = rows["one process"]
    found = []
    rendering = alone["rendering"] / alone["items"]
    for name, row in rows.items():
        seconds = row["seconds"] / row["items"]
        overhead = "" if name.endswith("2 workers") else f"{100 * (seconds / rendering - 1):.1f} %"
        found.append([
            name, row["items"], f"{seconds:.2f}", f"{rendering:.2f}" if row["rendering"] else "", overhead,
            f"{alone['seconds'] / alone['items'] / seconds:.2f}", "yes" if row["equal"] else "NO",
        ])  # fmt: skip
    return markdown(HEAD, found)
