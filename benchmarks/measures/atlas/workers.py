"""An atlas by one process, by two shards and by two workers of Ray: seconds, and what handing out an item costs.

    python benchmarks/atlas.py workers --keep

The same items of the bundled pair (one thread for each process, float32, eager). *Overhead*: what an item takes beyond its
rendering, over its rendering, in one process: writing, and looking up what is there; by Ray: with one worker, start aside.
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
HEAD = ("how", "items", "seconds", "rendering, s", "overhead of an item", "faster than one process", "equal files")


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
                "items": len(files), "seconds": timed.seconds, "rendering": timed.rendering, "equal": files == expected
            }  # fmt: skip
    return {"rows": rows}


class _Timed:
    """Workers, from the first item that comes back to the last one that is written."""

    def __init__(self, workers: featviz.RayWorkers | None) -> None:
        self.workers, self.seconds, self.rendering = workers, 0.0, 0.0

    def __call__(self, render: ItemRenderer, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
        def alone() -> Iterator[tuple[Item, bytes]]:
            for item in items:
                began = time.perf_counter()
                data = render(item).to_bytes()
                self.rendering += time.perf_counter() - began
                yield item, data

        began = None
        for number, found in enumerate(alone() if self.workers is None else self.workers(render, items)):
            if number == 0:  # a first item pays for imports and the start of workers
                began, self.rendering = time.perf_counter(), 0.0
            yield found
        assert began is not None
        self.seconds = time.perf_counter() - began


def table(records: list[Record]) -> str:
    rows = records[0]["rows"]
    alone = rows["one process"]
    found = []
    for name, row in rows.items():
        rendering = alone["rendering"]
        overhead = "" if name.endswith("2 workers") else f"{100 * (row['seconds'] / rendering - 1):.1f} %"
        found.append([
            name, row["items"], f"{row['seconds']:.1f}", f"{row['rendering']:.1f}" if row["rendering"] else "", overhead,
            f"{alone['seconds'] / row['seconds']:.2f}", "yes" if row["equal"] else "NO",
        ])  # fmt: skip
    return markdown(HEAD, found)
