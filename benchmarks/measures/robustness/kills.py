"""An atlas that is killed again and again: the files are those of one that was left in peace.

    python benchmarks/robustness.py kills --kills 100 --keep

A small atlas of the bundled pair (float32, eager, one thread) is made by processes that are killed (SIGKILL) at random moments,
from their first line on, and started again by the same call; when it is complete a new one is begun. Every complete folder is
compared with that of an uninterrupted run, byte for byte; after every kill all files that are there are read and verified.
*Begun twice* counts items whose rendering was begun again: at most the one in flight at each kill.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

import featviz
from featviz.atlases.items import ItemRenderer
from featviz.atlases.plan import Item
from featviz.errors import AtlasError
from measures.rendering.cases import bundled_subjects
from measures.report import Record, markdown

NAME = "kills"
HEAD = (
    "kills",
    "complete atlases",
    "equal to the byte",
    "items of each",
    "begun twice",
    "files left half written",
    "damaged files",
)
CONFIG = featviz.RenderConfig(size=32, steps=8, precision="float32", backend="eager")
LAYERS = ("layer1.2.bn2:0-7", "layer3.1.bn1:0-15")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")


def measure(args: argparse.Namespace) -> Record:
    torch.set_num_threads(1)
    pair, merged = featviz.bundled_pair(), bundled_subjects()["merged"]
    alignment = featviz.load_alignment(pair.alignment_path)
    random_moment = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as work:
        log = Path(work) / "begun.txt"

        def make(folder: Path) -> None:
            def workers(render: ItemRenderer, items: Iterable[Item]) -> Iterator[tuple[Item, bytes]]:
                for item in items:
                    with log.open("a") as file:
                        file.write(f"{folder.name} {item.key}\n")
                    yield item, render(item).to_bytes()

            featviz.atlas(
                pair.a, pair.b, folder, LAYERS, alignment=alignment, merged=merged, config=CONFIG, units_per_item=4,
                workers=workers,
            )  # fmt: skip

        began = time.perf_counter()
        make(Path(work) / "peace")
        longest = time.perf_counter() - began
        expected = _files(Path(work) / "peace")
        log.unlink()
        kills = complete = equal = damaged = half = 0
        folder = Path(work) / "0"
        with tqdm(total=args.kills) as bar:
            while kills < args.kills:
                child = os.fork()
                if child == 0:
                    with contextlib.suppress(BaseException):
                        make(folder)
                        os._exit(0)
                    os._exit(1)
                time.sleep(random_moment.uniform(0, longest / 2))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                if os.WIFSIGNALED(status):
                    kills += 1
                    bar.update()
                damaged += _damaged(folder)
                half += len(list(folder.glob("**/.*-????????.*")))
                if os.WIFEXITED(status):
                    complete += 1
                    equal += _files(folder) == expected
                    shutil.rmtree(folder)
                    folder = Path(work) / str(complete)
        begun = Counter(log.read_text().splitlines())
        twice = sum(count - 1 for count in begun.values())
    return {
        "kills": kills, "complete": complete, "equal": equal, "items": len(expected), "begun_twice": twice, "half": half,
        "damaged": damaged,
    }  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    """Items by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "items").glob("*/*.safetensors"))}


def _damaged(folder: Path) -> int:
    """How many files under their names cannot be read."""
    try:
        store = featviz.AtlasStore.open(folder)
    except AtlasError:
        return int((folder / "atlas.json").exists())
    found = 0
    for item in store.items():
        try:
            if store.is_done(item):
                store.read(item)
        except AtlasError:
            found += 1
    return found


def table(records: list[Record]) -> str:
    (row,) = records
    keys = ("kills", "complete", "equal", "items", "begun_twice", "half", "damaged")
    return markdown(HEAD, [[row[key] for key in keys]])
